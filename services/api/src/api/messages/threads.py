"""GET /v1/threads, /v1/threads/{id}. Its messages: GET /v1/messages?thread_id=."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.context import Ctx
from api.errors import not_found
from api.messages import schemas, shapes
from api.messages.shapes import BOOLEAN, UUID_, parameter
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.store import threads

router = APIRouter(prefix="/v1/threads", tags=["messages"])

_LIST = {"parameters": [*PARAMETERS["parameters"], parameter("mailbox_id", UUID_), parameter("unread", BOOLEAN)]}


@router.get("", responses={200: {"model": schemas.ThreadList}}, response_model=None, openapi_extra=_LIST)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """The one with the newest message first."""
    asked = page(request)
    mailbox, unread = shapes.asked_id(request, "mailbox_id"), shapes.asked_boolean(request, "unread")
    async with ctx.store.tenant(who.org_id) as db:
        found = await threads.page(db, asked, mailbox_id=mailbox, unread=unread)
    return listed(found, shapes.thread)


@router.get("/{thread_id}", responses={200: {"model": schemas.Thread}}, response_model=None)
async def get(thread_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await threads.find(db, path_id(thread_id))
    if row is None:
        raise not_found("Thread")
    return {"object": "thread"} | shapes.thread(row)
