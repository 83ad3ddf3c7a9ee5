"""POST, GET /v1/pools; GET, PATCH, DELETE /v1/pools/{id}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request

from api.body import read, takes
from api.context import Ctx
from api.errors import not_found
from api.operators import Operator
from api.pages import PARAMETERS, listed, page, path_id
from api.sources import schemas, shapes
from api.sources.shapes import CLASSES, CONFLICT
from mailcore.store import sources

router = APIRouter(prefix="/v1/pools", tags=["sources"])


@router.post(
    "",
    status_code=201,
    response_model=None,
    responses={201: {"model": schemas.Pool}, **CONFLICT},
    openapi_extra=takes(schemas.NewPool),
)
async def create(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """It is in use from its first source on."""
    asked = await read(request, schemas.NewPool)
    async with ctx.store.worker() as db:
        id_ = await sources.add_pool(db, asked.name, _serves(asked.mail, asked.domains), _way(asked.overflow))
        row = await sources.pool(db, id_)
    return {"object": "pool", **shapes.pool(row)}


@router.get("", response_model=None, responses={200: {"model": schemas.PoolList}}, openapi_extra=PARAMETERS)
async def list_(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    asked = page(request)
    async with ctx.store.worker() as db:
        found = await sources.pools(db, asked)
    return listed(found, shapes.pool)


@router.get("/{id}", response_model=None, responses={200: {"model": schemas.Pool}})
async def get(id: str, who: Operator, ctx: Ctx) -> dict[str, Any]:
    return await _shown(ctx, id)


@router.patch(
    "/{id}",
    response_model=None,
    responses={200: {"model": schemas.Pool}, **CONFLICT},
    openapi_extra=takes(schemas.PoolChange),
)
async def change(id: str, request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    id_ = path_id(id)
    asked = await read(request, schemas.PoolChange)
    async with ctx.store.worker() as db:
        before = await sources.pool(db, id_)
        if before is None:
            raise not_found("Pool")
        serves = None
        if asked.mail is not None or asked.domains is not None:
            shown = shapes.pool(before)
            mail = shown["mail"] if asked.mail is None else asked.mail
            serves = _serves(mail, shown["domains"] if asked.domains is None else asked.domains)
        overflow = (_way(asked.overflow),) if "overflow" in asked.model_fields_set else None
        await sources.change_pool(db, id_, name=asked.name, serves=serves, overflow=overflow)
    return await _shown(ctx, id)


@router.delete("/{id}", response_model=None, responses={200: {"model": schemas.Gone}, **CONFLICT})
async def remove(id: str, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """Only without sources. Its mail goes as that of no pool; what waits in it is due at once."""
    async with ctx.store.worker() as db:
        await sources.remove_pool(db, path_id(id))
    return {"object": "pool", "id": id, "deleted": True}


async def _shown(ctx: Ctx, id: str) -> dict[str, Any]:
    async with ctx.store.worker() as db:
        row = await sources.pool(db, path_id(id))
    if row is None:
        raise not_found("Pool")
    return {"object": "pool", **shapes.pool(row)}


def _way(id: str | None) -> UUID | None:
    """Raises ApiError 422."""
    return None if id is None else path_id(id, "overflow")


def _serves(mail: Sequence[str], domains: Sequence[str]) -> list[tuple[str, int]]:
    """Raises ApiError 422."""
    names = [shapes.name(domain, f"domains.{n}") for n, domain in enumerate(domains)] or [""]
    return [(domain, CLASSES[each]) for domain in names for each in mail]
