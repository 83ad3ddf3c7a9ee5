"""POST, GET /v1/accounts; GET, DELETE /v1/accounts/{id}."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field, StringConstraints
from starlette.requests import Request

from api.auth import FullAccess
from api.body import Asked, read, takes
from api.context import Ctx
from api.errors import ApiError, invalid, not_found
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.flow.mirror import Login
from mailcore.kit.errors import Refused, Unavailable
from mailcore.kit.ids import uuid7
from mailcore.queue.jobs import ACCOUNTS
from mailcore.store import accounts, pages
from mailcore.transport.imap.client import Security

router = APIRouter(prefix="/v1/accounts", tags=["accounts"])

Line = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewAccount(Asked):
    host: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    username: Line
    password: Line
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """993 with tls, else 143."""
    security: Literal["tls", "starttls", "none"] = "tls"


@router.post("", status_code=201, openapi_extra=takes(NewAccount))
async def create(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Signs in once to see that it works, then stores the account. Nothing is stored when the login fails."""
    asked = await read(request, NewAccount)
    login = Login(
        host=asked.host.strip().lower(),
        port=asked.port or (993 if asked.security == "tls" else 143),
        security=Security(asked.security),
        username=asked.username,
        password=asked.password,
    )
    try:
        await ctx.imap.try_login(login)
    except (Refused, Unavailable) as error:
        # also what may pass by itself is the caller's to see now: the account is not stored
        raise invalid(error.public) from error
    account_id = uuid7()
    async with ctx.store.tenant(who.org_id) as db:
        row = await accounts.add(
            db,
            account_id=account_id,
            mailbox_id=uuid7(),
            org_id=who.org_id,
            host=login.host,
            port=login.port,
            security=asked.security,
            username=login.username,
            password_sealed=ctx.keyring.seal(login.password.encode(), "imap"),
        )
    if row is None:
        raise ApiError(409, "resource_locked", f"{login.username} at {login.host} is connected already.")
    ctx.ringer.ring(ACCOUNTS, str(account_id))
    return {"object": "account"} | _shape(row)


@router.get("", openapi_extra=PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = page(request)
    async with ctx.store.tenant(who.org_id) as db:
        found = await pages.fetch(db, f"SELECT {accounts.COLUMNS} FROM accounts WHERE org_id = $1", [who.org_id], asked)
    return listed(found, _shape)


@router.get("/{account_id}")
async def get(account_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await accounts.get(db, who.org_id, path_id(account_id))
    if row is None:
        raise not_found("Account")
    return {"object": "account"} | _shape(row)


@router.delete("/{account_id}")
async def delete(account_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Forgets the account and what was mirrored from it. The mail on the server stays."""
    id_ = path_id(account_id)
    async with ctx.store.tenant(who.org_id) as db:
        if not await accounts.remove(db, who.org_id, id_):
            raise not_found("Account")
    return {"object": "account", "id": str(id_), "deleted": True}


def _shape(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "host": row["host"],
        "port": row["port"],
        "security": row["security"],
        "username": row["username"],
        "state": row["state"],
        "error": row["error"],
        "synced_at": row["synced_at"] and row["synced_at"].isoformat(),
        "created_at": row["created_at"].isoformat(),
    }
