"""Blobs in memory: the stand-in for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from mailcore.blob.base import Spooled, check_key, round_trip
from mailcore.kit.errors import NotFound


class MemoryBlobs:
    def __init__(self) -> None:
        self._blobs: dict[str, tuple[datetime, bytes]] = {}

    async def put(self, key: str, content: bytes) -> None:
        self._blobs[check_key(key)] = datetime.now(UTC), bytes(content)

    async def put_file(self, key: str, content: Spooled) -> None:
        await self.put(key, await asyncio.to_thread(content.read))

    async def get(self, key: str) -> bytes:
        if check_key(key) not in self._blobs:
            raise NotFound("This content is no longer kept.")
        return self._blobs[key][1]

    async def delete(self, key: str) -> None:
        self._blobs.pop(check_key(key), None)

    async def keys(self, *, older_than: datetime) -> AsyncIterator[str]:
        for key in [key for key, (at, _) in self._blobs.items() if at < older_than]:
            yield key

    async def check(self) -> None:
        await round_trip(self)
