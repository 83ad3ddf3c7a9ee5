"""GET /v1/messages, /v1/messages/search; GET, PATCH, DELETE /v1/messages/{id}; POST /v1/messages/flags."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.body import read, takes
from api.context import Context, Ctx
from api.errors import invalid, not_found
from api.links import RECEIVED, links
from api.messages import query, schemas, shapes
from api.messages.schemas import Flags, FlagsOfMany
from api.messages.shapes import BOOLEAN, UUID_, parameter
from api.pages import PARAMETERS, listed, page, path_id, plain_limit
from mailcore.flow.parse import raw_of
from mailcore.flow.words import in_mailbox
from mailcore.kit.errors import NotFound, Refused
from mailcore.mime.parse import Message
from mailcore.mime.view import INLINE, View
from mailcore.scanners.base import malware
from mailcore.store import arrivals, mailboxes, messages, search
from mailcore.store.messages import Filter

router = APIRouter(prefix="/v1/messages", tags=["messages"])

IMAGES = ("block", "proxy")
_GRAMMAR = (
    'Words, `"words in a row"`, `wor*`, `-word`, `this OR that`; from:, to:, subject:, filename:, has:attachment, in:, before:, '
    "after:, is:unread, is:read, is:starred."
)
_LIST = {
    "parameters": [
        *PARAMETERS["parameters"],
        *(parameter(name, UUID_) for name in ("mailbox_id", "account_id", "thread_id")),
        *(parameter(name, BOOLEAN) for name in ("unread", "starred")),
        parameter("junk", BOOLEAN, "With the keyword $Junk, or without it; both where it is left out."),
    ]
}
_SEARCH = {
    "parameters": [
        {
            "name": "q",
            "in": "query",
            "required": True,
            "schema": {"type": "string", "maxLength": query.MAX_QUERY},
            "description": _GRAMMAR,
        },
        *(each for each in PARAMETERS["parameters"] if each["name"] != "before"),
        parameter("mailbox_id", UUID_),
    ]
}
_GET = {
    "parameters": [
        parameter(
            "images",
            {"type": "string", "enum": list(IMAGES), "default": IMAGES[0]},
            "Images that the mail names elsewhere: left out, or fetched through us so that nobody learns who looks.",
        ),
        parameter(
            "inline",
            {"type": "string", "enum": list(INLINE), "default": INLINE[0]},
            "Images of the mail itself: within the HTML, or as signed links.",
        ),
    ]
}


@router.get("", responses={200: {"model": schemas.MessageList}}, response_model=None, openapi_extra=_LIST)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Newest first, by the time they came."""
    asked = page(request)
    unread = shapes.asked_boolean(request, "unread")
    mailbox = shapes.asked_id(request, "mailbox_id")
    narrow = Filter(
        mailbox_ids=None if mailbox is None else [mailbox],
        account_id=shapes.asked_id(request, "account_id"),
        thread_id=shapes.asked_id(request, "thread_id"),
        seen=None if unread is None else not unread,
        flagged=shapes.asked_boolean(request, "starred"),
        junk=shapes.asked_boolean(request, "junk"),
    )
    async with ctx.store.tenant(who.org_id) as db:
        found = await messages.page(db, asked, narrow)
    return listed(found, shapes.message)


@router.get("/search", responses={200: {"model": schemas.FoundMessages}}, response_model=None, openapi_extra=_SEARCH)
async def find(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Newest first."""
    text = request.query_params.get("q")
    if text is None:
        raise invalid("Missing `q` parameter: what to search for.", "missing_required_parameter")
    wanted = query.parse(text)
    asked, limit = page(request), plain_limit(request)
    if asked.before is not None:
        raise invalid("A search goes back in time: use `after`, not `before`.")
    mailbox = shapes.asked_id(request, "mailbox_id")
    async with ctx.store.search(who.org_id) as db:
        boxes = None if mailbox is None else [mailbox]
        if wanted.in_:
            inside = await _boxes(db, wanted.in_)
            boxes = inside if boxes is None else [box for box in boxes if box in inside]
        narrow = Filter(
            mailbox_ids=boxes,
            seen=wanted.seen,
            flagged=wanted.flagged,
            attachments=wanted.attachments,
            since=wanted.since,
            before=wanted.before,
        )
        if not wanted.tsquery:
            found = await messages.page(db, asked, narrow)
            rows, next_ = found.rows, found.rows[-1]["id"] if found.has_more else None
        else:
            tsquery = wanted.tsquery
            if boxes is not None:
                tsquery += " & (" + (" | ".join(f"'~{in_mailbox(box)}'" for box in boxes) or "'~m:'") + ")"
            done = await search.messages(db, who.org_id, tsquery, narrow, limit=limit, after=asked.after)
            rows, next_ = await messages.of_ids(db, done.ids), done.next
    return {
        "object": "list",
        "has_more": next_ is not None,
        "next": next_ and str(next_),
        "data": [shapes.message(row) for row in rows],
    }


@router.post(
    "/flags", responses={200: {"model": schemas.Flagged}}, response_model=None, openapi_extra=takes(FlagsOfMany)
)
async def flag_many(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Of up to 1,000 messages, or of all of a thread. Ids that there are not are passed over."""
    asked = await read(request, FlagsOfMany)
    ids = None if asked.ids is None else [path_id(id_, f"ids.{n}") for n, id_ in enumerate(asked.ids)]
    thread = None if asked.thread_id is None else path_id(asked.thread_id, "thread_id")
    async with ctx.store.tenant(who.org_id) as db:
        done = await messages.flag(db, ids=ids, thread_id=thread, seen=asked.read, flagged=asked.starred)
    return {"object": "flags", "ids": [str(id_) for id_ in done]}


@router.get("/{message_id}", responses={200: {"model": schemas.Message}}, response_model=None, openapi_extra=_GET)
async def get(request: Request, message_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """With its content. Reading it does not mark it as read."""
    id_ = path_id(message_id)
    images = _one_of(request, "images", IMAGES)
    inline = _one_of(request, "inline", INLINE)
    async with ctx.store.tenant(who.org_id) as db:
        row = await messages.find(db, id_)
        arrival = None
        if row is not None and row["arrival_id"] is not None:
            arrival = await arrivals.find(db, row["arrival_id"], raw=True)
    if row is None:
        raise not_found("Message")
    if arrival is not None and malware(arrival["findings"]) == "infected":
        inline = "link"  # what a scanner found malware in is nowhere handed out, within a text neither
    shown = await _view(ctx, arrival, inline, remote=images == "proxy")
    return {"object": "message"} | _whole(ctx, row, arrival, shown, images)


@router.patch(
    "/{message_id}", responses={200: {"model": schemas.MessageSummary}}, response_model=None, openapi_extra=takes(Flags)
)
async def flag(request: Request, message_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Read or unread, starred or not."""
    id_ = path_id(message_id)
    asked = await read(request, Flags)
    async with ctx.store.tenant(who.org_id) as db:
        if not await messages.flag(db, ids=[id_], seen=asked.read, flagged=asked.starred):
            raise not_found("Message")
        row = await messages.find(db, id_)
    return shapes.message(row)


@router.delete("/{message_id}", responses={200: {"model": schemas.MessageGone}}, response_model=None)
async def delete(message_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Out of its mailbox. The arrival with the raw mail stays as long as arrivals do."""
    id_ = path_id(message_id)
    async with ctx.store.tenant(who.org_id) as db:
        if not await messages.delete(db, id_):
            raise not_found("Message")
    return {"object": "message", "id": str(id_), "deleted": True}


async def _boxes(db: asyncpg.Connection, named: list[str]) -> list[UUID]:
    ids = [UUID(name) for name in named if len(name) == 36 and _is_uuid(name)]
    return [*ids, *await mailboxes.ids_of(db, named)]


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _one_of(request: Request, name: str, known: tuple[str, ...]) -> str:
    asked = request.query_params.get(name, known[0])
    if asked not in known:
        raise invalid(
            f"Invalid `{name}` parameter. Use {' or '.join(f'`{one}`' for one in known)}.", "invalid_parameter"
        )
    return asked


async def _view(ctx: Context, arrival: asyncpg.Record | None, inline: str, *, remote: bool) -> View | None:
    """None: the mail itself is not kept here."""
    if arrival is None:
        return None
    try:
        raw = await raw_of(ctx.blobs, arrival["raw"], arrival["raw_blob"])
    except NotFound:
        return None
    try:
        return await ctx.reader.view(raw, inline, remote=remote)
    except Refused:
        # more than its reader may take: what it is still stands in its header
        return View(None, None, Message(raw[:110_000]).headers())


def _whole(
    ctx: Context, row: asyncpg.Record, arrival: asyncpg.Record | None, shown: View | None, images: str
) -> dict[str, Any]:
    signed, org_id = links(ctx), row["org_id"]
    attachments = []
    if arrival is not None:
        scan = malware(arrival["findings"])
        for one in (arrival["summary"] or {}).get("attachments", []):
            link = signed.file(RECEIVED, org_id, arrival["id"], one["id"])
            url = link.url if scan != "infected" else None
            attachments.append(one | {"scan": scan, "download_url": url, "expires_at": link.expires_at})
    html = None
    if shown is not None:
        html = shown.filled(
            lambda url: signed.image(org_id, row["id"], url).url,
            lambda n: attachments[n]["download_url"] or "" if n < len(attachments) else "",
        )
    raw = signed.file(RECEIVED, org_id, arrival["id"], "raw") if arrival is not None and shown is not None else None
    return shapes.message(row) | {
        "thread_by": row["thread_by"],
        "text": shown and shown.text,
        "html": html,
        "headers": shown and shown.headers,
        "authentication": arrival and arrival["auth"],
        "findings": arrival and arrival["findings"],
        "remote_images": shown.remote_found if shown else 0,
        "images": images,
        "attachments": attachments,
        "raw": raw and {"download_url": raw.url, "expires_at": raw.expires_at},
    }
