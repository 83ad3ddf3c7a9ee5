"""The seam: what every blob store does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Protocol
from uuid import UUID

from mailcore.kit.ids import uuid7, uuid7_time

INLINE_BYTES = 64 * 1024
"""Up to this much stays in its row."""


def new_key(org_id: UUID) -> str:
    id_ = uuid7()
    return f"{org_id}/{uuid7_time(id_):%Y-%m}/{id_}"


class BlobStore(Protocol):
    async def put(self, key: str, content: bytes) -> None:
        """Durable when it returns. Raises Unavailable."""
        ...

    async def get(self, key: str) -> bytes:
        """Raises NotFound, Unavailable."""
        ...

    async def delete(self, key: str) -> None:
        """Deleting what is not there is no error. Raises Unavailable."""
        ...

    def keys(self, *, older_than: datetime) -> AsyncIterator[str]:
        """Keys last written before that, for the sweep of orphans."""
        ...

    async def check(self) -> None:
        """Writes, reads and deletes a small blob: what readiness asks. Raises Unavailable."""
        ...
