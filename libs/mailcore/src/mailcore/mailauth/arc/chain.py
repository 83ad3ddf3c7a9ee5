"""The ARC sets of a message, read but not yet believed (RFC 8617 §4.1, §4.2, §5.2 steps 1 to 3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.dns.names import normalize_domain
from mailcore.kit.errors import Invalid
from mailcore.mailauth.dkim.keys import ED25519_SHA256, RSA_SHA256, normalize_selector
from mailcore.mailauth.dkim.record import KeyName
from mailcore.mailauth.dkim.signature import Signature, parse
from mailcore.mailauth.dkim.tags import number, octets, parse_tags, required, text

RESULTS, MESSAGE_SIGNATURE, SEAL = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"
KINDS = (RESULTS, MESSAGE_SIGNATURE, SEAL)
MAX_SETS = 50
"""RFC 8617 §5.1, step 2."""
_FIRST_INSTANCE = re.compile(rb"[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*([0-9]{1,2})[ \t\r\n]*;")


@dataclass(frozen=True, slots=True)
class Seal:
    field: bytes
    """The whole field without its last CRLF."""
    algorithm: str
    domain: str
    selector: str
    signature: bytes
    cv: str
    """What its sealer found of the chain before: none, pass, fail."""

    @property
    def key_name(self) -> KeyName:
        return self.selector, self.domain


@dataclass(frozen=True, slots=True)
class ArcSet:
    instance: int
    results: bytes
    """The whole ARC-Authentication-Results field."""
    message: Signature
    seal: Seal


def fields_of(fields: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those of ARC, in their order."""
    return [(name, raw) for name, raw in fields if name in KINDS]


def highest(fields: Sequence[tuple[bytes, bytes]]) -> int:
    """The highest instance that any field names, whether or not the sets are whole; 0 without any."""
    return max((_instance_or_zero(name, raw) for name, raw in fields_of(fields)), default=0)


def read_sets(fields: Sequence[tuple[bytes, bytes]]) -> list[ArcSet]:
    """From the first to the last. Raises Invalid: a field that cannot be read, a set that is not whole, a gap, a wrong cv=."""
    found: dict[int, dict[bytes, bytes]] = {}
    for name, raw in fields_of(fields):
        of_set = found.setdefault(_instance(name, raw), {})
        if name in of_set:
            raise Invalid("An ARC set has the same field twice.")
        of_set[name] = raw
    if len(found) > MAX_SETS:
        raise Invalid(f"There are more than {MAX_SETS} ARC sets.")
    sets = []
    for instance in range(1, len(found) + 1):
        of_set = found.get(instance, {})
        if len(of_set) != len(KINDS):
            raise Invalid(f"ARC set {instance} is not whole.")
        sets.append(_read_set(instance, of_set))
    return sets


def _read_set(instance: int, of_set: dict[bytes, bytes]) -> ArcSet:
    message = parse(MESSAGE_SIGNATURE, of_set[MESSAGE_SIGNATURE])
    if SEAL in message.names:  # RFC 8617 §4.1.2
        raise Invalid("An ARC-Message-Signature covers an ARC-Seal.")
    seal = read_seal(of_set[SEAL])
    # RFC 8617 §5.2, step 3.3
    if seal.cv not in ("fail", "none" if instance == 1 else "pass"):
        raise Invalid(f"The ARC-Seal of set {instance} says cv={seal.cv}.")
    return ArcSet(instance, of_set[RESULTS], message, seal)


def read_seal(raw: bytes) -> Seal:
    tags = parse_tags(raw.partition(b":")[2])
    if {b"h", b"bh"} & tags.keys():  # RFC 8617 §4.1.3
        raise Invalid("An ARC-Seal has no h= and no bh=.")
    number(tags, b"t")
    algorithm = text(required(tags, b"a")).lower()
    if algorithm not in (RSA_SHA256, ED25519_SHA256):
        raise Invalid("An ARC-Seal is of an unknown algorithm.")
    cv = text(required(tags, b"cv")).lower()
    if cv not in ("none", "pass", "fail"):
        raise Invalid("An ARC-Seal has an unknown cv=.")
    return Seal(
        field=raw,
        algorithm=algorithm,
        domain=normalize_domain(text(required(tags, b"d")), underscore=True),
        selector=normalize_selector(text(required(tags, b"s"))),
        signature=octets(required(tags, b"b")),
        cv=cv,
    )


def _instance(name: bytes, raw: bytes) -> int:
    value = raw.partition(b":")[2]
    if name == RESULTS:
        # RFC 8617 §4.1.1: i= comes first, the rest is no tag list
        match = _FIRST_INSTANCE.match(value)
        instance = int(match[1]) if match else 0
    else:
        instance = number(parse_tags(value), b"i") or 0
    if not 1 <= instance <= MAX_SETS:
        raise Invalid(f"An ARC field has no i= of 1 to {MAX_SETS}.")
    return instance


def _instance_or_zero(name: bytes, raw: bytes) -> int:
    try:
        return _instance(name, raw)
    except Invalid:
        return 0
