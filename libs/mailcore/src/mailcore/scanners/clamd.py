"""ClamAV by clamd's INSTREAM (clamd(8)): the mail in pieces, each after its length; an empty one ends it.

    zINSTREAM\\0 <4 octets, the length> <piece> … 00 00 00 00        stream: OK\\0
                                                                   stream: Eicar-Test-Signature FOUND\\0
                                                                   INSTREAM size limit exceeded. ERROR\\0

clamd takes the mail apart itself: transfer encodings, archives, mails within mails.
"""

from __future__ import annotations

import asyncio
import re
import struct

from mailcore.kit.errors import Unavailable
from mailcore.scanners.base import Facts, Finding, Kind, Verdict, text
from mailcore.scanners.wire import Address, Wire, connected

PORT = 3310
MAX_BYTES = 100 * 1024 * 1024
"""clamd has a limit of its own, StreamMaxLength: set it to what SMTP takes at least."""
_PIECE = 256 * 1024
_FOUND = re.compile(r"stream: (.*) FOUND$")
_TOO_LARGE = "size limit exceeded"


class Clamd:
    kind = Kind.MALWARE

    def __init__(self, to: Address, *, seconds: float = 30.0, max_bytes: int = MAX_BYTES, name: str = "clamd") -> None:
        self.name = name
        self.seconds = seconds
        self.max_bytes = max_bytes
        self._to = to

    async def scan(self, raw: bytes, facts: Facts) -> Finding:
        """Raises Unavailable."""
        try:
            async with asyncio.timeout(self.seconds), connected(self._to, end=b"\0") as wire:
                await wire.send(b"zINSTREAM\0")
                await _stream(wire, raw)
                said = await wire.read()
        except TimeoutError:
            raise Unavailable(f"clamd did not answer within {self.seconds:g} s.") from None
        return self._read(said.rstrip(b"\0\r\n").decode("utf-8", "replace"))

    async def close(self) -> None:
        """It keeps no connection."""

    def _read(self, said: str) -> Finding:
        if said == "stream: OK":
            return Finding(self.name, Verdict.CLEAN, detail="Nothing was found.")
        if (found := _FOUND.match(said)) is not None:
            name = text(found[1], 80)
            return Finding(self.name, Verdict.INFECTED, tags=(name,), detail=f"{name} was found in it.").clean()
        if _TOO_LARGE in said:
            detail = "It is larger than clamd takes. Raise StreamMaxLength in clamd.conf."
            return Finding(self.name, Verdict.SKIPPED, detail=detail)
        words = text(said, 200) or "nothing"
        raise Unavailable(f"clamd answers: {words}.")


async def _stream(wire: Wire, raw: bytes) -> None:
    view = memoryview(raw)
    for at in range(0, len(view), _PIECE):
        piece = view[at : at + _PIECE]
        await wire.send(struct.pack("!I", len(piece)), piece)
    await wire.send(b"\0\0\0\0")
