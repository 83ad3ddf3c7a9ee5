"""The return path of a delivery (VERP): it names the email, the recipient and the day, and is ours alone to make.

`b+<base32 of email id (16), n (2), day (2), HMAC-SHA256 truncated (8)>`: 47 octets, within the 64 of RFC 5321 §4.5.3.1.1. Lower
case, because relays may fold a local part's case; a forged or changed one is told by the HMAC, an old one by its day: a report
comes within days, an address that somebody found in an archive comes later (reliability A17). A complaint may come much later,
when somebody goes through his mailbox, and suppresses only him who complained.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

PREFIX = "b+"
LIFE_DAYS = 7
"""From the attempt on which it was used: for reports of what became of the mail."""
COMPLAINT_DAYS = 60
"""For feedback reports that have it in them."""
_MAC = 8
_NAMED = 16 + 2 + 2
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class ReturnPath:
    email_id: UUID
    n: int
    """The recipient's number."""
    day: int
    """Of the attempt, in days since 1970."""


class Verp:
    def __init__(self, key: bytes, *older: bytes, clock: Callable[[], float] = time.time) -> None:
        """`key` makes return paths, and those of `older` ones are read too; at most 64 bytes each. `clock`: seconds since 1970."""
        self._macs = [_Mac(each) for each in (key, *older)]
        self._clock = clock

    def local_part(self, email_id: UUID, n: int) -> str:
        """For an attempt now."""
        named = email_id.bytes + n.to_bytes(2, "big") + self._today().to_bytes(2, "big")
        return PREFIX + base64.b32encode(named + self._macs[0].of(named)).decode().rstrip("=").lower()

    def read(self, local: str) -> ReturnPath | None:
        """None when the local part is none of ours; whether it is still believed: `alive`."""
        if len(local) > 64 or not local.lower().startswith(PREFIX):
            return None
        text = local[len(PREFIX) :].upper()
        try:
            octets = base64.b32decode(text + "=" * (-len(text) % 8))
        except ValueError:
            return None
        named, mac = octets[:_NAMED], octets[_NAMED:]
        if len(octets) != _NAMED + _MAC:
            return None
        found = [hmac.compare_digest(mac, each.of(named)) for each in self._macs]  # of all: in constant time
        if not any(found):
            return None
        return ReturnPath(
            UUID(bytes=named[:16]), int.from_bytes(named[16:18], "big"), int.from_bytes(named[18:], "big")
        )

    def alive(self, path: ReturnPath, days: int = LIFE_DAYS) -> bool:
        """It was made at most so many days ago."""
        return 0 <= self._today() - path.day <= days

    def _today(self) -> int:
        return int(self._clock() // _DAY_SECONDS) & 0xFFFF


class _Mac:
    """HMAC-SHA256, truncated."""

    def __init__(self, key: bytes) -> None:
        # RFC 2104 §4: both hashes with the key already in them. And hmac.digest lets go of the interpreter: beside threads
        # that compose, getting it back takes twenty times as long as the HMAC.
        self._inner = hashlib.sha256(bytes(octet ^ 0x36 for octet in key.ljust(64, b"\0")))
        self._outer = hashlib.sha256(bytes(octet ^ 0x5C for octet in key.ljust(64, b"\0")))

    def of(self, named: bytes) -> bytes:
        inner = self._inner.copy()
        inner.update(named)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()[:_MAC]
