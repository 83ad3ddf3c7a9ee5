"""DKIM-Signature fields for a message, one a key (RFC 6376 §5).

1. the body's hash, once for all keys
2. the header fields that are signed, in relaxed form, once for all keys
3. for each key: its DKIM-Signature with an empty b=, appended and signed
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from mailcore.kit.errors import Invalid
from mailcore.mailauth.dkim.canonical import Fields, by_name, relaxed_body, relaxed_field, split_fields
from mailcore.mailauth.dkim.keys import SigningKey

WEEK = 7 * 86_400

OVERSIGNED = (
    *(b"from", b"to", b"cc", b"subject", b"date", b"message-id", b"reply-to", b"mime-version", b"content-type"),
    *(b"list-unsubscribe", b"list-unsubscribe-post"),
)
"""Signed once more than they occur, absent ones too, so that none can be added later (RFC 6376 §5.4, §8.15)."""
SIGNED = (
    *(b"sender", b"in-reply-to", b"references", b"content-transfer-encoding", b"content-disposition", b"list-id"),
    b"feedback-id",
)
"""Signed as often as they occur: a mailing list may add its own."""
EITHER = OVERSIGNED + SIGNED
_HELD = 2_047
"""Octets that hashlib takes without letting go of the interpreter: getting it back beside a busy event loop takes fifteen times as
long as the hash."""
_SMALL = 65_536
"""Octets for which it is held."""
_PADDING, _PREHASHED = PKCS1v15(), Prehashed(SHA256())


def sign(head: bytes, body: bytes, keys: Sequence[SigningKey], *, now: int, expires_after: int | None = WEEK) -> bytes:
    """The DKIM-Signature fields to put before `head`, each with its CRLF; empty without keys.

    `head`: header fields with their CRLFs, without the empty line after them. `body`: as it will be sent, before dot
    stuffing. `now` in seconds since 1970; `expires_after` in seconds, None for no x=. There is never an l=: it would let
    others append to the message. Raises Invalid for a header that is none or has no From (RFC 6376 §5.4).
    """
    if not keys:
        return b""
    names, fields = covered(by_name(split_fields(head)), EITHER)
    body_hash = base64.b64encode(_sha256(relaxed_body(body)))
    expires = b"" if expires_after is None else b" x=%d;" % (now + expires_after)
    return b"".join([_signature(key, names, fields, body_hash, b"t=%d;%b" % (now, expires)) for key in keys])


def covered(fields: Fields, names: Sequence[bytes]) -> tuple[bytes, hashlib._Hash]:
    """The value of h=, and the SHA-256 begun with the relaxed fields in its order. Raises Invalid: there is no From."""
    if b"from" not in fields:
        raise Invalid("A message without From cannot be signed.")
    found: list[bytes] = []
    canonical: list[bytes] = []
    for name in names:
        if name in fields:
            # RFC 6376 §5.4.2: of several, the last one counts first
            for field in reversed(fields[name]):
                found.append(name)
                canonical.append(relaxed_field(name, field))
    canonical.append(b"")
    # the extra ones find nothing left and add nothing to what is hashed (RFC 6376 §5.4)
    return _folded_names((*found, *OVERSIGNED)), hashlib.sha256(b"\r\n".join(canonical))


def _sha256(octets: bytes) -> bytes:
    if len(octets) > _SMALL:
        return hashlib.sha256(octets).digest()
    found = hashlib.sha256()
    for at in range(0, len(octets), _HELD):
        found.update(octets[at : at + _HELD])
    return found.digest()


def _signature(key: SigningKey, names: bytes, fields: hashlib._Hash, body_hash: bytes, times: bytes) -> bytes:
    field = b"DKIM-Signature: v=1; a=%b; c=relaxed/relaxed; d=%b;\r\n s=%b; %b\r\n h=%b;\r\n bh=%b;\r\n b=" % (
        key.algorithm.encode(),
        key.domain.encode(),
        key.selector.encode(),
        times,
        names,
        body_hash,
    )
    # RFC 6376 §3.7: the signature's own field comes last, with an empty b= and without its CRLF
    digest = fields.copy()
    digest.update(relaxed_field(b"dkim-signature", field))
    return field + folded(raw_signature(key, digest.digest())) + b"\r\n"


def raw_signature(key: SigningKey, digest: bytes) -> bytes:
    """Of a SHA-256."""
    if isinstance(key.private, RSAPrivateKey):
        return key.private.sign(digest, _PADDING, _PREHASHED)
    return key.private.sign(digest)  # RFC 8463 §3: Ed25519 over the SHA-256


def folded(signature: bytes) -> bytes:
    """The value of b=."""
    value = base64.b64encode(signature)
    return b"\r\n ".join([value[i : i + 72] for i in range(0, len(value), 72)])


@lru_cache(maxsize=64)
def _folded_names(names: tuple[bytes, ...]) -> bytes:
    """`a:b:c` in lines of at most 76 columns; blanks around a colon mean nothing (RFC 6376 §3.5)."""
    lines: list[bytes] = []
    line = names[0]
    for name in names[1:]:
        if len(line) + len(name) > 72:
            lines.append(line)
            line = name
        else:
            line += b":" + name
    lines.append(line)
    return b":\r\n ".join(lines)
