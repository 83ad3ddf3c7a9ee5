"""POST, GET /v1/sources; GET, PATCH, DELETE /v1/sources/{id}: the addresses that mail leaves from, and how warm they are."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request

from api.body import read, takes
from api.context import Context, Ctx
from api.errors import not_found
from api.operators import Operator
from api.pages import PARAMETERS, page, path_id
from api.sources import schemas, shapes
from api.sources.shapes import CONFLICT, UNKNOWN
from mailcore.flow import sources as flow
from mailcore.store import bars, sources, warmups

router = APIRouter(prefix="/v1/sources", tags=["sources"])

_POOL = {"name": "pool_id", "in": "query", "required": False, "schema": {"type": "string", "format": "uuid"}}
_ADDRESSES = ("ipv4", "ipv6", "local_ipv4", "local_ipv6")


@router.post(
    "",
    status_code=201,
    response_model=None,
    responses={201: {"model": schemas.Source}, **CONFLICT, **UNKNOWN},
    openapi_extra=takes(schemas.NewSource),
)
async def create(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """Its warm-up begins at once, unless it is `warm`."""
    asked = await read(request, schemas.NewSource)
    values: dict[str, Any] = {field: shapes.address(getattr(asked, field), field) for field in _ADDRESSES}
    values |= {"pool_id": await _pool(ctx, asked.pool), "ehlo_name": shapes.name(asked.ehlo_name, "ehlo_name")}
    id_ = await flow.add_source(
        ctx.store, values, schedule=asked.schedule or ctx.settings.warmup.schedule, warm=asked.warm
    )
    return await _shown(ctx, str(id_))


@router.get(
    "",
    response_model=None,
    responses={200: {"model": schemas.SourceList}},
    openapi_extra={"parameters": [*PARAMETERS["parameters"], _POOL]},
)
async def list_(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    asked = page(request)
    pool = request.query_params.get("pool_id")
    async with ctx.store.worker() as db:
        now = await warmups.clock(db)
        found = await sources.sources(db, asked, None if pool is None else path_id(pool, "pool_id"))
        of = await warmups.of(db, [row["warmup_id"] for row in found.rows], now.date())
        barred = await bars.in_force(db)
    data = [shapes.source(row, *of[row["warmup_id"]], now, ctx.settings.warmup, barred) for row in found.rows]
    return {"object": "list", "has_more": found.has_more, "data": data}


@router.get("/{id}", response_model=None, responses={200: {"model": schemas.Source}})
async def get(id: str, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """With its last 30 days and 50 decisions."""
    return await _shown(ctx, id)


@router.patch(
    "/{id}",
    response_model=None,
    responses={200: {"model": schemas.Source}, **CONFLICT},
    openapi_extra=takes(schemas.SourceChange),
)
async def change(id: str, request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """Processes that send know of it within 5 seconds."""
    id_ = path_id(id)
    asked = await read(request, schemas.SourceChange)
    values: dict[str, Any] = {
        field: shapes.address(getattr(asked, field), field)
        for field in ("local_ipv4", "local_ipv6")
        if field in asked.model_fields_set
    }
    if asked.pool is not None:
        values["pool_id"] = await _pool(ctx, asked.pool)
    if asked.ehlo_name is not None:
        values["ehlo_name"] = shapes.name(asked.ehlo_name, "ehlo_name")
    await flow.change_source(ctx.store, id_, values, shapes.change_of(asked))
    return await _shown(ctx, id)


@router.delete("/{id}", response_model=None, responses={200: {"model": schemas.Gone}})
async def remove(id: str, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """With its history. Mail under way on it ends."""
    await flow.remove_source(ctx.store, path_id(id))
    return {"object": "source", "id": id, "deleted": True}


async def _pool(ctx: Context, name: str) -> UUID:
    async with ctx.store.worker() as db:
        found = await sources.find_pool(db, name)
    if found is None:
        raise not_found("Pool")
    return found


async def _shown(ctx: Context, id: str) -> dict[str, Any]:
    async with ctx.store.worker() as db:
        now = await warmups.clock(db)
        row = await sources.source(db, path_id(id))
        if row is None:
            raise not_found("Source")
        of = await warmups.of(db, [row["warmup_id"]], now.date())
        past = await warmups.history(db, row["warmup_id"])
        barred = await bars.in_force(db)
    return {
        "object": "source",
        **shapes.source(row, *of[row["warmup_id"]], now, ctx.settings.warmup, barred),
        **shapes.past(*past),
    }
