"""Secrets at rest: AES-256-GCM under sub-keys of POSTROOM_ENCRYPTION_KEY (HKDF-SHA256, RFC 5869; one sub-key a purpose).

A sealed value is `version (1) | key id (4) | nonce (12) | ciphertext and tag`; purpose and key id are authenticated.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mailcore.kit.errors import Refused

_VERSION = b"\x01"


def parse_key(text: str) -> bytes:
    """32 bytes from base64 or 64 hex digits. Raises Refused with what to do."""
    text = text.strip()
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text)
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise Refused(
            "POSTROOM_ENCRYPTION_KEY must be 32 bytes as base64 or 64 hex digits. Make one with: openssl rand -base64 32"
        )
    return key


class Keyring:
    """The key in use first, then older ones that may still open values."""

    def __init__(self, keys: list[bytes]) -> None:
        self._masters = {hashlib.sha256(key).digest()[:4]: key for key in keys}
        self._current = hashlib.sha256(keys[0]).digest()[:4]
        self._ciphers: dict[tuple[bytes, str], AESGCM] = {}

    def seal(self, secret: bytes, purpose: str) -> bytes:
        nonce = os.urandom(12)
        header = _VERSION + self._current
        return header + nonce + self._cipher(self._current, purpose).encrypt(nonce, secret, header + purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Raises Refused when the value was sealed with another key, for another purpose, or was changed."""
        header, nonce, text = sealed[:5], sealed[5:17], sealed[17:]
        if header[:1] != _VERSION or header[1:] not in self._masters:
            raise Refused("This secret was sealed with another POSTROOM_ENCRYPTION_KEY.")
        try:
            return self._cipher(header[1:], purpose).decrypt(nonce, text, header + purpose.encode())
        except InvalidTag:
            raise Refused("This secret cannot be opened: it was changed, or sealed for another purpose.") from None

    def is_current(self, sealed: bytes) -> bool:
        """Sealed with the key in use."""
        return sealed[:5] == _VERSION + self._current

    def reseal(self, sealed: bytes, purpose: str) -> bytes:
        """The same secret under the key in use. Raises Refused, as `open`."""
        return sealed if self.is_current(sealed) else self.seal(self.open(sealed, purpose), purpose)

    def derive(self, purpose: str) -> bytes:
        """A 32-byte key for what is signed rather than sealed (links, tokens)."""
        return self.derive_all(purpose)[0]

    def derive_all(self, purpose: str) -> tuple[bytes, ...]:
        """That key, then those of older master keys: what was signed with one stays good while it is kept."""
        masters = (self._masters[self._current], *(m for id_, m in self._masters.items() if id_ != self._current))
        return tuple(_sub_key(master, "mac:" + purpose) for master in masters)

    def _cipher(self, key_id: bytes, purpose: str) -> AESGCM:
        cipher = self._ciphers.get((key_id, purpose))
        if cipher is None:
            cipher = self._ciphers[key_id, purpose] = AESGCM(_sub_key(self._masters[key_id], purpose))
        return cipher


def _sub_key(master: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), 32, salt=b"postroom", info=purpose.encode()).derive(master)
