"""TLSA records of a mail host: whether DANE holds for it, and which certificates they stand for (RFC 6698, 7671, 7672).

1. `tlsa_of`    the records of a host and port, where every answer on the way to them was validated (RFC 7672 §2.2)
2. `usable`     those that SMTP may use (§3.1), of several digests the strongest (RFC 7671 §9)
3. `matches`    whether one stands for a certificate or its public key
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.dns.resolver import NoSuchDomain, Records, Resolver, TemporaryDNSError, TlsaRecord

MAX_RECORDS = 40
"""That are looked at; more is no rollover of keys."""
_LENGTHS = {1: 32, 2: 64}
"""Octets of a digest by matching type (RFC 6698 §2.1.3)."""
_DIGESTS = {1: hashlib.sha256, 2: hashlib.sha512}
ANCHOR, END_ENTITY = 2, 3
"""DANE-TA and DANE-EE (RFC 7218 §2.1)."""


@dataclass(frozen=True, slots=True)
class Tlsa:
    """What a host's records ask of TLS with it."""

    base: str
    """The name they stand under: that of the host, or where its alias leads (RFC 7672 §2.2.2). Also the name for SNI."""
    records: tuple[TlsaRecord, ...]
    """As published, never empty."""


async def tlsa_of(host: str, port: int, resolver: Resolver) -> Tlsa | None:
    """None: DANE does not hold, because an answer was not validated or there are no records.

    Raises TemporaryDNSError when nobody could tell whether there are any: then nothing may be sent to this host, for an attacker
    could have made it so (RFC 7672 §2.1.2).
    """
    for base in await _bases(host, resolver):
        try:
            found = await resolver.tlsa(f"_{port}._tcp.{base}")
        except NoSuchDomain:
            continue
        if found.values and found.secure:
            return Tlsa(base, found.values[:MAX_RECORDS])
    return None


async def _bases(host: str, resolver: Resolver) -> list[str]:
    """Names under which records may be looked for; empty where the host's own addresses are not signed (RFC 7672 §2.2.2)."""
    answers = await asyncio.gather(resolver.a(host), resolver.aaaa(host), return_exceptions=True)
    found = [answer for answer in answers if isinstance(answer, Records) and answer.values]
    if not found:
        return []
    ends = next((answer.canonical for answer in found if answer.canonical), host)
    if all(answer.secure for answer in found):
        return [ends, host] if ends != host else [host]
    if ends == host:
        return []
    # an alias in a signed zone that leads into an unsigned one: the alias itself may have records
    try:
        alias = await resolver.cname(host)
    except NoSuchDomain:
        return []
    return [host] if alias.values and alias.secure else []


def usable(records: Sequence[TlsaRecord]) -> tuple[TlsaRecord, ...]:
    """Those that SMTP can check. Empty: TLS is required, and nothing is verified (RFC 7672 §2.2)."""
    sound = [record for record in records if _is_sound(record)]
    strongest: dict[tuple[int, int], int] = {}
    for record in sound:
        pair = (record.usage, record.selector)
        strongest[pair] = max(strongest.get(pair, 0), record.matching)
    # RFC 7671 §9: of one usage and selector only the strongest digest counts; whole certificates and keys always do
    return tuple(record for record in sound if record.matching in (0, strongest[record.usage, record.selector]))


def _is_sound(record: TlsaRecord) -> bool:
    # RFC 7672 §3.1.3: PKIX-TA(0) and PKIX-EE(1) are of no use to SMTP
    if record.usage not in (ANCHOR, END_ENTITY) or record.selector not in (0, 1) or record.matching not in (0, 1, 2):
        return False
    return bool(record.data) and len(record.data) == _LENGTHS.get(record.matching, len(record.data))


def matches(record: TlsaRecord, certificate: bytes, key: bytes) -> bool:
    """`certificate`: DER; `key`: its SubjectPublicKeyInfo, DER (RFC 6698 §2.1.2)."""
    octets = key if record.selector == 1 else certificate
    digest = _DIGESTS.get(record.matching)
    return hmac.compare_digest(digest(octets).digest() if digest else octets, record.data)


async def mx_is_signed(domain: str, resolver: Resolver) -> bool:
    """Whether the answer to the domain's MX question was validated, be it that there is none (RFC 7672 §2.2.1)."""
    try:
        return (await resolver.mx(domain)).secure
    except (NoSuchDomain, TemporaryDNSError):
        return False
