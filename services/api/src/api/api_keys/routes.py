"""POST, GET /api-keys; PATCH, DELETE /api-keys/:id (resend.md §7)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from string import ascii_letters, digits
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from api.auth import FullAccess
from api.body import Asked, read, takes
from api.context import Ctx
from api.errors import ApiError, invalid, missing, not_found
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.kit.ids import uuid7
from mailcore.mime.headers import check_text
from mailcore.store import api_keys, domains
from mailcore.store.session import Connection

router = APIRouter(tags=["api-keys"])

MAX_DOMAINS = 100
_BASE62 = ascii_letters + digits
_EXPIRES = "When the key stops working: ISO 8601 with an offset, in the future; null is never."
_DOMAIN_IDS = "Only with sending_access: the domains this key sends from; null is all of the organization's."


class CreateApiKey(Asked):
    name: str = Field(max_length=50)
    permission: Literal["full_access", "sending_access", "full", "sending"] = Field(
        "full_access", description="`full` and `sending` are other names of the first two."
    )
    domain_id: str | None = Field(None, description="Only with sending_access: the one domain this key sends from.")
    domain_ids: list[str] | None = Field(None, min_length=1, max_length=MAX_DOMAINS, description=_DOMAIN_IDS)
    expires_at: str | None = Field(None, description=_EXPIRES)


class UpdateApiKey(Asked):
    name: str | None = Field(None, max_length=50)
    status: Literal["active", "inactive"] | None = Field(
        None, description="An inactive key opens nothing until it is active again."
    )
    domain_ids: list[str] | None = Field(None, min_length=1, max_length=MAX_DOMAINS, description=_DOMAIN_IDS)
    expires_at: str | None = Field(None, description=_EXPIRES)


class ApiKeyCreated(BaseModel):
    id: str
    token: str = Field(description="Shown only here.")


class ApiKey(BaseModel):
    id: str
    name: str
    created_at: str
    last_used_at: str | None
    permission: str
    domain_ids: list[str] | None
    status: str = Field(description="active, inactive, suspended")
    expires_at: str | None


class ApiKeyList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[ApiKey]


class ApiKeyUpdated(BaseModel):
    object: str = "api_key"
    id: str


class ApiKeyDeleted(BaseModel):
    object: str = "api_key"
    id: str
    deleted: bool


@router.post(
    "/api-keys",
    status_code=201,
    response_model=None,
    responses={201: {"model": ApiKeyCreated}},
    openapi_extra=takes(CreateApiKey),
)
async def create(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = await read(request, CreateApiKey)
    check_text(asked.name, "name")
    permission = {"full": "full_access", "sending": "sending_access"}.get(asked.permission, asked.permission)
    domain_ids = _domain_ids(asked)
    if domain_ids is not None and permission != "sending_access":
        field = "domain_id" if asked.domain_ids is None else "domain_ids"
        raise invalid(f"The `{field}` field is only for keys with `sending_access`.")
    key_id, token = uuid7(), new_token()
    key = api_keys.NewKey(
        *(key_id, who.org_id, asked.name, hashlib.sha256(token.encode()).digest(), permission, domain_ids),
        expires_at=_expiry(asked.expires_at),
    )
    async with ctx.store.tenant(who.org_id) as db:
        await _check_own(db, domain_ids)
        await api_keys.insert(db, key)
    return {"id": str(key_id), "token": token}


@router.get("/api-keys", response_model=None, responses={200: {"model": ApiKeyList}}, openapi_extra=PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = page(request, default=None)
    async with ctx.store.tenant(who.org_id) as db:
        found = await api_keys.page(db, asked)
    return listed(found, _shown)


@router.patch(
    "/api-keys/{id}",
    response_model=None,
    responses={200: {"model": ApiKeyUpdated}},
    openapi_extra=takes(UpdateApiKey),
)
async def update(request: Request, id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """What is not named stays as it is. `suspended` is the operator's: a key that is, cannot be made active here."""
    key_id = path_id(id)
    asked = await read(request, UpdateApiKey)
    given = asked.model_fields_set
    if not given or ("name" in given and asked.name is None):
        raise missing("name")
    if asked.name is not None:
        check_text(asked.name, "name")
    domain_ids = None if asked.domain_ids is None else [path_id(each, "domain_ids") for each in asked.domain_ids]
    expires_at = _expiry(asked.expires_at)
    async with ctx.store.tenant(who.org_id) as db:
        row = await api_keys.get(db, key_id)
        if row is None:
            raise not_found("API key")
        if asked.status is not None and row["status"] == "suspended":
            raise ApiError(403, "suspended_api_key", "This API key is suspended")
        if domain_ids is not None and row["permission"] != "sending_access":
            raise invalid("The `domain_ids` field is only for keys with `sending_access`.")
        await _check_own(db, domain_ids)
        await api_keys.update(
            db,
            key_id,
            name=row["name"] if asked.name is None else asked.name,
            status=asked.status or row["status"],
            domain_ids=domain_ids if "domain_ids" in given else row["domain_ids"],
            expires_at=expires_at if "expires_at" in given else row["expires_at"],
        )
    ctx.keys.forget(key_id)
    return {"object": "api_key", "id": str(key_id)}


@router.delete("/api-keys/{id}", response_model=None, responses={200: {"model": ApiKeyDeleted}})
async def delete(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    key_id = path_id(id)
    async with ctx.store.tenant(who.org_id) as db:
        if not await api_keys.delete(db, key_id):
            raise not_found("API key")
    ctx.keys.forget(key_id)
    return {"object": "api_key", "id": str(key_id), "deleted": True}


def new_token() -> str:
    """`re_` + 8 + `_` + 24 of base 62: 190 random bits, in the form that clients check for."""
    text = "".join(secrets.choice(_BASE62) for _ in range(32))
    return f"re_{text[:8]}_{text[8:]}"


def _domain_ids(asked: CreateApiKey) -> list[UUID] | None:
    if asked.domain_id is not None and asked.domain_ids is not None:
        raise invalid("Use either `domain_id` or `domain_ids`, not both.")
    if asked.domain_id is not None:
        return [path_id(asked.domain_id, "domain_id")]
    return None if asked.domain_ids is None else [path_id(each, "domain_ids") for each in asked.domain_ids]


async def _check_own(db: Connection, domain_ids: Sequence[UUID] | None) -> None:
    for domain_id in domain_ids or ():
        if await domains.find(db, domain_id) is None:
            raise not_found("Domain")


def _expiry(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text).astimezone(UTC)
        if datetime.fromisoformat(text).tzinfo is not None and at > datetime.now(UTC):
            return at
    except (ValueError, OverflowError):
        pass
    raise invalid("Invalid `expires_at` field. It needs to be a time in the future, such as `2030-01-31T12:00:00Z`.")


def _shown(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "name": row["name"],
        "created_at": row["created_at"].isoformat(),
        "last_used_at": None if row["last_used_at"] is None else row["last_used_at"].isoformat(),
        "permission": row["permission"],
        "domain_ids": None if row["domain_ids"] is None else [str(each) for each in row["domain_ids"]],
        "status": row["status"],
        "expires_at": None if row["expires_at"] is None else row["expires_at"].isoformat(),
    }
