"""Signatures of others, verified: chasquid's cases, and the mails that mail-auth keeps of well-known senders.

What we judge otherwise than chasquid stands in OTHERWISE with the reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import suites
from mailcore.dns.resolver import Records, StaticResolver, TemporaryDNSError
from mailcore.kit.errors import Invalid
from mailcore.mailauth.arc.validate import validate
from mailcore.mailauth.dkim.verify import Status, verify

WHEN = 1_709_466_400
"""When chasquid made the newest of its signatures, in seconds since 1970."""
OTHERWISE = {
    ("09-limited_body", 0): (Status.POLICY, "l= leaves room for what anybody adds (RFC 6376 §8.2)"),
}
STATES = {"SUCCESS": {Status.PASS}, "TEMPFAIL": {Status.TEMPERROR}, "PERMFAIL": {Status.PERMERROR, Status.FAIL}}


def _files(suite: str, pattern: str) -> list[Any]:
    if not suites.available(suite):
        return [pytest.param(None, marks=pytest.mark.skip(f"suite {suite} is not beside the checkout"), id="absent")]
    return [pytest.param(path, id=path.stem) for path in sorted(suites.suite(suite).glob(pattern))]


def _pointed(path: Path) -> str:
    """A file of one line that names another stands for it."""
    text = path.read_text() if path.exists() else ""
    other = path.parent / text.strip()
    return other.read_text() if text and len(text) < 100 and "\n" not in text.strip() and other.is_file() else text


def _split(text: str) -> tuple[bytes, bytes]:
    head, _, body = text.replace("\r\n", "\n").replace("\n", "\r\n").partition("\r\n\r\n")
    return (head.removesuffix("\r\n") + "\r\n").encode(), body.encode()


class Answers(StaticResolver):
    """A name may have several records, or none that could be had just now."""

    async def txt(self, name: str) -> Records[str]:
        answer = await super().txt(name)
        if answer.values == ("TEMPERROR",):
            raise TemporaryDNSError("for the test")
        return answer


def _chasquid_dns(text: str) -> Answers:
    zones: dict[str, dict[str, list[str]]] = {}
    for line in text.replace("\\\n", " ").split("\n"):
        name, colon, value = line.partition(":")
        if colon and value.strip() != "PERMERROR":
            zones.setdefault(name.strip(), {"TXT": []})["TXT"].append(" ".join(value.split()))
    return Answers(zones)


@pytest.mark.parametrize("path", _files("chasquid-dkim", "*.msg"))
async def test_b4_b5_chasquid(path: Path) -> None:
    head, body = _split(_pointed(path))
    error = _pointed(path.with_suffix(".error")).strip()
    if error and error != "<nil>":
        with pytest.raises(Invalid):
            await verify(head, body, StaticResolver({}), now=WHEN)
        return
    wanted = json.loads(_pointed(path.with_suffix(".result")))["Results"]
    found = await verify(head, body, _chasquid_dns(_pointed(path.with_suffix(".dns"))), now=WHEN)
    assert len(found) == len(wanted)
    for number, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        if (path.stem, number) in OTHERWISE:
            assert ours.status is OTHERWISE[path.stem, number][0], ours.reason
            continue
        assert ours.status in STATES[theirs["State"]], (number, ours)
        if theirs["Domain"]:
            assert (ours.domain, ours.header_b) == (theirs["Domain"], theirs["B"][:8])


def _mail_auth(path: Path) -> tuple[StaticResolver, bytes, bytes]:
    records, _, message = path.read_text().replace("\r\n", "\n").partition("\n\n")
    zones = {name: {"TXT": [value]} for name, _, value in (line.partition(" ") for line in records.split("\n"))}
    return StaticResolver(zones), *_split(message)


@pytest.mark.parametrize("path", _files("mail-auth", "dkim/*.txt"))
async def test_mails_of_well_known_senders(path: Path) -> None:
    resolver, head, body = _mail_auth(path)
    found = await verify(head, body, resolver, now=0)
    assert found and {each.status for each in found} == {Status.PASS}, found


@pytest.mark.parametrize("path", _files("mail-auth", "arc/*.txt"))
async def test_chains_of_well_known_forwarders(path: Path) -> None:
    resolver, head, body = _mail_auth(path)
    chain = await validate(head, body, resolver)
    assert chain.status == "pass", chain.reason
