"""Key records: the public keys that domains publish (RFC 6376 §3.6.1, RFC 8301, RFC 8463).

`parse_record` reads one; `find_keys` asks the DNS for those of several signatures at once, within one time for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.kit.eager import together
from mailcore.kit.errors import Invalid, MailError
from mailcore.mailauth.dkim.keys import ED25519_SHA256, MIN_RSA_BITS, RSA_SHA256
from mailcore.mailauth.dkim.tags import octets, parse_tags, words

MAX_RECORD = 4_096
"""Characters of a record: one of an RSA key with 8,192 bits has some 1,500."""
MAX_RSA_BITS = 8_192
MAX_RECORDS = 4
"""Of one name; RFC 6376 §3.6.2.2 leaves several undefined, and they are met where a key is being changed."""
LOOKUP_SECONDS = 20.0
"""For all keys of a message together."""
_AT_ONCE = 10

KeyName = tuple[str, str]
"""Selector and domain."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    algorithm: str
    """`rsa-sha256` or `ed25519-sha256`."""
    key: RSAPublicKey | Ed25519PublicKey
    bits: int
    testing: bool = False
    """t=y: its domain is trying; a failure says nothing about the mail."""
    strict: bool = False
    """t=s: i= must have the very domain of d=."""

    def verifies(self, signature: bytes, digest: bytes) -> bool:
        """`digest`: SHA-256 of what was signed; Ed25519 signs that digest (RFC 8463 §3)."""
        try:
            if isinstance(self.key, RSAPublicKey):
                self.key.verify(signature, digest, PKCS1v15(), Prehashed(SHA256()))
            else:
                self.key.verify(signature, digest)
        except InvalidSignature:
            return False
        return True


@lru_cache(maxsize=1_024)  # a key of a few thousand bits costs more to read than a signature to verify
def parse_record(record: str) -> PublicKey:
    """Raises Invalid: no key record, a revoked key (an empty p=), one that is too weak or not for mail."""
    if len(record) > MAX_RECORD:
        raise Invalid(f"The key record has more than {MAX_RECORD} characters.")
    tags = parse_tags(record.encode())
    if b"v" in tags and (tags[b"v"] != b"DKIM1" or next(iter(tags)) != b"v"):
        raise Invalid("The record is no DKIM key: v= must come first and be DKIM1.")
    if b"p" not in tags:
        raise Invalid("The record is no DKIM key: it has no p=.")
    if not tags[b"p"]:
        raise Invalid("The key is revoked.")
    if b"h" in tags and b"sha256" not in words(tags[b"h"]):
        raise Invalid("The key does not allow SHA-256.")
    if b"s" in tags and not {b"*", b"email"} & set(words(tags[b"s"])):
        raise Invalid("The key is not for mail.")
    flags = words(tags.get(b"t", b""))
    kind = tags.get(b"k", b"rsa").lower()
    algorithm, key, bits = _key(kind, octets(tags[b"p"]))
    return PublicKey(algorithm, key, bits, b"y" in flags, b"s" in flags)


def _key(kind: bytes, raw: bytes) -> tuple[str, RSAPublicKey | Ed25519PublicKey, int]:
    if kind == b"ed25519":
        try:
            return ED25519_SHA256, Ed25519PublicKey.from_public_bytes(raw), 256
        except ValueError as error:
            raise Invalid("The Ed25519 key does not have 32 octets.") from error
    if kind != b"rsa":
        raise Invalid("The key is of an unknown kind.")
    try:
        # a SubjectPublicKeyInfo, or a bare RSAPublicKey (RFC 6376 erratum 3017)
        key = load_der_public_key(raw)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Invalid("The RSA key cannot be read, or is too weak.") from error
    if not isinstance(key, RSAPublicKey):
        raise Invalid("The key is not the RSA key that it is said to be.")
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:  # RFC 8301 §3.2
        raise Invalid(f"The RSA key has {key.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are taken.")
    return RSA_SHA256, key, key.key_size


Found = tuple[PublicKey, ...] | MailError
"""The keys under a name; or why there is none: TemporaryDNSError when nobody could tell, Invalid otherwise."""


async def find_keys(
    names: Iterable[KeyName], resolver: Resolver, *, seconds: float = LOOKUP_SECONDS
) -> dict[KeyName, Found]:
    """Each name is asked for once. Those without an answer after `seconds` are a TemporaryDNSError."""
    slots = asyncio.Semaphore(_AT_ONCE)
    wanted = list(dict.fromkeys(names))
    found = await together([_find(name, resolver, slots) for name in wanted], seconds=seconds)
    late = TemporaryDNSError("The DNS took too long to answer for a DKIM key.")
    return {name: late if keys is None else keys for name, keys in zip(wanted, found, strict=True)}


async def _find(name: KeyName, resolver: Resolver, slots: asyncio.Semaphore) -> Found:
    selector, domain = name
    try:
        async with slots:
            texts = (await resolver.txt(f"{selector}._domainkey.{domain}")).values
    except TemporaryDNSError as error:
        return error
    except NoSuchDomain:
        texts = ()
    if not texts:
        return Invalid("The domain publishes no such key.")
    keys: list[PublicKey] = []
    why: MailError | None = None
    for text in texts[:MAX_RECORDS]:
        try:
            keys.append(parse_record(text))
        except Invalid as error:
            why = why or error
    return tuple(keys) if keys or why is None else why
