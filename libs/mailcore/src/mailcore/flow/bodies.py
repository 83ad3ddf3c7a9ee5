"""What a received mail says, for an event whose endpoint wants it in the post itself."""

from __future__ import annotations

import asyncio
from typing import Any

from mailcore.blob.base import BlobStore
from mailcore.flow.parse import Reader, raw_of
from mailcore.kit.errors import NotFound, Refused

MAX_CHARACTERS = 262_144
"""Of html and of text each; what is longer is left out, and `body_omitted` says so: it can be fetched."""
READ_AT_ONCE = 4


class Bodies:
    """One a process."""

    def __init__(self, blobs: BlobStore, reader: Reader | None = None) -> None:
        self._blobs = blobs
        self._reader = reader or Reader()
        self._reading = asyncio.Semaphore(READ_AT_ONCE)  # a raw mail may be large, and many events may be in hand

    async def of(self, raw: bytes | None, raw_blob: str | None) -> dict[str, Any]:
        """`{"html", "text", "headers", "body_omitted"}`; images stay cid: references. Raises Unavailable."""
        found: dict[str, Any] = {"html": None, "text": None, "headers": None}
        if raw is None and raw_blob is None:
            return {**found, "body_omitted": True}
        omitted = False
        async with self._reading:
            try:
                found = await self._reader.content(await raw_of(self._blobs, raw, raw_blob), "cid")
            except (NotFound, Refused):
                omitted = True
        for name in ("html", "text"):
            if found[name] is not None and len(found[name]) > MAX_CHARACTERS:
                found[name], omitted = None, True
        return {**found, "body_omitted": omitted}
