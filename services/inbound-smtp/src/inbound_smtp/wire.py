"""Lines and message data out of the bytes of a connection (RFC 5321 §2.3.8, §4.1.1.4, §4.5.2).

A line ends with CRLF and with nothing else; a message ends with CRLF.CRLF and with nothing else. What came in the same packet
after either waits here for whoever reads next, so that pipelined commands are in order (RFC 2920).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

MAX_COMMAND = 2_048
"""Octets of a command line. RFC 5321 §4.5.3.1.4 says 512, and that extensions add to it."""
_CHUNK = 65_536
_MAX_WASTE = 65_536
_END = b"\r\n.\r\n"


class BadLine(Enum):
    TOO_LONG = auto()
    BARE_LF = auto()
    """Or a bare CR, or a NUL."""


class Closed(ConnectionError):
    """The client has gone."""


class TooSlow(ConnectionError):
    pass


class Flood(ConnectionError):
    """It sends far more than it may, without end."""


@dataclass(frozen=True, slots=True)
class Content:
    raw: bytes | None
    """Without the dots that SMTP adds; None when it was too big, or there was no memory for it."""
    starved: bool = False
    """It was not its own size, but that of all that are coming in."""
    held: int = field(default=0, compare=False)
    """What it still holds of Memory: the caller gives it back when it is done with the mail. The last read is not counted."""


class Memory:
    """What all connections of a process hold of messages that are coming in or not yet answered."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def take(self, octets: int) -> bool:
        if self.held + octets > self._limit:
            return False
        self.held += octets
        return True

    def give_back(self, octets: int) -> None:
        self.held -= octets


class Wire:
    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._buffer = bytearray()

    @property
    def has_line(self) -> bool:
        """Whether the next line is here already."""
        return b"\n" in self._buffer

    def drop(self) -> None:
        """What was sent before TLS counts for nothing after it (RFC 3207 §4.2)."""
        self._buffer.clear()
        self._reader._buffer.clear()  # type: ignore[attr-defined]

    async def line(self) -> bytes | BadLine:
        """A command line without its CRLF. Raises Closed, Flood."""
        wasted = 0
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                line = bytes(self._buffer[: end + 1])
                del self._buffer[: end + 1]
                if wasted or len(line) > MAX_COMMAND:
                    return BadLine.TOO_LONG
                if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
                    return BadLine.BARE_LF
                return line[:-2]
            if len(self._buffer) > MAX_COMMAND:
                wasted += len(self._buffer)
                self._buffer.clear()
                if wasted > _MAX_WASTE:
                    raise Flood
            await self._fill()

    async def data(self, limit: int, memory: Memory, progress: Callable[[int], None]) -> Content:
        """A message of at most `limit` octets; a bigger one is read to its end and thrown away.

        What it holds of `memory` goes to the caller with the message, and is given back here without one.
        `progress` is told how many octets have come so far and may raise. Raises Closed, Flood.
        """
        # the CRLF that ended the command stands before the message: a lone dot may be its first line
        buffer = bytearray(_END[:2]) + self._buffer
        self._buffer = bytearray()
        dots = _Dots(limit)
        held, came, looked = 0, len(buffer) - 2, 0
        over = starved = False
        try:
            while (end := buffer.find(_END, looked)) < 0:
                if not over:
                    starved = not memory.take(len(buffer) - held)
                    held = held if starved else len(buffer)
                    over = starved or dots.size(buffer, len(buffer)) > limit
                if over:
                    # enough is kept to know the end by
                    del buffer[: -len(_END) + 1]
                    memory.give_back(held)
                    held = 0
                looked = max(0, len(buffer) - len(_END) + 1)
                chunk = await self._read()
                came += len(chunk)
                progress(came)
                if over and came > 2 * limit + _CHUNK:
                    raise Flood
                buffer += chunk
            self._buffer = buffer[end + len(_END) :]
            if over or dots.size(buffer, end + 2) > limit:
                return Content(None, starved)
            raw = bytes(buffer[: end + 2])
            # RFC 5321 §4.5.2: the first dot of a line goes
            raw = raw.replace(b"\r\n.", b"\r\n")[2:] if b"\r\n." in raw else raw[2:]
            passed_on, held = held, 0
            return Content(raw, held=passed_on)
        finally:
            memory.give_back(held)

    async def _fill(self) -> None:
        self._buffer += await self._read()

    async def _read(self) -> bytes:
        chunk = await self._reader.read(_CHUNK)
        if not chunk:
            raise Closed
        return chunk


class _Dots:
    """The size of a message without added dots. They are counted only where they can decide, and each octet once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._looked = 0

    def size(self, buffer: bytearray, end: int) -> int:
        size = end - 2
        if size <= self._limit:
            return size
        self._count += buffer.count(b"\r\n.", max(0, self._looked - 2), end)
        self._looked = end
        return size - self._count
