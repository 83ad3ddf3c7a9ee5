"""GET /emails/receiving, /emails/receiving/:id, …/attachments, …/attachments/:id (resend.md §5.1)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.context import Context, Ctx
from api.errors import invalid, not_found
from api.links import RECEIVED, Links, links
from api.pages import PARAMETERS, listed, page, path_id
from api.receiving import schemas
from mailcore.flow.parse import raw_of
from mailcore.kit.errors import NotFound, Refused
from mailcore.mime.parse import Message
from mailcore.scanners.base import malware
from mailcore.store import arrivals

router = APIRouter(prefix="/emails/receiving", tags=["receiving"])

LISTED = 1_000
"""Of a list without `limit`, which Resend gives whole."""
HTML_FORMATS = ("data_uri", "cid")
_HTML_FORMAT = {
    "parameters": [
        {
            "name": "html_format",
            "in": "query",
            "required": False,
            "description": "Images of the mail inside its HTML (data_uri), or the HTML as it came (cid).",
            "schema": {"type": "string", "enum": list(HTML_FORMATS), "default": HTML_FORMATS[0]},
        }
    ]
}


@router.get("", responses={200: {"model": schemas.ReceivedList}}, response_model=None, openapi_extra=PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Newest first. Mail shows here once it is routed."""
    asked = page(request, default=LISTED)
    async with ctx.store.tenant(who.org_id) as db:
        found = await arrivals.page(db, asked, routed=True)
    return listed(found, _shape)


@router.get(
    "/{email_id}", responses={200: {"model": schemas.Received}}, response_model=None, openapi_extra=_HTML_FORMAT
)
async def get(request: Request, email_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    html_format = request.query_params.get("html_format", HTML_FORMATS[0])
    if html_format not in HTML_FORMATS:
        raise invalid("Invalid `html_format` parameter. Use `data_uri` or `cid`.", "invalid_parameter")
    row = await routed(ctx, who.org_id, path_id(email_id), raw=True)
    if malware(row["findings"]) == "infected":
        html_format = "cid"  # what a scanner found malware in is nowhere handed out, within a text neither
    content = await content_of(ctx, row, html_format)
    raw: dict[str, str] | None = None
    if content is not None:
        link = links(ctx).file(RECEIVED, who.org_id, row["id"], "raw")
        raw = {"download_url": link.url, "expires_at": link.expires_at}
    content = content or {"html": None, "text": None, "headers": None}
    return {"object": "email"} | _shape(row) | content | {"html_format": html_format, "raw": raw}


@router.get(
    "/{email_id}/attachments",
    responses={200: {"model": schemas.AttachmentList}},
    response_model=None,
    openapi_extra=PARAMETERS,
)
async def list_attachments(request: Request, email_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = page(request, default=None)
    row = await routed(ctx, who.org_id, path_id(email_id))
    found = row["summary"]["attachments"]
    ids = [UUID(one["id"]) for one in found]
    if asked.after in ids:
        found = found[ids.index(asked.after) + 1 :]
    elif asked.before in ids:
        found = found[: ids.index(asked.before)]
    shown = found[: asked.limit]
    signed = links(ctx)
    return {
        "object": "list",
        "has_more": len(shown) < len(found),
        "data": [_attachment(signed, who.org_id, row["id"], one) for one in shown],
    }


@router.get(
    "/{email_id}/attachments/{attachment_id}", responses={200: {"model": schemas.Attachment}}, response_model=None
)
async def get_attachment(email_id: str, attachment_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    wanted = str(path_id(attachment_id, "attachment_id"))
    row = await routed(ctx, who.org_id, path_id(email_id))
    for one in row["summary"]["attachments"]:
        if one["id"] == wanted:
            return {"object": "attachment"} | _attachment(links(ctx), who.org_id, row["id"], one)
    raise not_found("Attachment")


async def routed(ctx: Context, org_id: UUID, id_: UUID, *, raw: bool = False) -> asyncpg.Record:
    async with ctx.store.tenant(org_id) as db:
        row = await arrivals.find(db, id_, raw=raw)
    if row is None or row["summary"] is None:
        raise not_found("Email")
    return row


async def content_of(ctx: Context, row: asyncpg.Record, html_format: str) -> dict[str, Any] | None:
    """`{"html", "text", "headers"}` of a row with its raw mail. None: the mail itself is no longer kept."""
    try:
        octets = await raw_of(ctx.blobs, row["raw"], row["raw_blob"])
    except NotFound:
        return None
    try:
        return await ctx.reader.content(octets, html_format)
    except Refused:
        # more than its reader may take: what it is still stands in its header
        return {"html": None, "text": None, "headers": Message(octets[:110_000]).headers()}


def _shape(row: Any) -> dict[str, Any]:
    summary = row["summary"]
    return {
        "id": str(row["id"]),
        "from": summary["from"] or row["mail_from"],
        "to": summary["to"],
        "cc": summary["cc"],
        "bcc": summary["bcc"],
        "reply_to": summary["reply_to"],
        "received_for": summary["received_for"],
        "subject": summary["subject"],
        "message_id": summary["message_id"],
        "created_at": row["created_at"].isoformat(),
        "attachments": summary["attachments"],
    }


def _attachment(signed: Links, org_id: UUID, arrival_id: UUID, one: dict[str, Any]) -> dict[str, Any]:
    link = signed.file(RECEIVED, org_id, arrival_id, one["id"])
    return one | {"download_url": link.url, "expires_at": link.expires_at}
