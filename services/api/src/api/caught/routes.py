"""GET, DELETE /v1/caught; GET /v1/caught/:id/raw."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from api.auth import FullAccess
from api.context import Context, Ctx
from api.errors import ApiError, invalid, not_found
from api.pages import path_id
from mailcore.blob import caught
from mailcore.blob.caught import Caught

router = APIRouter(prefix="/v1/caught", tags=["catch mode"])

MAX_LIMIT = 10_000

_PARAMETERS: dict[str, Any] = {
    "parameters": [
        {"name": "to", "in": "query", "required": False, "schema": {"type": "string"}},
        {
            "name": "after",
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": "What came after the mail with this id, or after this ISO 8601 time.",
        },
        {"name": "limit", "in": "query", "required": False, "schema": {"type": "integer", "maximum": MAX_LIMIT}},
    ]
}


class CaughtMail(BaseModel):
    id: str
    mail_from: str
    rcpt_to: list[str]
    subject: str
    size: int
    received_at: str
    peer: str


class CaughtList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[CaughtMail]


class CaughtDeleted(BaseModel):
    object: str = "caught"
    deleted: int


@router.get("", response_model=None, responses={200: {"model": CaughtList}}, openapi_extra=_PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Oldest first. Without `limit` all of it."""
    folder = _folder(ctx)
    query = request.query_params
    limit = query.get("limit")
    if limit is not None and not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MAX_LIMIT):
        raise invalid(f"The `limit` must be a number between 1 and {MAX_LIMIT}.")
    wanted = None if limit is None else int(limit)
    after = _after(query.get("after"))
    found = await asyncio.to_thread(
        caught.list_caught, folder, query.get("to"), after, None if wanted is None else wanted + 1
    )
    return {
        "object": "list",
        "has_more": wanted is not None and len(found) > wanted,
        "data": [_shown(mail) for mail in found[:wanted]],
    }


@router.get(
    "/{id}/raw",
    response_class=Response,
    responses={200: {"content": {"message/rfc822": {}}, "description": "Exactly the bytes that were sent."}},
)
async def raw(id: str, who: FullAccess, ctx: Ctx) -> Response:
    folder = _folder(ctx)
    content = await asyncio.to_thread(caught.read_raw, folder, path_id(id))
    if content is None:
        raise not_found("Caught mail")
    # it is a stranger's HTML to a browser: never shown, always saved
    return Response(
        content,
        media_type="message/rfc822",
        headers={"content-disposition": f'attachment; filename="{id}.eml"', "x-content-type-options": "nosniff"},
    )


@router.delete("", response_model=None, responses={200: {"model": CaughtDeleted}})
async def delete(who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    return {"object": "caught", "deleted": await asyncio.to_thread(caught.delete_all, _folder(ctx))}


def _folder(ctx: Context) -> str:
    folder = ctx.settings.catch.dir
    if folder is None:
        raise ApiError(404, "not_found", "The requested endpoint does not exist.")
    return folder


def _after(text: str | None) -> UUID | datetime | None:
    if text is None:
        return None
    try:
        return UUID(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text.replace(" ", "+"))  # `+` of an offset that nobody percent-encoded
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        if at.year < 1971:
            raise ValueError
    except ValueError:
        raise invalid("The `after` parameter must be the id of a caught mail or an ISO 8601 time.") from None
    return at


def _shown(mail: Caught) -> dict[str, Any]:
    return {
        "id": str(mail.id),
        "mail_from": mail.mail_from,
        "rcpt_to": list(mail.rcpt_to),
        "subject": mail.subject,
        "size": mail.size,
        "received_at": mail.received_at.isoformat(),
        "peer": mail.peer,
    }
