"""Mail that says it is from somebody else, one test a row of the attack classes (reliability B1 to B11), and the ordinary cases.

Signatures are real, the DNS is a table.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from mailcore.dns.resolver import Records, StaticResolver
from mailcore.flow.authenticate import (
    REPLAY_PEERS,
    Authentication,
    Authenticator,
    disposition,
    failure,
    outcomes,
)
from mailcore.mailauth.arc.seal import seal
from mailcore.mailauth.arc.validate import Chain, validate
from mailcore.mailauth.dkim.canonical import relaxed_body, relaxed_field
from mailcore.mailauth.dkim.keys import SigningKey, generate_ed25519, generate_rsa
from mailcore.mailauth.dkim.sign import OVERSIGNED, WEEK, raw_signature, sign
from mailcore.mailauth.dkim.tags import parse_tags
from mailcore.mailauth.dmarc.evaluate import Verdict
from mailcore.mailauth.dmarc.record import Policy
from mailcore.mailauth.results import handed_on
from mailcore.mailauth.spf.check import Result

NOW = 1_800_000_000
HERE, ELSEWHERE = "192.0.2.1", "203.0.113.9"
RSA = SigningKey.load("rsa", "legit.example", generate_rsa(1024)[0])
ED = SigningKey.load("ed", "legit.example", generate_ed25519()[0])
EVIL = SigningKey.load("ed", "evil.example", generate_ed25519()[0])
RSA_768 = (
    "MHwwDQYJKoZIhvcNAQEBBQADawAwaAJhANCsHabQgwHbO2DgijIgZ+9g3xULyBp5J2TLR0YYO4Fu/hUbHOuEbXGVUyL2fPlJ/JHdC82d+xa8/b0k0tVRajeI"
    "wLJewAKbAdbCrec9t3cPdaum4so+bIepE+ZJzzzvQQIDAQAB"
)
RSA_512 = (
    "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAMCbRNrMNLPbIZHQSRRLUjIjKHIKpqS++bscVeOIkiciI04XZ+braPZgvFzxHYUppUHZwfm+HLeYUS9CioZrAZECAwEA"
    "AQ=="
)
Zones = dict[str, dict[str, list[str]]]
ZONES: Zones = {
    "legit.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"], "A": ["192.0.2.1"]},
    "_dmarc.legit.example": {"TXT": ["v=DMARC1; p=reject; rua=mailto:r@legit.example"]},
    "evil.example": {"TXT": ["v=spf1 +all"]},
    **{key.record_name: {"TXT": [key.public_txt]} for key in (RSA, ED, EVIL)},
}
BODY = b"hello\r\n"


def head(from_: str = "Ceo <ceo@legit.example>", *more: str) -> bytes:
    lines = [f"From: {from_}", "To: you@ours.example", "Subject: s", "Date: Sat, 21 Nov 2026 06:00:00 +0000", *more]
    return "".join(f"{line}\r\n" for line in lines).encode()


async def check(
    raw: bytes | None = None,
    *,
    zones: Mapping[str, Mapping[str, Sequence[str]]] = ZONES,
    peer_ip: str | None = ELSEWHERE,
    helo: str = "mx.evil.example",
    mail_from: str = "x@evil.example",
    **resolver: Any,
) -> Authentication:
    found = Authenticator(StaticResolver(zones, **resolver), "MX.ours.example", clock=lambda: NOW)
    raw = head() + b"\r\n" + BODY if raw is None else raw
    return await found.check(raw, peer_ip=peer_ip, helo=helo, mail_from=mail_from)


def signed(keys: Sequence[SigningKey] = (ED,), of: bytes | None = None, body: bytes = BODY) -> bytes:
    of = head() if of is None else of
    return sign(of, body, keys, now=NOW) + of + b"\r\n" + body


def crafted(tags: Mapping[str, str], body: bytes = BODY, key: SigningKey = ED) -> bytes:
    """A signature of From alone, with these tags beside the needed ones or in their place."""
    needed = {
        **{"v": "1", "a": key.algorithm, "c": "relaxed/relaxed", "d": key.domain, "s": key.selector, "h": "from"},
        "bh": base64.b64encode(hashlib.sha256(relaxed_body(body)).digest()).decode(),
    }
    field = "DKIM-Signature: " + "; ".join(f"{name}={value}" for name, value in (needed | dict(tags)).items()) + "; b="
    from_ = head().split(b"\r\n")[0]
    digest = hashlib.sha256(relaxed_field(b"from", from_) + b"\r\n" + relaxed_field(b"dkim-signature", field.encode()))
    return field.encode() + base64.b64encode(raw_signature(key, digest.digest())) + b"\r\n"


# ---- the ordinary cases ----------------------------------------------------------------------------------------------


async def test_spf_alone_is_enough() -> None:
    found = await check(peer_ip=HERE, mail_from="bounce@legit.example")
    assert found.spf is not None
    assert (found.spf.result, found.dmarc.result, found.dmarc.aligned) == (Result.PASS, Verdict.PASS, ("spf",))
    assert found.header == (
        "Authentication-Results: mx.ours.example;\r\n\tspf=pass smtp.mailfrom=bounce@legit.example;\r\n\tdkim=none;\r\n"
        "\tdmarc=pass header.from=legit.example policy.dmarc=reject\r\n"
    )
    assert disposition(found.json(), "reject") == "none"


async def test_a_signature_alone_is_enough() -> None:
    found = await check(signed([RSA, ED]))
    assert [each.status for each in found.dkim] == ["pass", "pass"]
    assert (found.dmarc.result, found.dmarc.aligned) == (Verdict.PASS, ("dkim",))
    told = found.json()
    assert outcomes(told) == {"spf": "pass", "dkim": "pass", "dmarc": "pass", "arc": "none"}
    assert told["dkim"][0] == {
        "result": "pass",
        "domain": "legit.example",
        "selector": "rsa",
        "algorithm": "rsa-sha256",
        "reason": "",
    }


async def test_what_proves_somebody_else_proves_nothing() -> None:
    found = await check(signed([EVIL]))
    assert found.spf is not None
    assert (found.spf.result, found.dkim[0].status) == (Result.PASS, "pass")
    assert (found.dmarc.result, found.dmarc.policy) == (Verdict.FAIL, Policy.REJECT)
    told = found.json()
    assert [disposition(told, policy) for policy in ("tag", "quarantine", "reject")] == ["none", "quarantine", "reject"]
    assert failure(told) == "DMARC fails: the mail is not proven to be from legit.example, whose policy is reject."


async def test_a_mail_without_return_path_is_judged_by_its_helo() -> None:
    zones = ZONES | {"mx.legit.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]}}
    found = await check(zones=zones, peer_ip=HERE, helo="mx.legit.example", mail_from="")
    assert found.spf is not None
    assert (found.spf.identity, found.dmarc.result) == ("helo", Verdict.PASS)
    assert "smtp.helo=mx.legit.example" in found.header


async def test_mail_that_nobody_handed_over_by_smtp_has_no_spf() -> None:
    found = await check(signed(), peer_ip=None)
    assert (found.spf, found.dmarc.result, "spf" in found.header) == (None, Verdict.PASS, False)


async def test_what_spf_could_not_be_asked_about_does_not_fail() -> None:
    """A webhook's mail: its author's server may have been proven at the border, by an address that we are not told."""
    found = await check(peer_ip=None)
    assert (found.dmarc.result, found.dmarc.policy_domain) == (Verdict.NONE, "legit.example")
    assert disposition(found.json(), "reject") == "none"
    assert (await check(head("a@legit.example, b@evil.example") + b"\r\n", peer_ip=None)).dmarc.result is Verdict.NONE
    assert (
        await check(head("a@legit.example", "From: b@c.example") + b"\r\n", peer_ip=None)
    ).dmarc.result is Verdict.FAIL


async def test_bare_line_feeds_of_other_doors_are_line_ends() -> None:
    assert (await check(signed().replace(b"\r\n", b"\n"))).dmarc.result is Verdict.PASS


async def test_the_dns_is_asked_in_vain() -> None:
    for name in ("_dmarc.legit.example", ED.record_name):
        found = await check(signed(), failing=[name])
        assert found.dmarc.result is Verdict.TEMPERROR, name
        assert disposition(found.json(), "reject") == "none"
    # it may be of the same organization, which begins where nobody can ask just now
    zones = ZONES | {"_dmarc.sub.legit.example": {"TXT": ["v=DMARC1; p=reject"]}}
    for keys, verdict in (([ED], Verdict.TEMPERROR), ([EVIL], Verdict.FAIL)):
        of = head("a@sub.legit.example")
        found = await check(signed(keys, of=of), zones=zones, failing=["_dmarc.legit.example"])
        assert found.dmarc.result is verdict
    # what fails of a stranger's own DNS does not help him
    assert (await check(failing=["evil.example", EVIL.record_name], raw=signed([EVIL]))).dmarc.result is Verdict.FAIL


@pytest.mark.parametrize(
    ("record", "from_", "policy"),
    [
        ("p=reject", "a@legit.example", ("p=reject", Policy.REJECT)),
        ("p=reject; t=y", "a@legit.example", ("p=reject", Policy.QUARANTINE)),
        ("p=quarantine; t=y", "a@legit.example", ("p=quarantine", Policy.NONE)),
        ("p=reject; sp=quarantine; np=none", "a@there.legit.example", ("sp=quarantine", Policy.QUARANTINE)),
        ("p=none; sp=quarantine; np=reject", "a@gone.legit.example", ("np=reject", Policy.REJECT)),
        ("p=none; sp=quarantine", "a@gone.legit.example", ("sp=quarantine", Policy.QUARANTINE)),
        ("p=reject; np=none", "a@there.legit.example", ("p=reject", Policy.REJECT)),
        ("p=reject; pct=0", "a@legit.example", ("p=reject", Policy.QUARANTINE)),
    ],
)
async def test_b9_the_policy_that_counts(record: str, from_: str, policy: tuple[str, Policy]) -> None:
    zones = ZONES | {"_dmarc.legit.example": {"TXT": [f"v=DMARC1; {record}"]}, "there.legit.example": {"MX": ["1 x."]}}
    found = await check(head(from_) + b"\r\n" + BODY, zones=zones)
    assert (found.json()["dmarc"]["published"], found.dmarc.policy) == policy
    assert (found.dmarc.result, found.dmarc.policy_domain) == (Verdict.FAIL, "legit.example")


async def test_b9_alignment_is_strict_where_the_record_says_so() -> None:
    zones = ZONES | {"bounce.legit.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]}}
    for record, verdict in (("p=reject", Verdict.PASS), ("p=reject; aspf=s", Verdict.FAIL)):
        zones["_dmarc.legit.example"] = {"TXT": [f"v=DMARC1; {record}"]}
        found = await check(zones=zones, peer_ip=HERE, mail_from="x@bounce.legit.example")
        assert found.dmarc.result is verdict
    of = head("a@sub.legit.example")
    for record, verdict in (("p=reject", Verdict.PASS), ("p=reject; adkim=s", Verdict.FAIL)):
        zones["_dmarc.legit.example"] = {"TXT": [f"v=DMARC1; {record}"]}
        assert (await check(signed(of=of), zones=zones)).dmarc.result is verdict


async def test_b9_neighbours_below_a_public_suffix_are_strangers() -> None:
    zones = ZONES | {
        "_dmarc.shops.example": {"TXT": ["v=DMARC1; p=none; psd=y"]},
        "_dmarc.one.shops.example": {"TXT": ["v=DMARC1; p=reject"]},
        "two.shops.example": {"TXT": ["v=spf1 +all"]},
    }
    found = await check(head("a@one.shops.example") + b"\r\n", zones=zones, mail_from="x@two.shops.example")
    assert (found.dmarc.result, found.dmarc.policy) == (Verdict.FAIL, Policy.REJECT)


async def test_a_few_of_many_are_sampled_and_always_the_same() -> None:
    zones = ZONES | {"_dmarc.legit.example": {"TXT": ["v=DMARC1; p=reject; pct=30"]}}
    mails = [head("a@legit.example", f"X: {n}") + b"\r\n" for n in range(300)]
    first = [(await check(raw, zones=zones)).dmarc.policy for raw in mails]
    assert first == [(await check(raw, zones=zones)).dmarc.policy for raw in mails]
    assert 50 < first.count(Policy.REJECT) < 130
    assert set(first) == {Policy.REJECT, Policy.QUARANTINE}


# ---- B: authentication of mail ---------------------------------------------------------------------------------------


async def test_b1_a_signature_of_a_part_of_the_body_proves_nothing() -> None:
    raw = crafted({"l": str(len(BODY))}) + head() + b"\r\n" + BODY
    assert (await check(raw)).dmarc.result is Verdict.PASS, "all of the body is covered"
    found = await check(raw + b"<h1>appended</h1>\r\n")
    assert (found.dkim[0].status, found.dmarc.result) == ("policy", Verdict.FAIL)
    assert "dkim=policy" in found.header
    assert b"l" not in parse_tags(sign(head(), BODY, [ED], now=NOW).partition(b":")[2])


@pytest.mark.parametrize("name", [name.decode() for name in OVERSIGNED])
async def test_b2_a_field_that_is_added_breaks_our_signature(name: str) -> None:
    raw = signed(of=head("Ceo <ceo@legit.example>", "Message-ID: <1@legit.example>"))
    assert (await check(raw)).dkim[0].status == "pass"
    found = await check(f"{name}: added\r\n".encode() + raw)
    assert (found.dkim[0].status, found.dmarc.result) == ("fail", Verdict.FAIL)


async def test_b3_a_signature_that_is_passed_around_is_told() -> None:
    authenticator = Authenticator(StaticResolver(ZONES), "mx.ours.example", clock=lambda: NOW)
    told = [
        (await authenticator.check(signed(), peer_ip=f"203.0.113.{n}", helo="h", mail_from="x@evil.example")).replayed
        for n in range(REPLAY_PEERS + 2)
    ]
    assert told == [False] * REPLAY_PEERS + [True, True]
    other = await authenticator.check(signed([RSA]), peer_ip="203.0.113.250", helo="h", mail_from="x@evil.example")
    assert not other.replayed
    tags = parse_tags(sign(head(), BODY, [ED], now=NOW).partition(b":")[2])
    assert int(tags[b"x"]) - int(tags[b"t"]) == WEEK == 7 * 86_400


async def test_b4_five_signatures_are_looked_at_and_no_more() -> None:
    found = await check(crafted({}) * 100 + head() + b"\r\n" + BODY)
    assert len(found.dkim) == 5


class Slow(StaticResolver):
    """Never answers about names of one domain."""

    async def txt(self, name: str) -> Records[str]:
        if name.endswith("slow.example"):
            await asyncio.Event().wait()
        return await super().txt(name)


async def test_b4_who_answers_slowly_uses_up_his_own_time_only() -> None:
    many = b"".join(crafted({"d": "slow.example", "s": f"s{n}"}) for n in range(100))
    authenticator = Authenticator(Slow(ZONES), "mx.ours.example", seconds=0.4, clock=lambda: NOW)
    async with asyncio.timeout(20):
        found = await authenticator.check(
            many + head() + b"\r\n" + BODY, peer_ip=ELSEWHERE, helo="h", mail_from="x@slow.example"
        )
    assert found.spf is not None
    assert (found.spf.result, {each.status for each in found.dkim}) == (Result.TEMPERROR, {"temperror"})
    assert (found.dmarc.result, found.dmarc.policy) == (Verdict.FAIL, Policy.REJECT), "the forged domain had its say"


async def test_b4_blanks_by_the_megabyte() -> None:
    body = (b" " * 1_000_000 + b"x\r\n") + b"a \t " * 250_000 + b"\r\n"
    assert (await check(signed(body=body))).dkim[0].status == "pass"


@pytest.mark.parametrize(
    ("record", "status"),
    [
        ([RSA.public_txt], "pass"),
        ([RSA.public_txt.replace("v=DMARC1", ""), "v=DKIM1; k=rsa; p="], "pass"),
        (["v=DKIM1; t=y; " + RSA.public_txt.partition("; ")[2]], "pass"),
        (["v=DKIM1; k=rsa; p="], "permerror"),
        ([f"v=DKIM1; k=rsa; p={RSA_768}"], "permerror"),
        ([f"v=DKIM1; k=rsa; p={RSA_512}"], "permerror"),
        (["v=DKIM1; k=rsa; p=" + "A" * 4_096], "permerror"),
        ([], "permerror"),
    ],
    ids=["1024 bits", "two records", "testing", "revoked", "768 bits", "512 bits", "4 kB", "none"],
)
async def test_b5_keys(record: list[str], status: str) -> None:
    zones = ZONES | {RSA.record_name: {"TXT": record}}
    assert (await check(signed([RSA]), zones=zones)).dkim[0].status == status


async def test_b5_sha1_is_of_the_past() -> None:
    found = await check(crafted({"a": "rsa-sha1"}, key=RSA) + head() + b"\r\n" + BODY)
    assert (found.dkim[0].status, found.dmarc.result) == ("fail", Verdict.FAIL)


# evil.example is proven in each; legit.example is whom somebody may see
SPOOFED: dict[str, bytes] = {
    "another envelope": head(),
    "a subdomain that does not exist": head("ceo@nope.legit.example"),
    "two From fields, ours first": head("x@evil.example", "From: ceo@legit.example"),
    "two From fields, theirs first": head("ceo@legit.example", "From: x@evil.example"),
    "a blank before the colon": b"From : ceo@legit.example\r\n" + head("x@evil.example"),
    "a tab before the colon": head("x@evil.example", "From\t: ceo@legit.example"),
    "a folded name": b"From\r\n : ceo@legit.example\r\n" + head("x@evil.example"),
    "a leading blank": b" From: ceo@legit.example\r\n" + head("x@evil.example"),
    "a field within a fold": head("x@evil.example,\r\n ceo@legit.example"),
    "two addresses, theirs first": head("ceo@legit.example, x@evil.example"),
    "two addresses, ours first": head("x@evil.example, ceo@legit.example"),
    "two addresses without a comma": head("<ceo@legit.example><x@evil.example>"),
    "an encoded address": head("=?utf-8?b?Y2VvQGxlZ2l0LmV4YW1wbGU=?=, <x@evil.example>"),
    "an encoded address alone": head("=?utf-8?q?=3Cceo=40legit.example=3E?="),
    "a source route": head("<@evil.example:ceo@legit.example>"),
    "a source route the other way": head("<@legit.example,@other.example:x@evil.example>"),
    "a quoted pair": head("<ceo@legit.example>\\,<x@evil.example>"),
    "an address as a name": head("ceo@legit.example <x@evil.example>"),
    "an address behind": head("<x@evil.example> ceo@legit.example"),
    "a comment between": head("ceo@legit.example(<x@evil.example>)"),
    "a comment that does not end": head("x@evil.example (ceo@legit.example"),
    "a quote that does not end": head('"x@evil.example <ceo@legit.example>'),
    "a group": head("team: ceo@legit.example;, x@evil.example"),
    "a NUL in the domain": head("ceo@legit.example\0.evil.example"),
    "a blank in the domain": head("ceo@legit.example .evil.example"),
    "a Sender that is proven": head("ceo@legit.example", "Sender: x@evil.example"),
    "a Resent-From that is proven": head("ceo@legit.example", "Resent-From: x@evil.example"),
    "an empty From": head(""),
    "no From": b"To: you@ours.example\r\nX-From: ceo@legit.example\r\n",
}


@pytest.mark.parametrize("name", SPOOFED)
async def test_b6_a_spoofed_author_never_passes(name: str) -> None:
    zones = ZONES | {"_dmarc.evil.example": {"TXT": ["v=DMARC1; p=none"]}}
    found = await check(SPOOFED[name] + b"\r\n" + BODY, zones=zones)
    assert (found.dmarc.result, found.dmarc.policy) == (Verdict.FAIL, Policy.REJECT), found.json()["dmarc"]
    assert disposition(found.json(), "reject") == "reject"


HONEST = {
    "plain": "x@evil.example",
    "a name": "X <x@evil.example>",
    "an address in quotes as a name": '"ceo@legit.example" <x@evil.example>',
    "an encoded name": "=?utf-8?q?Chef=C3=A4?= <x@evil.example>",
    "an encoded address as a name": "=?utf-8?q?ceo=40legit.example?= <x@evil.example>",
    "a quoted local part": '"a@legit.example"@evil.example',
    "a comment": "x@evil.example (the ceo@legit.example)",
    "a raw name": "Chefä <x@evil.example>",
    "two of one domain": "x@evil.example, y@evil.example",
    "folded": "X\r\n <x@evil.example>",
}


@pytest.mark.parametrize("name", HONEST)
async def test_b6_an_honest_author_does(name: str) -> None:
    zones = ZONES | {"_dmarc.evil.example": {"TXT": ["v=DMARC1; p=reject"]}}
    found = await check(head(HONEST[name]) + b"\r\n" + BODY, zones=zones)
    assert (found.dmarc.result, found.dmarc.domain) == (Verdict.PASS, "evil.example"), found.json()["dmarc"]


@pytest.mark.parametrize(
    ("mail_from", "tags"),
    [
        ("x@legit.example'@evil.example", {}),
        ("x@legit.example(.evil.example", {}),
        ("(x@legit.example", {}),
        ("'x@legit.example'", {}),
        ("x@evil.example", {"d": "legit.example'a.evil.example"}),
        ("x@evil.example", {"d": "legit.example(.evil.example"}),
        ("x@evil.example", {"d": "legit.example", "s": "ed._domainkey.evil.example.\x00.any"}),
    ],
)
async def test_b7_odd_domains_are_shown_as_nothing_else(mail_from: str, tags: dict[str, str]) -> None:
    zones = ZONES | {"legit.example'a.evil.example": {"TXT": ["v=spf1 +all"]}}
    raw = (crafted(tags, key=EVIL) if tags else b"") + head() + b"\r\n" + BODY
    found = await check(raw, zones=zones, mail_from=mail_from)
    assert found.dmarc.result is Verdict.FAIL
    bare = found.header.replace("header.from=legit.example", "").replace("reason=", "")
    assert "pass header.d=legit" not in bare
    assert "pass smtp.mailfrom=x@legit" not in bare
    assert "(" not in bare


async def test_b7_a_forged_field_of_ours_is_not_handed_on() -> None:
    raw = b"Authentication-Results: mx.ours.example; dmarc=pass header.from=legit.example\r\n" + head() + b"\r\n" + BODY
    found = await check(raw)
    given = handed_on(raw, found.header, found.server)
    assert given.count(b"Authentication-Results") == 1
    assert given.startswith(b"Authentication-Results: mx.ours.example;\r\n\tspf=pass smtp.mailfrom=x@evil.example")
    assert given.endswith(head() + b"\r\n" + BODY)


@pytest.mark.parametrize(
    ("record", "more"),
    [
        (" ".join(f"a:h{n}.evil.example" for n in range(11)), {f"h{n}.evil.example": {"A": [HERE]} for n in range(11)}),
        ("a:a.nope.example a:b.nope.example a:c.nope.example", {}),
        ("mx", {"evil.example": {"MX": [f"1 m{n}.evil.example." for n in range(11)]}}),
    ],
    ids=["eleven lookups", "three void ones", "eleven mail hosts"],
)
async def test_b8_spf_has_limits(record: str, more: Zones) -> None:
    spf = {"TXT": [f"v=spf1 {record} +all"]}
    zones = ZONES | more | {"evil.example": spf | more.get("evil.example", {})}
    found = await check(zones=zones)
    assert found.spf is not None
    assert found.spf.result is Result.PERMERROR


async def test_b8_macros_with_long_labels_end_in_names() -> None:
    zones = ZONES | {"evil.example": {"TXT": ["v=spf1 exists:%{l}.%{l}.%{l}.%{l}.%{d} -all"]}}
    found = await check(zones=zones, mail_from=f"{'a' * 64}@evil.example")
    assert found.spf is not None
    assert found.spf.result is Result.FAIL


async def test_b10_what_we_found_can_be_sealed() -> None:
    """Our set says what the header field says; whoever validates it later finds it whole (suite: tests/conformance)."""
    of = head()
    found = await check(signed(of=of))
    sealed = seal(
        of, BODY, Chain("none"), ED, server=found.server, results=[str(item) for item in found.items], now=NOW
    )
    assert b"dmarc=pass header.from=legit.example" in sealed
    chain = await validate(sealed + of, BODY, StaticResolver(ZONES))
    assert (chain.status, chain.sets[0].seal.domain) == ("pass", "legit.example")
    again = await check(sealed + of + b"\r\n" + BODY)
    assert again.json()["arc"]["sealers"] == ["legit.example"]
    assert again.dmarc.result is Verdict.FAIL, "a chain is somebody's word, and whose word counts is not ours to say"
    assert (await check((sealed + of).replace(b"Subject: s", b"Subject: t") + b"\r\n" + BODY)).arc.status == "fail"


@pytest.mark.parametrize("from_", ["а@аррӏе.example", "a@XN--80AK6AA92E.example", "a@аррӏе。example"])
async def test_b11_a_domain_that_looks_like_another_is_shown_as_it_is(from_: str) -> None:
    found = await check(head(f"Apple <{from_}>") + b"\r\n" + BODY)
    assert found.dmarc.domain == "xn--80ak6aa92e.example"
    assert "header.from=xn--80ak6aa92e.example" in found.header


# ---- anything at all -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n",
        b"\0",
        b"From: a@b.c",
        b"\r\n\r\nx",
        b"a\nb\r\nc",
        b"From: a@b.c\r\n" * 5_000,
        b"X: " + b"y" * 2_000_000,
    ],
    ids=["empty", "no header", "NUL", "no end", "no header at all", "no lines", "many", "long"],
)
async def test_no_mail_is_too_broken(raw: bytes) -> None:
    found = await check(raw, helo="[203.0.113.9]", mail_from="@@")
    assert found.json()["header"].startswith("Authentication-Results: ")
    assert found.dmarc.result in (Verdict.FAIL, Verdict.NONE)
