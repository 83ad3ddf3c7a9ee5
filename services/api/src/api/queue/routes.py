"""POST /v1/queue/hold, /resume, /flush, /reroute, /bounce, /purge; GET /v1/queue/holds and /orders: the operator's.

Every verb takes `dry_run`, which changes nothing and says what it would touch.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import Principal
from api.body import read, takes
from api.context import Context, Ctx
from api.errors import invalid, not_found
from api.operators import Operator
from api.pages import PARAMETERS, page, path_id
from api.queue import schemas
from api.queue.schemas import ByQuery
from api.queue.shapes import CLASSES, hold_shape, order_shape, ordered_by, organization, told_shape
from mailcore.dns.names import normalize_domain
from mailcore.flow import operate
from mailcore.flow.operate import QueryVerb
from mailcore.kit.errors import Invalid
from mailcore.store import holds, queue_orders
from mailcore.store.queue_orders import Query
from mailcore.store.suppressions import folded

router = APIRouter(prefix="/v1/queue", tags=["queue"])

_TOLD: dict[int | str, dict[str, Any]] = {200: {"model": schemas.Told}}


@router.post("/hold", responses=_TOLD, response_model=None, openapi_extra=takes(schemas.Hold, required=False))
async def hold(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """Nothing leaves, or nothing of one organization. One site: POST /v1/sites/{id}/suspend."""
    asked = await read(request, schemas.Hold)
    told = await operate.hold(
        ctx.store,
        None,
        organization(asked.organization_id),
        seconds=asked.seconds,
        reason=asked.reason,
        ordered_by=ordered_by(who),
        dry_run=asked.dry_run,
    )
    return told_shape("hold", told)


@router.post("/resume", responses=_TOLD, response_model=None, openapi_extra=takes(schemas.Resume, required=False))
async def resume(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """Lifts what `hold` placed; holds of sites stay."""
    asked = await read(request, schemas.Resume)
    told = await operate.resume(
        ctx.store,
        ctx.ringer,
        None,
        organization(asked.organization_id),
        ordered_by=ordered_by(who),
        dry_run=asked.dry_run,
    )
    return told_shape("resume", told)


@router.post("/flush", responses=_TOLD, response_model=None, openapi_extra=takes(ByQuery))
async def flush(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """What waits for its next attempt is due now, and its sites rest no more."""
    return await _order(await read(request, ByQuery), who, ctx, "flush")


@router.post("/reroute", responses=_TOLD, response_model=None, openapi_extra=takes(schemas.Reroute))
async def reroute(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """It leaves by one of the installation's ways out, now: with a site, that drains the site to a provider."""
    asked = await read(request, schemas.Reroute)
    way_id = None if asked.way_id is None else path_id(asked.way_id, "way_id")
    return await _order(asked, who, ctx, "reroute", way_id)


@router.post("/bounce", responses=_TOLD, response_model=None, openapi_extra=takes(ByQuery))
async def bounce(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """It bounces, with the reason as the words; its senders hear by `email.bounced`."""
    return await _order(await read(request, ByQuery), who, ctx, "bounce")


@router.post("/purge", responses=_TOLD, response_model=None, openapi_extra=takes(ByQuery))
async def purge(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """It is not sent any more, and nobody is told; each delivery keeps an attempt that says so."""
    return await _order(await read(request, ByQuery), who, ctx, "purge")


async def _order(
    asked: ByQuery, who: Principal, ctx: Context, verb: QueryVerb, way_id: UUID | None = None
) -> dict[str, Any]:
    told = await operate.order(
        ctx.store,
        ctx.ringer,
        verb,
        _query(asked),
        reason=asked.reason,
        ordered_by=ordered_by(who),
        dry_run=asked.dry_run,
        way_id=way_id,
    )
    return told_shape(verb, told)


@router.get("/holds", responses={200: {"model": schemas.HoldList}}, response_model=None)
async def list_holds(_: Operator, ctx: Ctx) -> dict[str, Any]:
    """Those in force, the latest first; a thousand at most."""
    async with ctx.store.worker() as db:
        found = await holds.in_force(db, 1_001)
    return {"object": "list", "has_more": len(found) > 1_000, "data": [hold_shape(each) for each in found[:1_000]]}


@router.get("/orders", responses={200: {"model": schemas.OrderList}}, response_model=None, openapi_extra=PARAMETERS)
async def list_orders(request: Request, _: Operator, ctx: Ctx) -> dict[str, Any]:
    """What was ordered, by whom, and what came of it."""
    asked = page(request)
    async with ctx.store.worker() as db:
        found = await queue_orders.page(db, asked)
    return {"object": "list", "has_more": found.has_more, "data": [order_shape(each) for each in found.rows]}


@router.get("/orders/{order_id}", responses={200: {"model": schemas.OrderShape}}, response_model=None)
async def get_order(order_id: str, _: Operator, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.worker() as db:
        found = await queue_orders.get(db, path_id(order_id, "order_id"))
    if found is None:
        raise not_found("Order")
    return order_shape(found)


def _query(asked: ByQuery) -> Query:
    """Raises ApiError 422."""
    older = asked.older_than_seconds
    return Query(
        site_id=None if asked.site_id is None else _site(asked.site_id),
        org_id=organization(asked.organization_id),
        domain=_domain(asked.domain, "domain"),
        class_=None if asked.class_ is None else CLASSES.index(asked.class_),
        from_domain=_domain(asked.from_domain, "from_domain"),
        recipient=None if asked.recipient is None else folded(asked.recipient.strip()),
        email_id=None if asked.email_id is None else path_id(asked.email_id, "email_id"),
        before=None if older is None else datetime.now(UTC) - timedelta(seconds=older),
        scheduled=asked.scheduled,
    )


def _site(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise invalid("Invalid `site_id` field. It must be the id of a site, as GET /v1/sites gives it.")
    return int(text)


def _domain(text: str | None, field: str) -> str | None:
    if text is None:
        return None
    try:
        return normalize_domain(text)
    except Invalid:
        raise invalid(f"Invalid `{field}` field. It is no domain name.") from None
