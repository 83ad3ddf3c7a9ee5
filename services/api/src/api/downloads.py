"""GET /v1/downloads/received/{org}/{email}/{raw or attachment id}: what signed links lead to. No key is asked for.

What strangers sent is handed out as a file and never shown in our origin: attachment, no sniffing, a sandbox without rights.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context, Ctx
from api.errors import ApiError, not_found
from api.links import RECEIVED, links
from api.pages import path_id
from mailcore.flow.links import MARKED
from mailcore.flow.marking import Marks, marks_from, unmarked
from mailcore.flow.parse import raw_of
from mailcore.kit.errors import NotFound
from mailcore.scanners.base import malware
from mailcore.store import arrivals, events

router = APIRouter(include_in_schema=False)

MAX_NAME, MAX_ENDING = 200, 20
"""Octets of a file's name in UTF-8, and of what stands behind its last dot."""
_INFECTED = (
    "A scanner found malware in this mail: its attachments are not handed out. GET /v1/arrivals/{id} says what was found; who has "
    "to look into it finds all of the mail in its raw form."
)
_UNSAFE = re.compile(r"[^A-Za-z0-9!#$&+.^_`|~ -]")
_SAFE_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}\Z")


@router.get("/v1/downloads/received/{org}/{arrival}/{what}", response_model=None)
async def received(request: Request, org: str, arrival: str, what: str, ctx: Ctx) -> Response:
    org_id, arrival_id = path_id(org), path_id(arrival)
    query = request.query_params
    links(ctx).check(RECEIVED, org_id, arrival_id, what, query.get("expires", ""), query.get("signature", ""))
    async with ctx.store.tenant(org_id) as db:
        row = await arrivals.find(db, arrival_id, raw=True)
    if row is None:
        raise not_found("Email")
    whole = what == "raw" or what.startswith(MARKED)
    if not whole and malware(row["findings"]) == "infected":
        raise ApiError(403, "infected_attachment", _INFECTED)
    try:
        raw = await raw_of(ctx.blobs, row["raw"], row["raw_blob"])
    except NotFound:
        raise not_found("Email") from None
    if whole:
        marks = Marks() if what == "raw" else await _marks(ctx, org_id, arrival_id, what.removeprefix(MARKED))
        content = raw if what == "raw" else marks.head.encode() + await asyncio.to_thread(unmarked, raw, marks)
        return file_response(content, "message/rfc822", f"{arrival_id}.eml")
    n = number_of(row["summary"], what)
    file = None if n is None else await ctx.reader.attachment(raw, n)
    if file is None:
        raise not_found("Attachment")
    return file_response(file.content, file.content_type, file.filename or "attachment")


async def _marks(ctx: Context, org_id: UUID, arrival_id: UUID, event: str) -> Marks:
    """Of the event by which a route posted it. Raises ApiError."""
    async with ctx.store.tenant(org_id) as db:
        detail = await events.detail(db, path_id(event), arrival_id)
    if detail is None:
        raise not_found("Email")
    return marks_from(detail.get("marks"))


def number_of(summary: dict[str, Any] | None, attachment_id: str) -> int | None:
    """An attachment's number in its mail, by its id."""
    ids = [one["id"] for one in (summary or {}).get("attachments", [])]
    return ids.index(attachment_id) if attachment_id in ids else None


def _short(filename: str) -> str:
    """As long as a file system and a proxy's limit of a header allow; it keeps its ending, by which a person knows what it is."""
    if len(filename.encode("utf-8", "replace")) <= MAX_NAME:
        return filename
    stem, dot, ending = filename.rpartition(".")
    if not stem or len(ending.encode("utf-8", "replace")) > MAX_ENDING:
        stem, dot, ending = filename, "", ""
    room = MAX_NAME - len(f"{dot}{ending}".encode("utf-8", "replace"))
    return stem.encode("utf-8", "replace")[:room].decode("utf-8", "ignore") + dot + ending


def file_response(content: bytes, content_type: str, filename: str) -> Response:
    """What strangers made, as a file and nothing else."""
    filename = _short(filename)
    # RFC 6266 §5: an ASCII name for old readers, the true one beside it
    fallback = _UNSAFE.sub("_", filename)
    encoded = quote(filename.encode("utf-8", "replace"), safe="")
    return Response(
        content,
        media_type=content_type if _SAFE_TYPE.match(content_type) else "application/octet-stream",
        headers={
            "content-disposition": f"attachment; filename=\"{fallback}\"; filename*=UTF-8''{encoded}",
            "content-security-policy": "default-src 'none'; sandbox",
            "x-content-type-options": "nosniff",
            "cross-origin-resource-policy": "same-site",
            "cache-control": "private, max-age=3600",
            "referrer-policy": "no-referrer",
        },
    )
