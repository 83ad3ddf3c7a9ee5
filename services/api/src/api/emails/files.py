"""GET /emails/:id/attachments, …/attachments/:id (resend.md §4.5), and what their signed links lead to."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID, uuid5

import asyncpg
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import FullAccess
from api.context import Context, Ctx
from api.downloads import file_response
from api.emails import schemas
from api.errors import not_found
from api.links import SENT, links
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.flow.parse import File, raw_of
from mailcore.kit.errors import NotFound
from mailcore.store import sent
from mailcore.store.pages import Page, Slice

router = APIRouter(tags=["emails"])


@router.get(
    "/emails/{id}/attachments",
    responses={200: {"model": schemas.AttachmentList}},
    response_model=None,
    openapi_extra=PARAMETERS,
)
async def list_attachments(id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = page(request, default=None)
    email_id = path_id(id)
    found = _cut(await entries(ctx, who.org_id, email_id), asked)
    return listed(found, lambda one: shown(ctx, who.org_id, email_id, one))


@router.get(
    "/emails/{id}/attachments/{attachment_id}",
    responses={200: {"model": schemas.AttachmentFound}},
    response_model=None,
)
async def get_attachment(id: str, attachment_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    email_id, wanted = path_id(id), str(path_id(attachment_id, "attachment_id"))
    for one in await entries(ctx, who.org_id, email_id):
        if one["id"] == wanted:
            return {"object": "attachment", **shown(ctx, who.org_id, email_id, one)}
    raise not_found("Attachment")


@router.get("/v1/downloads/sent/{org}/{email}/{attachment}", response_model=None, include_in_schema=False)
async def download(org: str, email: str, attachment: str, request: Request, ctx: Ctx) -> Response:
    """No key is asked for: the signature is the permission."""
    org_id, email_id = path_id(org), path_id(email)
    query = request.query_params
    links(ctx).check(SENT, org_id, email_id, attachment, query.get("expires", ""), query.get("signature", ""))
    file = await content(ctx, org_id, email_id, attachment)
    if file is None:
        raise not_found("Attachment")
    return file_response(file.content, file.content_type, file.filename or "attachment")


async def entries(ctx: Context, org_id: UUID, email_id: UUID) -> list[dict[str, Any]]:
    """`{id, filename, size, content_type, content_id, disposition}` each, in order. Raises ApiError 404."""
    async with ctx.store.tenant(org_id) as db:
        row = await sent.attachments(db, email_id)
    if row is None:
        raise not_found("Email")
    if row["raw"] is None and row["raw_blob"] is None:
        return row["attachments"] or []
    summary = await ctx.reader.summary(await _raw(ctx, row))
    return [
        {
            "id": str(uuid5(email_id, str(n))),
            "filename": one.filename,
            "size": one.size,
            "content_type": one.content_type,
            "content_id": one.content_id,
            "disposition": one.content_disposition,
        }
        for n, one in enumerate(summary.attachments)
    ]


async def content(ctx: Context, org_id: UUID, email_id: UUID, attachment_id: str) -> File | None:
    async with ctx.store.tenant(org_id) as db:
        one = await sent.attachment(db, email_id, attachment_id)
        row = None if one is not None else await sent.attachments(db, email_id)
    if one is not None:
        octets = base64.b64decode(one["content"]) if "content" in one else await ctx.blobs.get(one["blob"])
        return File(one["filename"], one["content_type"], octets)
    if row is None or (row["raw"] is None and row["raw_blob"] is None):
        return None
    raw = await _raw(ctx, row)
    ids = [str(uuid5(email_id, str(n))) for n in range(len((await ctx.reader.summary(raw)).attachments))]
    return await ctx.reader.attachment(raw, ids.index(attachment_id)) if attachment_id in ids else None


def shown(
    ctx: Context, org_id: UUID, email_id: UUID, one: dict[str, Any], *, until: int | None = None
) -> dict[str, Any]:
    """`until`: as of `Links.file`."""
    link = links(ctx).file(SENT, org_id, email_id, one["id"], until=until)
    return {
        "id": one["id"],
        "filename": one["filename"],
        "size": one["size"],
        "content_type": one["content_type"],
        "content_disposition": one["disposition"] or "attachment",
        "content_id": one["content_id"],
        "download_url": link.url,
        "expires_at": link.expires_at,
    }


async def _raw(ctx: Context, row: asyncpg.Record) -> bytes:
    try:
        return await raw_of(ctx.blobs, row["raw"], row["raw_blob"])
    except NotFound:
        raise not_found("Email") from None


def _cut(found: list[dict[str, Any]], asked: Page) -> Slice:
    """`after` and `before` are places in the list, whose order is that of the email."""
    ids = [UUID(one["id"]) for one in found]
    if asked.after in ids:
        found = found[ids.index(asked.after) + 1 :]
    elif asked.before in ids:
        found = found[: ids.index(asked.before)]
    return Slice(found[: asked.limit], asked.limit is not None and len(found) > asked.limit)
