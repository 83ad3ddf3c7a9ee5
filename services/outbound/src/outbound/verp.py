"""The return path of a delivery (VERP): it names the email and the recipient, and is ours alone to make.

`b+<base32 of email id (16), n (2), HMAC-SHA256 truncated (8)>`: 44 octets, within the 64 of RFC 5321 §4.5.3.1.1. Lower case,
because relays may fold a local part's case; a forged or changed one is told by the HMAC (reliability A17).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from uuid import UUID

PREFIX = "b+"
_MAC = 8


def local_part(key: bytes, email_id: UUID, n: int) -> str:
    named = email_id.bytes + n.to_bytes(2, "big")
    return PREFIX + base64.b32encode(named + _mac(key, named)).decode().rstrip("=").lower()


def read(key: bytes, local: str) -> tuple[UUID, int] | None:
    """The email and the recipient's number; None when the local part is none of ours."""
    if not local.lower().startswith(PREFIX):
        return None
    text = local[len(PREFIX) :].upper()
    try:
        octets = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        return None
    named, mac = octets[:18], octets[18:]
    if len(octets) != 18 + _MAC or not hmac.compare_digest(mac, _mac(key, named)):
        return None
    return UUID(bytes=named[:16]), int.from_bytes(named[16:], "big")


def _mac(key: bytes, named: bytes) -> bytes:
    return hmac.digest(key, named, hashlib.sha256)[:_MAC]
