"""POST, GET /v1/blocked-senders; GET, DELETE /v1/blocked-senders/{id}. A change counts within five seconds."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request

from api.auth import FullAccess
from api.body import Asked, read, takes
from api.context import Ctx
from api.errors import invalid, not_found
from api.messages.shapes import UUID_, asked_id, parameter
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.dns.names import normalize_domain
from mailcore.kit.errors import Invalid
from mailcore.smtp.address import folded, parse_address
from mailcore.store import blocked_senders, mailboxes

router = APIRouter(prefix="/v1/blocked-senders", tags=["mailboxes"])

MAX_SENDER = 320
"""Characters: in its one form an address may be many times as long as it was written (NFKC)."""
_LIST = {"parameters": [*PARAMETERS["parameters"], parameter("mailbox_id", UUID_)]}


class NewBlockedSender(Asked):
    sender: Annotated[str, Field(max_length=1000)]
    """An address, or `@example.com`: the domain and those below it."""
    mailbox_id: str | None = None
    """Left out: for all mailboxes of the organization."""


class BlockedSenderListed(BaseModel):
    id: str
    sender: str
    mailbox_id: str | None
    mailbox: str | None
    created_at: str


class BlockedSender(BlockedSenderListed):
    object: Literal["blocked_sender"]


class BlockedSenders(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[BlockedSenderListed]


class BlockedSenderGone(BaseModel):
    object: Literal["blocked_sender"]
    id: str
    deleted: Literal[True]


@router.post(
    "",
    status_code=201,
    responses={201: {"model": BlockedSender}},
    response_model=None,
    openapi_extra=takes(NewBlockedSender),
)
async def add(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """One that is blocked already stays as it is. His mail lies among the junk (`$Junk`), and no route is tried for it."""
    asked = await read(request, NewBlockedSender)
    sender = _sender(asked.sender)
    mailbox = None if asked.mailbox_id is None else path_id(asked.mailbox_id, "mailbox_id")
    async with ctx.store.tenant(who.org_id) as db:
        if mailbox is not None and await mailboxes.find(db, mailbox) is None:
            raise not_found("Mailbox")
        id_ = await blocked_senders.add(db, who.org_id, sender, mailbox)
        row = None if id_ is None else await blocked_senders.find(db, id_)
    if row is None:
        raise invalid(
            f"At most {blocked_senders.MAX_BLOCKED} senders can be blocked. Take some off the list, or block their domain."
        )
    return {"object": "blocked_sender", **_shape(row)}


@router.get("", responses={200: {"model": BlockedSenders}}, response_model=None, openapi_extra=_LIST)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Newest first; `mailbox_id` leaves out what other mailboxes, and all of them, block."""
    asked, mailbox = page(request), asked_id(request, "mailbox_id")
    async with ctx.store.tenant(who.org_id) as db:
        found = await blocked_senders.page(db, asked, mailbox)
    return listed(found, _shape)


@router.get("/{id}", responses={200: {"model": BlockedSender}}, response_model=None)
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    id_ = path_id(id)
    async with ctx.store.tenant(who.org_id) as db:
        row = await blocked_senders.find(db, id_)
    if row is None:
        raise not_found("Blocked sender")
    return {"object": "blocked_sender", **_shape(row)}


@router.delete("/{id}", responses={200: {"model": BlockedSenderGone}}, response_model=None)
async def delete(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Mail that lies among the junk already stays there."""
    id_: UUID = path_id(id)
    async with ctx.store.tenant(who.org_id) as db:
        if not await blocked_senders.delete(db, id_):
            raise not_found("Blocked sender")
    return {"object": "blocked_sender", "id": str(id_), "deleted": True}


def _sender(text: str) -> str:
    """Raises ApiError 422."""
    text = text.strip(" ")
    try:
        if text.startswith("@"):
            return "@" + normalize_domain(text[1:])
        sender = folded(parse_address(text, allow_quoted=True)).lower()
        if len(sender) <= MAX_SENDER:
            return sender
    except Invalid:
        pass
    raise invalid("Invalid `sender` field. Give an address, or a domain as `@example.com`.")


def _shape(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "sender": row["sender"],
        "mailbox_id": row["mailbox_id"] and str(row["mailbox_id"]),
        "mailbox": row["mailbox"],
        "created_at": row["created_at"].isoformat(),
    }
