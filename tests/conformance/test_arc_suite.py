"""Valimail's ARC suite (RFC 8617): every chain of its validation half, and its signing half sealed by us.

What we judge otherwise than the suite stands in OTHERWISE with the reason.
"""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import sha256
from typing import Any

import dkim
import pytest
import yaml

import suites
from mailcore.dns.resolver import StaticResolver
from mailcore.mailauth.arc.chain import KINDS, read_seal
from mailcore.mailauth.arc.seal import seal
from mailcore.mailauth.arc.validate import Chain, seal_digest, validate
from mailcore.mailauth.dkim.canonical import by_name, split_fields
from mailcore.mailauth.dkim.keys import SigningKey
from mailcore.mailauth.dkim.record import find_keys
from mailcore.mailauth.dkim.signature import Bodies, parse
from mailcore.mailauth.dkim.tags import parse_tags
from mailcore.mailauth.dkim.verify import check

SUITE = "arc-valimail"
OTHERWISE = {
    "ams_fields_a_sha1": "rsa-sha1 is no longer accepted (RFC 8301 §3.1)",
    "as_fields_a_sha1": "rsa-sha1 is no longer accepted (RFC 8301 §3.1)",
}


def _cases(name: str) -> list[Any]:
    if not suites.available(SUITE):
        return [pytest.param({}, {}, marks=pytest.mark.skip(f"suite {SUITE} is not beside the checkout"), id="absent")]
    found = []
    for scenario in yaml.safe_load_all((suites.suite(SUITE) / f"arc-draft-{name}-tests.yml").read_text()):
        for id_, case in scenario["tests"].items():
            found.append(pytest.param(scenario, {"id": id_, **case}, id=id_))
    return found


def _resolver(scenario: dict[str, Any]) -> StaticResolver:
    records = scenario["txt-records"]
    return StaticResolver({name: {"TXT": ["".join(text.split("\n"))]} for name, text in records.items()})


def _split(text: str) -> tuple[bytes, bytes]:
    head, _, body = ("\r\n" + text.replace("\n", "\r\n")).partition("\r\n\r\n")
    head = head.removeprefix("\r\n")
    return (head.removesuffix("\r\n") + "\r\n").encode() if head else b"", body.encode()


@pytest.mark.parametrize(("scenario", "case"), _cases("validation"))
async def test_b10_chains(scenario: dict[str, Any], case: dict[str, Any]) -> None:
    head, body = _split(case["message"])
    chain = await validate(head, body, _resolver(scenario))
    # no result is given where a seal says cv=fail: RFC 8617 §5.2 step 2 calls the chain failed
    wanted = (case["cv"] or "fail").lower()
    if case["id"] in OTHERWISE:
        assert (chain.status, wanted) == ("fail", "pass"), chain.reason
        assert "rsa-sha1" in chain.reason or "unknown algorithm" in chain.reason
        return
    assert chain.status == wanted, chain.reason


@pytest.mark.parametrize(("scenario", "case"), _cases("sign"))
async def test_b10_seals(scenario: dict[str, Any], case: dict[str, Any]) -> None:
    """Our set says what the suite's says, and holds."""
    head, body = _split(case["message"])
    resolver = _resolver(scenario)
    # earlier seals of these mails do not verify (nor do they for dkimpy): the suite takes Authentication-Results at its word
    before = await validate(head, body, resolver)
    said = re.search(r"^Authentication-Results:[^;]*; arc=(\w+)", case["message"], re.M)
    if said:
        before = replace(before, status=said[1])
    key = SigningKey.load(scenario["sel"], scenario["domain"], scenario["privatekey"].encode())
    found = _results(case["message"], case["srv-id"])
    ours = seal(head, body, before, key, server=case["srv-id"], results=found, now=int(case["t"]))
    if not case["AS"]:
        assert ours == b"" and before.ended
        return
    fields = dict(re.findall(rb"(ARC-[A-Za-z-]+):((?:[^\r]|\r\n[ \t])*)\r\n", ours))
    for name, wanted in (("ARC-Seal", case["AS"]), ("ARC-Message-Signature", case["AMS"])):
        tags, theirs = parse_tags(fields[name.encode()]), parse_tags(wanted.encode())
        for tag in theirs.keys() - {b"b", b"h"}:
            assert tags[tag] == theirs[tag], (name, tag)
    line = fields[b"ARC-Authentication-Results"].decode().partition(";")
    assert line[0].strip() == case["AAR"].partition(";")[0].strip()
    assert _words(line[2]) == _words(case["AAR"].partition(";")[2])
    # of the suite's seals the very octets of the results that they cover are not given; its message signatures can be checked
    theirs_too = b"ARC-Message-Signature: " + case["AMS"].strip().replace("\n", "\r\n ").encode()
    signature = parse(b"arc-message-signature", theirs_too)
    keys = (await find_keys([signature.key_name], resolver))[signature.key_name]
    assert isinstance(keys, tuple)
    assert check(signature, by_name(split_fields(head)), Bodies(body), keys) in keys
    assert await _verifies(ours, before, resolver)
    after = await validate(ours + head, body, resolver)
    assert after.highest == before.highest + 1
    assert after.ended == (before.status == "fail")
    if before.highest == 0:
        assert after.status == "pass", after.reason
        records = {
            f"{name}.".encode(): "".join(text.split("\n")).encode() for name, text in scenario["txt-records"].items()
        }
        status, _, reason = dkim.arc_verify(
            ours + head + b"\r\n" + body, dnsfunc=lambda name, timeout=5: records.get(name)
        )
        assert status == b"pass", reason


async def _verifies(sealed: bytes, before: Chain, resolver: StaticResolver) -> bool:
    """Whether the seal is one of all sets; of its own alone where it ends a broken chain."""
    fields = dict(split_fields(sealed))
    results, message, raw = (fields[kind] for kind in KINDS)
    digest = sha256()
    for each in before.sets if before.status != "fail" else ():
        seal_digest(digest, each.results, each.message.field, each.seal.field)
    read = read_seal(raw)
    keys = (await find_keys([read.key_name], resolver))[read.key_name]
    assert isinstance(keys, tuple)
    return keys[0].verifies(read.signature, seal_digest(digest, results, message, raw))


def _results(message: str, server: str) -> list[str]:
    """What the message's own Authentication-Results of this server say, in their order."""
    found: list[str] = []
    for value in re.findall(r"^Authentication-Results:((?:[^\n]|\n[ \t])*)", message, re.M):
        said = [" ".join(each.split()) for each in value.split(";")]
        if re.sub(r"\([^)]*\)", "", said[0]).strip() == server:
            found += [each for each in said[1:] if each]
    return found


def _words(text: str) -> list[str]:
    return [" ".join(each.split()) for each in text.split(";")]
