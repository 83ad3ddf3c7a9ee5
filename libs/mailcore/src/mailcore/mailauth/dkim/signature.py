"""A signature as it stands in a header field: DKIM-Signature, and ARC-Message-Signature, which is one but for v= and i=.

`parse` reads it; `signed_digest` is what its b= signs, `Bodies` what its bh= hashes (RFC 6376 §3.5, §3.7).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from mailcore.dns.names import normalize_domain
from mailcore.kit.errors import Invalid
from mailcore.mailauth.dkim.canonical import Fields, relaxed_body, relaxed_field, simple_body
from mailcore.mailauth.dkim.keys import ED25519_SHA256, RSA_SHA256, normalize_selector
from mailcore.mailauth.dkim.record import KeyName
from mailcore.mailauth.dkim.tags import number, octets, parse_tags, required, text, without_value, words

RSA_SHA1 = "rsa-sha1"
"""Read, and never believed (RFC 8301 §3.1)."""
RELAXED, SIMPLE = b"relaxed", b"simple"


@dataclass(frozen=True, slots=True)
class Signature:
    name: bytes
    """Of the header field, in lower case."""
    field: bytes
    """The whole field without its last CRLF."""
    tags: Mapping[bytes, bytes]
    algorithm: str
    domain: str
    selector: str
    signature: bytes
    body_hash: bytes
    names: tuple[bytes, ...]
    """The header fields it covers, in lower case, as often as they are named."""
    header_form: bytes
    body_form: bytes
    length: int | None
    """l=: octets of the canonical body that it covers."""
    signed_at: int | None
    expires_at: int | None

    @property
    def key_name(self) -> KeyName:
        return self.selector, self.domain


def parse(name: bytes, raw: bytes) -> Signature:
    """Of either kind; what only one of them has is its reader's to check. Raises Invalid."""
    tags = parse_tags(raw.partition(b":")[2])
    algorithm = text(required(tags, b"a")).lower()
    if algorithm not in (RSA_SHA256, ED25519_SHA256, RSA_SHA1):
        raise Invalid("The signature is of an unknown algorithm.")
    header_form, slash, body_form = tags.get(b"c", SIMPLE).lower().partition(b"/")
    body_form = body_form if slash else SIMPLE
    if header_form not in (RELAXED, SIMPLE) or body_form not in (RELAXED, SIMPLE):
        raise Invalid("The signature names an unknown canonical form.")
    if b"dns/txt" not in words(tags.get(b"q", b"dns/txt")):
        raise Invalid("The signature's key is to be found in an unknown way.")
    if b"h" not in tags:
        raise Invalid("The tag h= is missing.")
    signed_at, expires_at = number(tags, b"t"), number(tags, b"x")
    if signed_at is not None and expires_at is not None and expires_at <= signed_at:
        raise Invalid("The signature expires before it is made.")
    return Signature(
        name=name,
        field=raw,
        tags=tags,
        algorithm=algorithm,
        domain=normalize_domain(text(required(tags, b"d")), underscore=True),
        selector=normalize_selector(text(required(tags, b"s"))),
        signature=octets(required(tags, b"b")),
        body_hash=octets(required(tags, b"bh")),
        names=tuple(words(tags[b"h"])),
        header_form=header_form,
        body_form=body_form,
        length=number(tags, b"l"),
        signed_at=signed_at,
        expires_at=expires_at,
    )


def signed_digest(signature: Signature, fields: Fields) -> bytes:
    """SHA-256 of the covered fields and of the signature's own without its b= (RFC 6376 §3.7)."""
    digest = hashlib.sha256()
    relaxed = signature.header_form == RELAXED
    used: dict[bytes, int] = {}
    for name in signature.names:
        there = fields.get(name, ())
        count = used[name] = used.get(name, 0) + 1
        if count <= len(there):  # RFC 6376 §5.4.2: from the bottom up; one more than there are adds nothing
            raw = there[-count]
            digest.update(relaxed_field(name, raw) if relaxed else raw)
            digest.update(b"\r\n")
    own = without_value(signature.field, b"b")
    digest.update(relaxed_field(signature.name, own) if relaxed else own)
    return digest.digest()


@dataclass(slots=True)
class Bodies:
    """One body and the hashes of it that several signatures ask for; each canonical form is made once."""

    body: bytes
    _forms: dict[bytes, bytes] = field(default_factory=dict)
    _hashes: dict[tuple[bytes, int | None], bytes] = field(default_factory=dict)

    def hash(self, form: bytes, length: int | None) -> bytes:
        key = (form, length)
        if key not in self._hashes:
            canonical = self._canonical(form)
            covered = canonical if length is None else memoryview(canonical)[:length]
            self._hashes[key] = hashlib.sha256(covered).digest()
        return self._hashes[key]

    def covered(self, form: bytes, length: int | None) -> bool:
        """Whether a signature with this l= is one of the whole body."""
        return length is None or length == len(self._canonical(form))

    def _canonical(self, form: bytes) -> bytes:
        if form not in self._forms:
            self._forms[form] = relaxed_body(self.body) if form == RELAXED else simple_body(self.body)
        return self._forms[form]
