"""The seam: what every blob store does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from uuid import UUID

from mailcore.kit.errors import NotFound, Refused, Unavailable
from mailcore.kit.ids import uuid7, uuid7_time

INLINE_BYTES = 64 * 1024
"""Up to this much stays in its row."""


def new_key(org_id: UUID, row: UUID | None = None) -> str:
    """`row`: the id of the row that will name it. Its time is then the key's, by which the sweep of orphans finds the one with
    the other, however long writing the blobs of a row takes.
    """
    id_ = uuid7(None if row is None else row.int >> 80)
    return f"{org_id}/{uuid7_time(id_):%Y-%m}/{id_}"


@dataclass(frozen=True, slots=True)
class Spooled:
    """Content that is too large for memory: in a file of its maker's, who removes it."""

    path: Path
    size: int
    sha256: bytes

    def read(self, most: int = -1) -> bytes:
        """The first so many octets; all of them by default. Blocks: for a thread. Raises OSError."""
        with self.path.open("rb") as file:
            return file.read(most)


class BlobStore(Protocol):
    async def put(self, key: str, content: bytes) -> None:
        """Durable when it returns. Raises Unavailable."""
        ...

    async def put_file(self, key: str, content: Spooled) -> None:
        """The same of a file, without reading it into memory. Raises Unavailable."""
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


_SEGMENT = re.compile(r"[A-Za-z0-9._-]{1,200}\Z")


def check_key(key: str) -> str:
    """`key`, when it can name nothing outside the store. Raises Refused: keys are made by us, so this is a defect, not input."""
    segments = key.split("/")
    if len(segments) > 8 or not all(_SEGMENT.match(part) and part.strip(".") for part in segments):
        raise Refused(f"{key[:200]!r} is not a key of a blob.")
    return key


async def round_trip(store: BlobStore) -> None:
    """The body of `check`. Raises Unavailable."""
    key = f"check/{uuid7()}"
    await store.put(key, b"check")
    try:
        if await store.get(key) != b"check":
            raise Unavailable("The blob store returned something else than was written to it.")
    except NotFound as error:
        raise Unavailable("The blob store does not find what was just written to it.") from error
    finally:
        await store.delete(key)
