"""A connection to a scanner's daemon: by TCP or a Unix socket, everything read within a limit, every failure `Unavailable`.

What it says of a failure names no address: tenants read it among the decisions about their mail.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mailcore.kit.errors import Invalid, Unavailable

CONNECT_SECONDS = 3.0
MAX_ANSWER = 256 * 1024
"""Octets of an answer; a scanner that says more is not understood."""
_PIECE = 128 * 1024


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon listens: `host:port`, `[v6]:port`, or the path of a Unix socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        return self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")


def address(text: str, port: int) -> Address:
    """`port`: where the text names none. Raises Invalid."""
    text = text.strip().removeprefix("unix:")
    if text.startswith("/"):
        return Address("", 0, text)
    host, _, written = text.rpartition(":")
    if not host or text.endswith("]") or (":" in host and not host.startswith("[")):
        host, written = text, ""  # no port: a name, or an IPv6 address
    host = host.removeprefix("[").removesuffix("]")
    number = written or str(port)
    if not host or not (number.isascii() and number.isdigit()) or not 0 < int(number) < 65536:
        raise Invalid(f"{text!r} is no address of a scanner. Write host:port, or the path of a Unix socket.")
    return Address(host, int(number))


class Wire:
    """One exchange with a daemon. It is heard all the while: what it said before it reset the connection is lost later on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: bytes) -> None:
        self._writer = writer
        self._said = asyncio.create_task(_all(reader, end))
        self._said.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may come to read it

    async def send(self, *parts: bytes | memoryview) -> None:
        """Waits for the daemon to read. One that closes while we write may have said why: the answer is still to be read."""
        try:
            for part in parts:
                view = memoryview(part)
                for at in range(0, len(view), _PIECE):
                    self._writer.write(view[at : at + _PIECE])
                    await self._writer.drain()
        except (ConnectionResetError, BrokenPipeError):
            return

    def end(self) -> None:
        """We say nothing more."""
        if self._writer.can_write_eof() and not self._writer.is_closing():
            try:
                self._writer.write_eof()
            except OSError:  # it is gone; what it said is read next
                return

    async def read(self) -> bytes:
        """All it says until it closes. Raises Unavailable when that is too much."""
        return await self._said

    def abort(self) -> None:
        self._said.cancel()
        self._writer.transport.abort()  # nothing that we wrote is waited for any more


async def _all(reader: asyncio.StreamReader, end: bytes) -> bytes:
    """Raises Unavailable, OSError."""
    found = bytearray()
    try:
        while piece := await reader.read(_PIECE):
            found += piece
            if len(found) > MAX_ANSWER:
                raise Unavailable("It says more than can be meant.")
    except ConnectionError:
        if not end or not found.endswith(end):
            raise
    return bytes(found)


@asynccontextmanager
async def connected(to: Address, *, end: bytes = b"") -> AsyncIterator[Wire]:
    """Closed at the end, whatever happened. `end`: of a whole answer, after which a reset takes nothing away; empty: none is known.
    Raises Unavailable for whatever goes wrong on the way, within too."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            if to.path:
                reader, writer = await asyncio.open_unix_connection(to.path)
            else:
                reader, writer = await asyncio.open_connection(to.host, to.port)
    except TimeoutError:
        raise Unavailable(f"No connection within {CONNECT_SECONDS:g} s.") from None
    except OSError as error:
        raise Unavailable(f"No connection: {_words(error)}.") from error
    wire = Wire(reader, writer, end)
    try:
        yield wire
    except (OSError, EOFError) as error:
        raise Unavailable(f"The connection broke: {_words(error)}.") from error
    finally:
        wire.abort()


def _words(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else type(error).__name__
