"""POST, GET /v1/mailboxes; GET, PATCH, DELETE /v1/mailboxes/{id}."""

from __future__ import annotations

import time
import unicodedata
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.body import read, takes
from api.context import Ctx
from api.errors import ApiError, invalid, not_found
from api.mailboxes import schemas
from api.mailboxes.schemas import ChangedMailbox, NewMailbox
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.kit.errors import Conflict, Invalid, Unavailable
from mailcore.mime.doubts import is_mixed
from mailcore.smtp.address import FORBIDDEN, parse_address
from mailcore.store import mailboxes

router = APIRouter(prefix="/v1/mailboxes", tags=["mailboxes"])

_DELETE_SECONDS = 20.0
_LIST = {
    "parameters": [
        *PARAMETERS["parameters"],
        {"name": "domain_id", "in": "query", "required": False, "schema": {"type": "string", "format": "uuid"}},
    ]
}


@router.post(
    "",
    status_code=201,
    responses={201: {"model": schemas.Mailbox}},
    response_model=None,
    openapi_extra=takes(NewMailbox),
)
async def create(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Ahead of its first mail. 409 where there is one with this address."""
    asked = await read(request, NewMailbox)
    address, name = _address(asked.address), _name(asked.display_name)
    async with ctx.store.tenant(who.org_id) as db:
        try:
            made = await mailboxes.create(db, who.org_id, address, name)
        except LookupError:
            raise invalid(
                f"{address.rpartition('@')[2]} is no domain of this organization. Add it by POST /domains first."
            ) from None
        if made is None:
            raise Conflict("There is a mailbox with this address already.")
        row = await mailboxes.find(db, made)
    return {"object": "mailbox"} | _shape(row)


@router.get("", responses={200: {"model": schemas.MailboxList}}, response_model=None, openapi_extra=_LIST)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Newest first."""
    asked, domain = page(request), request.query_params.get("domain_id")
    domain_id = None if domain is None else path_id(domain, "domain_id")
    async with ctx.store.tenant(who.org_id) as db:
        found = await mailboxes.page(db, asked, domain_id=domain_id)
    return listed(found, _shape)


@router.get("/{mailbox_id}", responses={200: {"model": schemas.Mailbox}}, response_model=None)
async def get(mailbox_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await mailboxes.find(db, path_id(mailbox_id))
    if row is None:
        raise not_found("Mailbox")
    return {"object": "mailbox"} | _shape(row)


@router.patch(
    "/{mailbox_id}",
    responses={200: {"model": schemas.Mailbox}},
    response_model=None,
    openapi_extra=takes(ChangedMailbox),
)
async def update(request: Request, mailbox_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    id_ = path_id(mailbox_id)
    asked = await read(request, ChangedMailbox)
    async with ctx.store.tenant(who.org_id) as db:
        if not await mailboxes.rename(db, id_, _name(asked.display_name)):
            raise not_found("Mailbox")
        row = await mailboxes.find(db, id_)
    return {"object": "mailbox"} | _shape(row)


@router.delete("/{mailbox_id}", responses={200: {"model": schemas.MailboxGone}}, response_model=None)
async def delete(mailbox_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """With all messages in it. Of a very large one the answer may be 503: part of it is gone, ask again. New mail to its address
    makes another, where the domain's policy says so."""
    id_ = path_id(mailbox_id)
    async with ctx.store.tenant(who.org_id) as db:
        row = await mailboxes.find(db, id_)
    if row is None:
        raise not_found("Mailbox")
    if row["account_id"] is not None:
        raise ApiError(
            409, "resource_locked", "This mailbox mirrors an account. Remove the account: DELETE /v1/accounts/{id}."
        )
    until = time.monotonic() + _DELETE_SECONDS
    emptied = False
    while not emptied:
        async with ctx.store.tenant(who.org_id) as db:
            emptied = await mailboxes.empty(db, id_) < mailboxes.DELETED_AT_ONCE
            if emptied:
                await mailboxes.delete(db, id_)
        if not emptied and time.monotonic() > until:
            raise Unavailable(
                "The mailbox holds very many messages; part of them is deleted. Ask again to delete the rest."
            )
    return {"object": "mailbox", "id": str(id_), "deleted": True}


def _address(text: str) -> str:
    """The one form of what is one mailbox: NFKC and case folded, the domain in A-labels. Raises ApiError 422."""
    try:
        parsed = parse_address(unicodedata.normalize("NFKC", text.strip(" ")), allow_quoted=True)
    except Invalid as error:
        raise invalid(f"Invalid `address` field. {error.public}") from None
    local = parsed.local if parsed.local.isascii() else unicodedata.normalize("NFKC", parsed.local.casefold())
    local = local.lower()
    if "+" in local and not local.startswith('"'):
        raise invalid("Invalid `address` field. Mail to a +tag comes to the mailbox without it: leave the tag out.")
    if is_mixed(local):
        raise invalid(
            "Invalid `address` field. The part before `@` mixes letters of several alphabets that look alike."
        )
    return f"{local}@{parsed.domain}"


def _name(text: str | None) -> str | None:
    if text is not None and FORBIDDEN.search(text):
        raise invalid("Invalid `display_name` field. It must not contain control characters or line breaks.")
    return text.strip() or None if text is not None else None


def _shape(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "address": row["address"],
        "display_name": row["display_name"],
        "domain_id": row["domain_id"] and str(row["domain_id"]),
        "account_id": row["account_id"] and str(row["account_id"]),
        "unread": row["unread"],
        "last_received_at": row["last_received_at"] and row["last_received_at"].isoformat(),
        "created_at": row["created_at"].isoformat(),
    }
