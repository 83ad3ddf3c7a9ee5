"""UUIDv7 (RFC 9562 §5.7): ids that sort by time, so that new rows land at the right edge of every index."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

OCTETS = 10
"""Random ones of an id."""
AT_ONCE = 512
"""Ids whose random octets are asked of the kernel together: one by one that is half of what an id costs."""


class _Random:
    """Taking the next one is a single step of the interpreter, so that no two threads get the same."""

    def __init__(self) -> None:
        self._ready: Iterator[bytes] = iter(())
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self._ready = iter(())

    def next(self) -> bytes:
        octets = next(self._ready, None)
        while octets is None:
            many = os.urandom(OCTETS * AT_ONCE)
            self._ready = iter([many[at : at + OCTETS] for at in range(0, len(many), OCTETS)])
            octets = next(self._ready, None)
        return octets


_random = _Random()
_NS = 1_000_000
"""Of a millisecond."""
_LOW = (1 << 64) - 1


def uuid7(unix_ms: int | None = None) -> UUID:
    """A new id. Those of one process sort in the order in which they were made: behind the milliseconds stand 12 bits of their
    fraction (RFC 9562 §6.2, method 3), and 62 random ones. `unix_ms` sets its time (milliseconds since 1970); then 74 are."""
    value = int.from_bytes(_random.next(), "big")
    if unix_ms is None:
        unix_ms, rest = divmod(time.time_ns(), _NS)
        value = value & _LOW | (rest << 12) // _NS << 64
    value = (unix_ms & 0xFFFF_FFFF_FFFF) << 80 | value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def uuid7_text() -> str:
    """A new id as its text alone, in less time: for what is made at every request and mostly only written down."""
    unix_ms, rest = divmod(time.time_ns(), _NS)
    ms, low = f"{unix_ms & 0xFFFF_FFFF_FFFF:012x}", _random.next().hex()
    return f"{ms[:8]}-{ms[8:]}-7{(rest << 12) // _NS:03x}-{'89ab'[int(low[3], 16) & 3]}{low[4:7]}-{low[7:19]}"


def uuid7_time(id_: UUID) -> datetime:
    """When a UUIDv7 was made, to the millisecond."""
    return datetime.fromtimestamp((id_.int >> 80) / 1000, UTC)


def lower_bound(at: datetime) -> UUID:
    """The smallest id of that moment: bounds of partitions and of time ranges."""
    return UUID(int=int(at.timestamp() * 1000) << 80)
