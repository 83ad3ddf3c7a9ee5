"""Command lines out of the octets of a connection, what ends one, and how much may be held of all (RFC 5321 §2.3.8, §4.5.3.1).

A line ends with CRLF and with nothing else. What came in the same packet after it stays for whoever reads next, so that pipelined
commands are in order (RFC 2920).
"""

from __future__ import annotations

from enum import Enum, auto

MAX_COMMAND = 2_048
"""Octets of a command line. RFC 5321 §4.5.3.1.4 says 512, and that extensions add to it."""
MAX_WASTE = 65_536
"""Of a line that is too long, how much is thrown away before the connection ends."""


class BadLine(Enum):
    TOO_LONG = auto()
    BARE_LF = auto()
    """Or a bare CR, or a NUL."""


class Closed(ConnectionError):
    """The client has gone."""


class Flood(ConnectionError):
    """It sends far more than it may, without end."""


def take_line(octets: bytearray) -> bytes | BadLine | None:
    """The first line, without its CRLF, taken out of `octets`. None: it is not all there."""
    end = octets.find(b"\n")
    if end < 0:
        return None
    line = bytes(octets[: end + 1])
    del octets[: end + 1]
    if end >= MAX_COMMAND:
        return BadLine.TOO_LONG
    if not line.endswith(b"\r\n") or b"\0" in line or line.find(b"\r") != end - 1:
        return BadLine.BARE_LF
    return line[:-2]


class Budget:
    """What all connections of a process hold of something: octets in memory, octets in files."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def take(self, octets: int) -> bool:
        """False: there is not so much left; then there is nothing to give back."""
        if self.held + octets > self._limit:
            return False
        self.held += octets
        return True

    def give_back(self, octets: int) -> None:
        self.held -= octets
