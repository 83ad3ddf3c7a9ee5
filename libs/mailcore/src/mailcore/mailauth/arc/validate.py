"""Whether a message's ARC chain holds (RFC 8617 §5.2).

1. the sets are read; what is wrong with their form is a failed chain
2. the keys of all seals and of the last message signature are asked for together
3. the last ARC-Message-Signature, then every ARC-Seal

Earlier message signatures are not looked at: each forwarder may have changed the message, and said so by its seal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mailcore.dns.resolver import Resolver
from mailcore.kit.errors import Invalid, MailError
from mailcore.mailauth.arc.chain import (
    KINDS,
    MAX_SETS,
    MESSAGE_SIGNATURE,
    RESULTS,
    SEAL,
    ArcSet,
    fields_of,
    highest,
    read_sets,
)
from mailcore.mailauth.dkim.canonical import Fields, by_name, relaxed_field, split_fields
from mailcore.mailauth.dkim.record import LOOKUP_SECONDS, Found, KeyName, find_keys
from mailcore.mailauth.dkim.signature import RSA_SHA1, Bodies
from mailcore.mailauth.dkim.tags import without_value
from mailcore.mailauth.dkim.verify import check, off_loop

NONE, PASS, FAIL = "none", "pass", "fail"


@dataclass(frozen=True, slots=True)
class Chain:
    status: str
    """none, pass or fail: the cv= of whoever seals next."""
    reason: str = ""
    sets: tuple[ArcSet, ...] = ()
    """From the first; empty where their form is broken."""
    highest: int = 0
    """The highest i= that is there."""
    temporary: bool = False
    """It failed because the DNS did not answer: asked again later it may pass."""

    @property
    def ended(self) -> bool:
        """A sealer has said already that it is broken: nobody adds to it any more (RFC 8617 §5.1.2)."""
        return bool(self.sets) and self.sets[-1].seal.cv == FAIL


async def validate(head: bytes, body: bytes, resolver: Resolver, *, seconds: float = LOOKUP_SECONDS) -> Chain:
    """`head`: header fields with their CRLFs, without the empty line. Raises Invalid for a header that is none."""
    octets = len(head) + len(body)
    fields, chain = await off_loop(octets, _read, head)
    if chain.status != PASS:
        return chain
    wanted = {chain.sets[-1].message.key_name, *(each.seal.key_name for each in chain.sets)}
    keys = await find_keys(wanted, resolver, seconds=seconds)
    why, temporary = await off_loop(octets, _judge, chain.sets, fields, body, keys)
    return Chain(FAIL, why, chain.sets, chain.highest, temporary) if why else chain


def as_found(head: bytes, status: str) -> Chain:
    """The chain of a message that was judged before: `status` is what `validate` said then. Raises Invalid as it does."""
    _, chain = _read(head)
    return replace(chain, status=status) if chain.status == PASS else chain


def _read(head: bytes) -> tuple[Fields, Chain]:
    """`pass` as far as the form of the sets goes."""
    fields = split_fields(head)
    count = len(fields_of(fields))
    if count == 0:
        return {}, Chain(NONE)
    if count > len(KINDS) * MAX_SETS:
        return {}, Chain(FAIL, f"There are more than {MAX_SETS} ARC sets.", highest=MAX_SETS)
    last = highest(fields)
    try:
        sets = tuple(read_sets(fields))
    except Invalid as error:
        return {}, Chain(FAIL, error.public, highest=last)
    if sets[-1].seal.cv == FAIL:
        return {}, Chain(FAIL, "Its last sealer found the chain broken.", sets, last)
    early = next((each for each in sets if each.seal.cv == FAIL), None)
    if early is not None:
        return {}, Chain(FAIL, f"Set {early.instance} says that the chain was broken there.", sets, last)
    return by_name(fields), Chain(PASS, "", sets, last)


def _judge(sets: Sequence[ArcSet], fields: Fields, body: bytes, keys: Mapping[KeyName, Found]) -> tuple[str, bool]:
    """Why the chain fails, empty where it holds; and whether that is only for now."""
    message = sets[-1].message
    found = keys[message.key_name]
    if isinstance(found, MailError):
        return f"The ARC-Message-Signature of set {len(sets)}: {found.public}", found.temporary
    if message.algorithm == RSA_SHA1:
        return "rsa-sha1 is no longer accepted (RFC 8301).", False
    if message.length is not None:
        return "The ARC-Message-Signature covers only a part of the body (l=).", False
    checked = check(message, fields, Bodies(body), found)
    if isinstance(checked, str):
        return f"The ARC-Message-Signature of set {len(sets)}: {checked}", False
    before = hashlib.sha256()
    for each in sets:
        found = keys[each.seal.key_name]
        if isinstance(found, MailError):
            return f"The ARC-Seal of set {each.instance}: {found.public}", found.temporary
        digest = seal_digest(before, each.results, each.message.field, each.seal.field)
        fitting = [key for key in found if key.algorithm == each.seal.algorithm]
        if not any(key.verifies(each.seal.signature, digest) for key in fitting):
            return f"The ARC-Seal of set {each.instance} does not match.", False
    return "", False


def seal_digest(before: hashlib._Hash, results: bytes, message: bytes, seal: bytes) -> bytes:
    """SHA-256 of the sets up to this one, the seal's own field without its b= (RFC 8617 §5.1.1).

    `before` holds the sets that come first and takes this one in, whole, so that each octet is hashed once.
    """
    before.update(b"%b\r\n%b\r\n" % (relaxed_field(RESULTS, results), relaxed_field(MESSAGE_SIGNATURE, message)))
    digest = before.copy()
    digest.update(relaxed_field(SEAL, without_value(seal, b"b")))
    before.update(relaxed_field(SEAL, seal) + b"\r\n")
    return digest.digest()
