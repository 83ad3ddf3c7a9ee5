"""Whose ARC seals count, and for what: mail that passed DMARC before a trusted forwarder changed it (reliability B10)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mailcore.dns.resolver import StaticResolver
from mailcore.flow.authenticate import Authentication, Authenticator, disposition
from mailcore.mailauth.arc.seal import seal
from mailcore.mailauth.arc.validate import Chain, validate
from mailcore.mailauth.dkim.keys import SigningKey, generate_ed25519
from mailcore.mailauth.dmarc.evaluate import Verdict

NOW = 1_800_000_000
BODY = b"hello\r\n"
LIST, OTHER, EVIL = (
    SigningKey.load("ed", f"{name}.example", generate_ed25519()[0]) for name in ("lists", "other", "evil")
)
PASSED = "dmarc=pass (p=reject) header.from=legit.example"
ZONES = {
    "_dmarc.legit.example": {"TXT": ["v=DMARC1; p=reject"]},
    "evil.example": {"TXT": ["v=spf1 +all"]},
    **{key.record_name: {"TXT": [key.public_txt]} for key in (LIST, OTHER, EVIL)},
}


def head(from_: str = "Ceo <ceo@legit.example>", *more: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"From: {from_}", "Subject: s", *more)).encode()


async def checked(raw: bytes, trusted: Sequence[str]) -> Authentication:
    authenticator = Authenticator(StaticResolver(ZONES), "mx.ours.example", trusted=trusted, clock=lambda: NOW)
    return await authenticator.check(raw, peer_ip="203.0.113.9", helo="h", mail_from="x@evil.example")


async def passed_on(*by: tuple[SigningKey, str], of: bytes | None = None, trusted: Sequence[str]) -> Authentication:
    """What is found of a mail that each of these changed, and then sealed with what it had found."""
    of, body = head() if of is None else of, BODY
    for key, found in by:
        chain = await validate(of, body, StaticResolver(ZONES))
        body += b"-- \r\nsent on by " + key.domain.encode() + b"\r\n"
        of = of.replace(b"Subject: ", b"Subject: [list] ")
        of = seal(of, body, chain, key, server=f"mx.{key.domain}", results=[found], now=NOW) + of
    return await checked(of + b"\r\n" + body, trusted)


async def test_b10_the_word_of_a_sealer_counts_where_he_is_trusted() -> None:
    found = await passed_on((LIST, PASSED), trusted=["Lists.example"])
    told = found.json()
    assert (found.arc.status, found.dmarc.result, found.vouched) == ("pass", Verdict.FAIL, "lists.example")
    assert told["dmarc"]["vouched_by"] == "lists.example"
    assert {disposition(told, policy) for policy in ("tag", "quarantine", "reject")} == {"none"}
    assert "lists.example is trusted" in found.header
    for trusted in ([], ["other.example"], ["sub.lists.example"], ["example"]):
        told = (await passed_on((LIST, PASSED), trusted=trusted)).json()
        assert (told["arc"]["result"], told["dmarc"]["vouched_by"]) == ("pass", None), trusted
        assert disposition(told, "reject") == "reject"


@pytest.mark.parametrize(
    "found",
    [
        "dmarc=fail header.from=legit.example",
        "spf=pass smtp.mailfrom=legit.example",
        "dmarc=pass header.from=evil.example",
        "dmarc=pass header.from=evil.example header.from=legit.example",
        "dmarc=pass",
        "dmarc=fail (dmarc=pass header.from=legit.example)",
        'spf=pass reason="x dmarc=pass" header.from=legit.example',
        "dmarc=pass header.from=legit.example (without an end",
        "dmarc=passed header.from=legit.example",
        "x-dmarc=pass header.from=legit.example",
    ],
)
async def test_b10_a_trusted_sealer_must_have_found_that_it_passed(found: str) -> None:
    told = await passed_on((LIST, found), trusted=["lists.example"])
    assert (told.arc.status, told.vouched) == ("pass", "")
    assert disposition(told.json(), "reject") == "reject"


@pytest.mark.parametrize(
    ("by", "vouched"),
    [
        ([(LIST, PASSED), (OTHER, "arc=pass")], "lists.example"),
        ([(LIST, "arc=none"), (OTHER, "dmarc = pass  header.from = Legit.Example")], "other.example"),
        ([(EVIL, PASSED), (OTHER, "arc=pass")], ""),
        ([(LIST, PASSED), (EVIL, "arc=pass")], ""),
        ([(LIST, PASSED), (EVIL, "arc=pass"), (OTHER, "arc=pass")], ""),
    ],
    ids=["two", "the last", "an untrusted one said so", "an untrusted one had it last", "and in between"],
)
async def test_b10_nobody_untrusted_stands_between(by: list[tuple[SigningKey, str]], vouched: str) -> None:
    found = await passed_on(*by, trusted=["lists.example", "other.example"])
    assert (found.arc.status, found.vouched) == ("pass", vouched)


async def test_b10_no_word_helps_an_author_who_is_two_or_a_chain_that_fails() -> None:
    for of in (head("ceo@legit.example, x@evil.example"), head("x@evil.example", "From: ceo@legit.example")):
        found = await passed_on((LIST, PASSED), of=of, trusted=["lists.example"])
        assert (found.arc.status, found.vouched) == ("pass", "")
    of = head("ceo@legit.example")
    sealed = seal(of, BODY, Chain("none"), LIST, server="mx", results=[PASSED], now=NOW)
    for raw, vouched in ((BODY, "lists.example"), (b"changed\r\n", "")):
        found = await checked(sealed + of + b"\r\n" + raw, ["lists.example"])
        assert (found.vouched, found.arc.status == "pass") == (vouched, bool(vouched))
