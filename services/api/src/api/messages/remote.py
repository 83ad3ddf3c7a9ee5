"""Images that mail names elsewhere, fetched for whoever looks: only what a browser draws, nothing it could take for a page."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from mailcore.kit.errors import NotFound, Refused, Unavailable
from mailcore.kit.guard import GuardedClient

MAX_BYTES = 10 * 1024 * 1024
DEADLINE_SECONDS = 15.0
MAX_REDIRECTS = 3
AT_ONCE = 16
"""Of a process: each may hold MAX_BYTES."""

_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"\x00\x00\x01\x00", "image/x-icon"),
)


@dataclass(frozen=True, slots=True)
class Image:
    content: bytes
    content_type: str


class RemoteImages:
    """One a process."""

    def __init__(self, client: GuardedClient) -> None:
        self._client = client
        self._fetching = asyncio.Semaphore(AT_ONCE)

    async def fetch(self, url: str) -> Image:
        """No cookie, no referrer, nothing of who looks. Raises NotFound for whatever is not an image that can be had."""
        try:
            async with self._fetching:
                answer = await self._client.request(
                    "GET",
                    url,
                    headers={"accept": "image/*", "user-agent": "Postroom"},
                    deadline=DEADLINE_SECONDS,
                    max_body=MAX_BYTES,
                    redirects=MAX_REDIRECTS,
                )
        except (Refused, Unavailable) as error:
            raise NotFound("The image cannot be had.") from error
        kind = kind_of(answer.body)
        if answer.status != 200 or answer.truncated or kind is None:
            raise NotFound("The image cannot be had.")
        return Image(answer.body, kind)

    async def close(self) -> None:
        await self._client.close()


def kind_of(content: bytes) -> str | None:
    """By its first octets, whatever it was called; None: no image that is known here (SVG is a document)."""
    for start, kind in _STARTS:
        if content.startswith(start):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    if content[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    return None
