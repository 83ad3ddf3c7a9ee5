"""Chains sealed by us, as they travel and as they are tampered with."""

from __future__ import annotations

import time

import dkim
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.dns.resolver import StaticResolver
from mailcore.kit.errors import Invalid, Unavailable
from mailcore.mailauth.arc.chain import MAX_SETS
from mailcore.mailauth.arc.seal import seal
from mailcore.mailauth.arc.validate import Chain, validate
from mailcore.mailauth.dkim.keys import SigningKey, generate_ed25519, generate_rsa
from mailcore.mailauth.dkim.sign import OVERSIGNED, sign

NOW = int(time.time())
BODY = b"Hi  there \r\n\r\n"
KEYS = [SigningKey.load(f"s{n}", f"hop{n}.example", generate_rsa(1024)[0]) for n in range(2)]
ED = SigningKey.load("ed", "hop2.example", generate_ed25519()[0])
ZONES = {key.record_name: {"TXT": [key.public_txt]} for key in (*KEYS, ED)}
RESULTS = ["spf=pass smtp.mailfrom=a@example.com", "dkim=pass header.d=example.com header.b=abcd1234"]
HEAD = (
    sign(
        b"From: a@example.com\r\nSubject: x\r\n",
        BODY,
        [SigningKey.load("s", "example.com", generate_ed25519()[0])],
        now=NOW,
    )
    + b"From: a@example.com\r\nSubject: x\r\n"
)


async def chain(head: bytes, body: bytes = BODY, **resolver: list[str]) -> Chain:
    return await validate(head, body, StaticResolver(ZONES, **resolver))


def sealed(head: bytes, before: Chain, key: SigningKey = KEYS[0], body: bytes = BODY) -> bytes:
    return seal(head, body, before, key, server=f"mx.{key.domain}", results=RESULTS, now=NOW) + head


async def test_a_chain_grows_and_holds() -> None:
    head = HEAD
    found = await chain(head)
    assert (found.status, found.highest, found.sets) == ("none", 0, ())
    for number, key in enumerate((*KEYS, ED), 1):
        head = b"Received: by %b\r\n" % key.domain.encode() + sealed(head, found, key)
        found = await chain(head)
        assert (found.status, found.highest, found.reason) == ("pass", number, "")
        assert [each.seal.domain for each in found.sets] == [f"hop{n}.example" for n in range(number)]
    assert max(map(len, head.split(b"\r\n"))) <= 78


async def test_dkimpy_accepts_it() -> None:
    head = sealed(HEAD, Chain("none"))
    head = sealed(head, await chain(head), KEYS[1])
    records = {f"{key.record_name}.".encode(): key.public_txt.encode() for key in KEYS}
    status, sets, reason = dkim.arc_verify(head + b"\r\n" + BODY, dnsfunc=lambda name, timeout=5: records.get(name))
    assert (status, len(sets)) == (b"pass", 2), reason


async def test_who_changes_the_message_after_the_last_seal_breaks_the_chain() -> None:
    head = sealed(HEAD, Chain("none"))
    assert (await chain(head, BODY + b"more\r\n")).status == "fail"
    assert (await chain(head.replace(b"Subject: x", b"Subject: y"))).status == "fail"
    for name in OVERSIGNED:
        assert (await chain(name + b": added\r\n" + head)).status == "fail", name
    # and who changes it before sealing it anew does not: that is what forwarders do
    changed = head.replace(b"Subject: x", b"Subject: [list] x")
    found = await chain(head)
    again = seal(changed, BODY + b"footer\r\n", found, KEYS[1], server="mx.hop1.example", results=RESULTS, now=NOW)
    assert (await chain(again + changed, BODY + b"footer\r\n")).status == "pass"


async def test_what_an_earlier_forwarder_found_cannot_be_rewritten() -> None:
    head = sealed(HEAD, Chain("none"))
    head = sealed(head, await chain(head), KEYS[1])
    lied = head.replace(b"i=1; mx.hop0.example;\r\n spf=pass", b"i=1; mx.hop0.example;\r\n spf=fail")
    assert lied != head
    found = await chain(lied)
    assert (found.status, found.temporary) == ("fail", False)
    assert "set 1" in found.reason


async def test_a_broken_chain_ends() -> None:
    head = sealed(HEAD, Chain("none")).replace(b"Subject: x", b"Subject: y")
    found = await chain(head)
    assert (found.status, found.ended) == ("fail", False)
    head = sealed(head, found, KEYS[1])
    found = await chain(head)
    assert (found.status, found.ended, found.highest) == ("fail", True, 2)
    assert seal(head, BODY, found, KEYS[0], server="mx.hop0.example", results=RESULTS, now=NOW) == b""


async def test_a_dns_that_does_not_answer_breaks_it_only_for_now() -> None:
    head = sealed(HEAD, Chain("none"))
    found = await chain(head, failing=[KEYS[0].record_name])
    assert (found.status, found.temporary) == ("fail", True)
    with pytest.raises(Unavailable):
        sealed(head, found, KEYS[1])
    found = await validate(head, BODY, StaticResolver({}))
    assert (found.status, found.temporary) == ("fail", False)


async def test_fifty_sets_and_no_more() -> None:
    head, found = HEAD, Chain("none")
    for _ in range(MAX_SETS):
        head = sealed(head, found)
        found = await chain(head)
    assert (found.status, found.highest) == ("pass", MAX_SETS)
    resolver = StaticResolver(ZONES)
    await validate(head, BODY, resolver)
    assert len(resolver.asked) == 1, "one key, asked for once"
    assert seal(head, BODY, found, KEYS[0], server="mx.hop0.example", results=RESULTS, now=NOW) == b""
    more = head + b"ARC-Authentication-Results: i=51; x\r\n"
    assert (await chain(more)).status == "fail"


async def test_fields_beyond_number_are_not_read() -> None:
    found = await chain(b"ARC-Seal: i=1; a=b\r\n" * 100_000 + HEAD)
    assert (found.status, found.highest) == ("fail", MAX_SETS)
    assert "more than 50" in found.reason
    assert seal(HEAD, BODY, found, KEYS[0], server="mx.hop0.example", results=RESULTS, now=NOW) == b""


@pytest.mark.parametrize(
    "result",
    ["spf=pass\r\nSubject: evil", "spf=pass; dkim=pass", "", " spf=pass", "spf=pass\x00", "spf=päss", "a" * 900, "x\n"],
)
def test_results_stay_in_their_field(result: str) -> None:
    with pytest.raises(Invalid):
        seal(HEAD, BODY, Chain("none"), KEYS[0], server="mx.hop0.example", results=[result], now=NOW)


def test_a_server_is_a_domain_name_and_no_result_is_said_so() -> None:
    with pytest.raises(Invalid):
        seal(HEAD, BODY, Chain("none"), KEYS[0], server="mx; spf=pass", results=[], now=NOW)
    assert b"i=1; mx.hop0.example;\r\n none\r\n" in seal(
        HEAD, BODY, Chain("none"), KEYS[0], server="mx.hop0.example", results=[], now=NOW
    )


FIELDS = st.sampled_from(["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results", "arc-seal ", "From"])
VALUES = st.text(alphabet="iabhcvds=;: 019éx", max_size=30) | st.sampled_from(
    [
        "i=1; a=rsa-sha256; cv=none; d=a.b; s=s; b=aGk=",
        "i=1; a=rsa-sha256; d=a.b; s=s; b=aGk=; bh=aGk=; h=from",
        "i=1; x",
    ]
)


@given(st.lists(st.tuples(FIELDS, VALUES), max_size=8))
async def test_any_chain_has_a_result(fields: list[tuple[str, str]]) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in fields).encode()
    found = await chain(head)
    assert found.status == ("fail" if "arc" in head.decode().lower() else "none")
    if found.status == "fail":
        assert found.reason
