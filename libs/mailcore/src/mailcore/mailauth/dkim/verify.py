"""DKIM signatures of a message, verified (RFC 6376 §6, RFC 8301, RFC 8463; results in the words of RFC 8601 §2.7.1).

1. the first `most` DKIM-Signature fields are read; those after them are never looked at
2. their keys are asked for together, each once, within one time for all
3. body hash, then signature; of a large message this and reading it are done in a thread

l= is not trusted: a signature of a part of the body is `policy`, since anybody may have added the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ParamSpec, TypeVar

from mailcore.dns.names import normalize_domain
from mailcore.dns.resolver import Resolver
from mailcore.kit.errors import Invalid, MailError
from mailcore.mailauth.dkim.canonical import Fields, by_name, split_fields
from mailcore.mailauth.dkim.record import LOOKUP_SECONDS, Found, KeyName, PublicKey, find_keys
from mailcore.mailauth.dkim.signature import RSA_SHA1, Bodies, Signature, parse, signed_digest
from mailcore.mailauth.dkim.tags import required, text

MAX_SIGNATURES = 5
FIELD = b"dkim-signature"
THREAD_OCTETS = 64 * 1024
"""Of a message: what is larger would hold up the event loop."""
P = ParamSpec("P")
T = TypeVar("T")


class Status(StrEnum):
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    POLICY = "policy"
    """It verifies, and covers only a part of the body."""
    TEMPERROR = "temperror"
    """The DNS did not answer: asked again later it may pass."""
    PERMERROR = "permerror"
    """It cannot be verified, now or later: malformed, or no key that could be used."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What became of one DKIM-Signature field."""

    status: Status
    reason: str = ""
    signature: Signature | None = None
    """None: it could not be read."""
    key: PublicKey | None = None

    @property
    def domain(self) -> str | None:
        """d=, which vouches for the mail where `status` is pass."""
        return self.signature.domain if self.signature else None

    @property
    def header_b(self) -> str:
        """The first digits of b=, which tell signatures of one domain apart (RFC 6008)."""
        found = b"" if self.signature is None else b"".join(self.signature.tags[b"b"].split())
        return found[:8].decode("ascii", "replace")


async def verify(
    head: bytes,
    body: bytes,
    resolver: Resolver,
    *,
    now: int,
    most: int = MAX_SIGNATURES,
    seconds: float = LOOKUP_SECONDS,
    fields: Sequence[tuple[bytes, bytes]] | None = None,
) -> list[Verified]:
    """One result a signature, in their order; empty for a message without any.

    `head`: header fields with their CRLFs, without the empty line. `body`: as it came, dots unstuffed. `now` in seconds since
    1970. `fields`: those of `head`, where they have been split. Raises Invalid for a header that is none
    (mailcore.mailauth.dkim.canonical.split_fields).
    """
    octets = len(head) + len(body)
    named, read = await off_loop(octets, _read_all, head, fields, most)
    keys = await find_keys([each.key_name for each in read if isinstance(each, Signature)], resolver, seconds=seconds)
    return await off_loop(octets, _judge, read, named, body, keys, now)


async def off_loop(octets: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """In a thread where a message is large; at once where it is not, for changing threads costs more than such a message."""
    if octets > THREAD_OCTETS:
        return await asyncio.to_thread(work, *args, **kwargs)
    return work(*args, **kwargs)


def _read_all(
    head: bytes, fields: Sequence[tuple[bytes, bytes]] | None, most: int
) -> tuple[Fields, list[Signature | Verified]]:
    fields = split_fields(head) if fields is None else fields
    return by_name(fields), [_read(raw) for raw in [raw for name, raw in fields if name == FIELD][:most]]


def _read(raw: bytes) -> Signature | Verified:
    try:
        signature = parse(FIELD, raw)
        if required(signature.tags, b"v") != b"1":
            raise Invalid("The signature is of an unknown version.")
        if b"from" not in signature.names:  # RFC 6376 §5.4
            raise Invalid("The signature does not cover From.")
        identity = signature.tags.get(b"i")
        if identity is not None and not _within(identity_domain(identity), signature.domain):
            raise Invalid("The domain of i= is not that of d= or below it.")
    except Invalid as error:
        return Verified(Status.PERMERROR, error.public)
    return signature


def identity_domain(identity: bytes) -> str:
    """Of an i= (RFC 6376 §3.5). Raises Invalid."""
    _, at, domain = text(identity).rpartition("@")
    if not at:
        raise Invalid("The tag i= is no address.")
    return normalize_domain(domain, underscore=True)


def _within(domain: str, parent: str) -> bool:
    return domain == parent or domain.endswith(f".{parent}")


def _judge(
    read: Sequence[Signature | Verified], fields: Fields, body: bytes, keys: Mapping[KeyName, Found], now: int
) -> list[Verified]:
    bodies = Bodies(body)
    return [
        each if isinstance(each, Verified) else _one(each, fields, bodies, keys[each.key_name], now) for each in read
    ]


def _one(signature: Signature, fields: Fields, bodies: Bodies, found: Found, now: int) -> Verified:
    if signature.algorithm == RSA_SHA1:
        return Verified(Status.FAIL, "rsa-sha1 is no longer accepted (RFC 8301).", signature)
    if signature.expires_at is not None and signature.expires_at < now:
        return Verified(Status.FAIL, "The signature has expired.", signature)
    if isinstance(found, MailError):
        return Verified(Status.TEMPERROR if found.temporary else Status.PERMERROR, found.public, signature)
    checked = check(signature, fields, bodies, found)
    if isinstance(checked, str):
        return Verified(Status.FAIL, checked, signature, _fitting(signature, found))
    identity = signature.tags.get(b"i")
    if checked.strict and identity is not None and identity_domain(identity) != signature.domain:
        return Verified(Status.PERMERROR, "The key does not allow i= below its own domain (t=s).", signature, checked)
    if not bodies.covered(signature.body_form, signature.length):
        return Verified(Status.POLICY, "The signature covers only a part of the body (l=).", signature, checked)
    return Verified(Status.PASS, "", signature, checked)


def check(signature: Signature, fields: Fields, bodies: Bodies, keys: Sequence[PublicKey]) -> PublicKey | str:
    """The key that verifies it; or why none does. Also an ARC-Message-Signature's."""
    fitting = [key for key in keys if key.algorithm == signature.algorithm]
    if not fitting:
        return "The published key is of another algorithm."
    if bodies.hash(signature.body_form, signature.length) != signature.body_hash:
        return "The body has been changed."
    digest = signed_digest(signature, fields)
    for key in fitting:
        if key.verifies(signature.signature, digest):
            return key
    return "The signature does not match: a header field has been changed, or the key is another."


def _fitting(signature: Signature, keys: Sequence[PublicKey]) -> PublicKey | None:
    return next((key for key in keys if key.algorithm == signature.algorithm), None)
