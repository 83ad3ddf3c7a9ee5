"""A message on its way in: in memory while it is small, then in a file, looked at as it comes.

    DATA   read_data    until CRLF.CRLF, without the dots that SMTP adds (RFC 5321 §4.1.1.4, §4.5.2)
    BDAT   read_chunk   so many octets, as they are (RFC 3030 §2)

Only what is bigger than a PIECE comes through here as DATA: a smaller message is taken out of the session's input at one go. A
piece is checked, hashed and written in a thread while the next one comes in, and the client waits when both are full: so a message
of any size costs two pieces of memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from inbound_smtp.checks import content
from inbound_smtp.replies import NO_MEMORY, NO_ROOM, TOO_BIG
from inbound_smtp.wire import Budget, Flood
from mailcore.blob.base import Spooled
from mailcore.kit.log import logger
from mailcore.smtp.reply import Reply

log = logger(__name__)

PIECE = 256 * 1024
"""Octets that are held of a large message, and the size up to which one stays in memory."""
_WASTE = 4_096
"""The same of one that is thrown away."""
END = b"\r\n.\r\n"
PREFIX = "postroom-"


class Source(Protocol):
    """The session, as far as it is where octets come from."""

    octets: bytearray
    """What has come and nobody has read. Of DATA with the CRLF that ended the command before it: a dot may be its first line."""

    async def more(self) -> None:
        """Returns when there are more. Raises Closed."""
        ...


@dataclass(frozen=True, slots=True)
class Room:
    """What the messages of a process share."""

    memory: Budget
    disk: Budget
    folder: Path | None = None
    """Of the files; None: the system's for temporary files."""


class Body:
    """One message. After a refusal it keeps nothing, and goes on counting."""

    def __init__(self, room: Room, *, limit: int, max_line: int) -> None:
        self._room = room
        self._limit = limit
        self._check = content.Check(max_line)
        self._pieces: list[bytes] = []
        self._file: Any = None
        self._hash = hashlib.sha256()
        self._on_disk = 0
        self.size = 0
        self.in_memory = 0
        """What it holds of Room.memory."""
        self.refused: Reply | None = None

    def add(self, piece: bytes) -> None:
        """For a small message: in memory. Raises Flood."""
        if self._counts(piece):
            self._pieces.append(piece)
            self._check.see(piece)

    async def write(self, piece: bytes) -> None:
        """Raises Flood."""
        if self._file is None and self.size + len(piece) <= PIECE:
            self.add(piece)
        elif self._counts(piece):
            try:
                await asyncio.to_thread(self._write, piece)
            except OSError as error:
                log.error("a message cannot be written to a file", error=str(error), octets=self.size)
                self.refuse(NO_ROOM)
            self._room.memory.give_back(self.in_memory)
            self.in_memory = 0

    def refuse(self, reply: Reply) -> None:
        """What comes from here on is only counted."""
        self.refused = self.refused or reply
        self.discard()

    async def done(self) -> bytes | Spooled | Reply:
        """The message; or why it is refused. A file is there until `discard`."""
        self.refused = self.refused or self._check.done()
        if self.refused is not None:
            self.discard()
            return self.refused
        if self._file is None:
            return b"".join(self._pieces)
        return await asyncio.to_thread(self._spooled)

    def discard(self) -> None:
        """Twice does what once does."""
        self._room.memory.give_back(self.in_memory)
        self._room.disk.give_back(self._on_disk)
        self.in_memory = self._on_disk = 0
        self._pieces = []
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            Path(self._file.name).unlink(missing_ok=True)
            self._file = None

    def _counts(self, piece: bytes) -> bool:
        """Whether it is kept."""
        self.size += len(piece)
        if self.size > self._limit:
            self.refuse(TOO_BIG)
            if self.size > 2 * self._limit + PIECE:
                raise Flood
        elif self.refused is None and not self._room_for(len(piece)):
            self.refuse(NO_MEMORY if self.size <= PIECE else NO_ROOM)
        return self.refused is None

    def _room_for(self, octets: int) -> bool:
        if self.size <= PIECE:
            if not self._room.memory.take(octets):
                return False
            self.in_memory += octets
            return True
        if not self._room.disk.take(octets):
            return False
        self._on_disk += octets
        return True

    def _write(self, piece: bytes) -> None:
        """In a thread. Raises OSError."""
        self._check.see(piece)
        if self._file is None:
            self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115
                prefix=PREFIX, dir=self._room.folder, buffering=0, delete=False
            )
            for before in self._pieces:
                self._put(before)
            self._pieces = []
        self._put(piece)

    def _put(self, piece: bytes) -> None:
        self._hash.update(piece)
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) :]

    def _spooled(self) -> Spooled:
        return Spooled(Path(self._file.name), self.size, self._hash.digest())


async def read_data(source: Source, body: Body) -> None:
    """Into `body`, until the end of the message, which is taken out of the source too. Raises Closed, Flood."""
    octets = source.octets
    looked = 0
    over = 2  # octets at the beginning that are not of this piece: a CRLF, as a dot after it may be one that SMTP added
    while True:
        end = octets.find(END, looked)
        if end < 0 and len(octets) < (PIECE if body.refused is None else _WASTE):
            looked = max(0, len(octets) - len(END) + 1)
            await source.more()
            continue
        # what may be the beginning of the end stays, and no CRLF is cut in two
        cut = end + 2 if end >= 0 else len(octets) - len(END) + 1
        if end < 0 and octets[cut - 1] == 0x0D:
            cut -= 1
        piece = bytes(octets[:cut])
        stays = 2 if end < 0 and piece.endswith(b"\r\n") else 0
        del octets[: end + len(END) if end >= 0 else cut - stays]
        piece = piece.replace(b"\r\n.", b"\r\n") if b"\r\n." in piece else piece
        await body.write(piece[over:])
        if end >= 0:
            return
        looked, over = 0, stays


async def read_chunk(source: Source, body: Body, octets: int) -> None:
    """So many octets into `body`, taken out of the source. Raises Closed, Flood."""
    while octets:
        if not source.octets:
            await source.more()
            continue
        piece = bytes(source.octets[: min(octets, PIECE)])
        del source.octets[: len(piece)]
        octets -= len(piece)
        await body.write(piece)
