"""POST, GET /v1/warmups; GET, PATCH, DELETE /v1/warmups/{id}: sending domains that may send more each day."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from api.body import read, takes
from api.context import Context, Ctx
from api.errors import not_found
from api.operators import Operator
from api.pages import PARAMETERS, page, path_id
from api.sources import schemas, shapes
from api.sources.shapes import CONFLICT
from mailcore.flow import sources as flow
from mailcore.store import warmups

router = APIRouter(prefix="/v1/warmups", tags=["sources"])


@router.post(
    "",
    status_code=201,
    response_model=None,
    responses={201: {"model": schemas.WarmupOne}, **CONFLICT},
    openapi_extra=takes(schemas.NewWarmup),
)
async def create(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """From now on the domain sends at most so much a day, from whatever source."""
    asked = await read(request, schemas.NewWarmup)
    domain = shapes.name(asked.domain, "domain")
    id_ = await flow.add_domain(ctx.store, domain, schedule=asked.schedule or ctx.settings.warmup.schedule)
    return await _shown(ctx, str(id_))


@router.get("", response_model=None, responses={200: {"model": schemas.WarmupList}}, openapi_extra=PARAMETERS)
async def list_(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    asked = page(request)
    async with ctx.store.worker() as db:
        now = await warmups.clock(db)
        found = await warmups.of_domains(db, asked)
        of = await warmups.of(db, [row["id"] for row in found.rows], now.date())
    data = [
        {"id": str(row["id"]), "domain": row["domain"], **shapes.warming(*of[row["id"]], now, ctx.settings.warmup)}
        for row in found.rows
    ]
    return {"object": "list", "has_more": found.has_more, "data": data}


@router.get("/{id}", response_model=None, responses={200: {"model": schemas.WarmupOne}})
async def get(id: str, who: Operator, ctx: Ctx) -> dict[str, Any]:
    return await _shown(ctx, id)


@router.patch(
    "/{id}",
    response_model=None,
    responses={200: {"model": schemas.WarmupOne}},
    openapi_extra=takes(schemas.WarmupChanges),
)
async def change(id: str, request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    id_ = path_id(id)
    asked = await read(request, schemas.WarmupChanges)
    await flow.change_domain(ctx.store, id_, shapes.change_of(asked))
    return await _shown(ctx, id)


@router.delete("/{id}", response_model=None, responses={200: {"model": schemas.Gone}})
async def remove(id: str, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """The domain has no limit of its own from then on."""
    await flow.remove_domain(ctx.store, path_id(id))
    return {"object": "warmup", "id": id, "deleted": True}


async def _shown(ctx: Context, id: str) -> dict[str, Any]:
    id_ = path_id(id)
    async with ctx.store.worker() as db:
        now = await warmups.clock(db)
        of = await warmups.of(db, [id_], now.date())
        if id_ not in of or of[id_][0].domain is None:
            raise not_found("Warm-up")
        past = await warmups.history(db, id_)
    warmup, today = of[id_]
    shown = {"object": "warmup", "id": str(id_), "domain": warmup.domain}
    return {**shown, **shapes.warming(warmup, today, now, ctx.settings.warmup), **shapes.past(*past)}
