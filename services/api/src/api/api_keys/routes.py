"""POST, GET /api-keys; DELETE /api-keys/:id."""

from __future__ import annotations

import hashlib
import secrets
from string import ascii_letters, digits
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from api.auth import FullAccess
from api.body import Asked, read, takes
from api.context import Ctx
from api.errors import invalid, not_found
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.kit.ids import uuid7
from mailcore.mime.headers import check_text
from mailcore.store import api_keys, domains

router = APIRouter(tags=["api-keys"])

_BASE62 = ascii_letters + digits


class CreateApiKey(Asked):
    name: str = Field(max_length=50)
    permission: Literal["full_access", "sending_access"] = "full_access"
    domain_id: str | None = Field(None, description="Only with sending_access: the one domain this key sends from.")


class ApiKeyCreated(BaseModel):
    id: str
    token: str


class ApiKey(BaseModel):
    id: str
    name: str
    created_at: str
    last_used_at: str | None


class ApiKeyList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[ApiKey]


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
    if asked.domain_id is not None and asked.permission != "sending_access":
        raise invalid("The `domain_id` field is only for keys with `sending_access`.")
    domain_id = None if asked.domain_id is None else path_id(asked.domain_id, "domain_id")
    key_id, token = uuid7(), new_token()
    async with ctx.store.tenant(who.org_id) as db:
        if domain_id is not None and await domains.find(db, domain_id) is None:
            raise not_found("Domain")
        await api_keys.insert(
            db,
            id_=key_id,
            org_id=who.org_id,
            name=asked.name,
            digest=hashlib.sha256(token.encode()).digest(),
            permission=asked.permission,
            domain_id=domain_id,
        )
    return {"id": str(key_id), "token": token}


@router.get("/api-keys", response_model=None, responses={200: {"model": ApiKeyList}}, openapi_extra=PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = page(request, default=None)
    async with ctx.store.tenant(who.org_id) as db:
        found = await api_keys.page(db, asked)
    return listed(found, _shown)


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


def _shown(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "name": row["name"],
        "created_at": row["created_at"].isoformat(),
        "last_used_at": None if row["last_used_at"] is None else row["last_used_at"].isoformat(),
    }
