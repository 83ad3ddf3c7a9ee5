"""POST, GET /v1/routes; GET, PATCH, DELETE /v1/routes/{id}; PUT /v1/routes/order. A change is in force within five seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.body import read, takes
from api.context import Ctx
from api.errors import invalid, not_found
from api.pages import path_id
from api.routes import schemas
from api.routes.schemas import ChangedInboundRoute, NewInboundRoute, NewOrder
from mailcore.flow.conditions import Match
from mailcore.flow.table import LAST, MAX_ROUTES, Action, RelayAction, StoreAction, WebhookAction
from mailcore.kit.ids import uuid7
from mailcore.store import routes, ways, webhooks
from mailcore.store.session import Connection

router = APIRouter(prefix="/v1/routes", tags=["routes"])


@router.post(
    "",
    status_code=201,
    responses={201: {"model": schemas.InboundRoute}},
    response_model=None,
    openapi_extra=takes(NewInboundRoute),
)
async def create(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = await read(request, NewInboundRoute)
    route_id = uuid7()
    async with ctx.store.tenant(who.org_id) as db:
        await routes.lock(db)
        there = len(await routes.all_(db))
        if there >= MAX_ROUTES:
            raise invalid(
                f"There are {MAX_ROUTES} routes already, the most there can be. Delete one that is not needed."
            )
        await _check(db, who.org_id, asked.actions)
        await routes.add(
            db,
            id_=route_id,
            org_id=who.org_id,
            position=min(asked.position or there + 1, there + 1),
            name=asked.name,
            enabled=asked.enabled,
            match=_json(asked.match),
            except_=None if asked.except_ is None else _json(asked.except_),
            actions=[action.model_dump(mode="json") for action in asked.actions],
            stop=asked.stop,
        )
        row = await routes.find(db, route_id)
    return {"object": "route"} | _shape(row)


@router.get("", responses={200: {"model": schemas.InboundRouteList}}, response_model=None)
async def list_(who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """The whole table, in its order."""
    async with ctx.store.tenant(who.org_id) as db:
        rows = await routes.all_(db)
    return {"object": "list", "has_more": False, "data": [_shape(row) for row in rows]}


@router.put(
    "/order",
    responses={200: {"model": schemas.InboundRouteList}},
    response_model=None,
    openapi_extra=takes(NewOrder),
)
async def reorder(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Those that are named come first, in this order; the others keep theirs behind them."""
    asked = await read(request, NewOrder)
    ids = [path_id(each, f"ids.{n}") for n, each in enumerate(asked.ids)]
    if len(set(ids)) < len(ids):
        raise invalid("Invalid `ids` field. Each route stands in it once.")
    async with ctx.store.tenant(who.org_id) as db:
        await routes.lock(db)
        there = [row["id"] for row in await routes.all_(db)]
        if set(ids) - set(there):
            raise not_found("Route")
        await routes.reorder(db, [*ids, *(id_ for id_ in there if id_ not in ids)])
        rows = await routes.all_(db)
    return {"object": "list", "has_more": False, "data": [_shape(row) for row in rows]}


@router.get("/{route_id}", responses={200: {"model": schemas.InboundRoute}}, response_model=None)
async def get(route_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await routes.find(db, path_id(route_id))
    if row is None:
        raise not_found("Route")
    return {"object": "route"} | _shape(row)


@router.patch(
    "/{route_id}",
    responses={200: {"model": schemas.InboundRoute}},
    response_model=None,
    openapi_extra=takes(ChangedInboundRoute),
)
async def change(route_id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    id_, asked = path_id(route_id), await read(request, ChangedInboundRoute)
    async with ctx.store.tenant(who.org_id) as db:
        await routes.lock(db)
        row = await routes.find(db, id_)
        if row is None:
            raise not_found("Route")
        if asked.actions is not None:
            await _check(db, who.org_id, asked.actions)
        except_ = row["except_"]
        if "except_" in asked.model_fields_set:
            except_ = None if asked.except_ is None else _json(asked.except_)
        await routes.change(
            db,
            id_,
            name=asked.name or row["name"],
            enabled=row["enabled"] if asked.enabled is None else asked.enabled,
            match=row["match"] if asked.match is None else _json(asked.match),
            except_=except_,
            actions=row["actions"]
            if asked.actions is None
            else [action.model_dump(mode="json") for action in asked.actions],
            stop=row["stop"] if asked.stop is None else asked.stop,
        )
        row = await routes.find(db, id_)
    return {"object": "route"} | _shape(row)


@router.delete("/{route_id}", responses={200: {"model": schemas.InboundRouteGone}}, response_model=None)
async def delete(route_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Mail that it relays and that waits goes on."""
    id_ = path_id(route_id)
    async with ctx.store.tenant(who.org_id) as db:
        await routes.lock(db)
        if not await routes.remove(db, id_):
            raise not_found("Route")
    return {"object": "route", "id": str(id_), "deleted": True}


async def _check(db: Connection, org_id: UUID, actions: Sequence[Action]) -> None:
    """What actions name is there and the organization's. Raises ApiError."""
    if len(actions) > 1 and any(isinstance(action, LAST) for action in actions):
        raise invalid("Invalid `actions` field. `drop`, `reject` and `quarantine` stand alone.")
    await _check_endpoints(db, org_id, [action.webhook_id for action in actions if isinstance(action, WebhookAction)])
    await _check_ways(db, org_id, {action.way_id for action in actions if isinstance(action, RelayAction)})
    for action in actions:
        if isinstance(action, StoreAction) and action.mailbox is not None:
            domain = action.mailbox.rpartition("@")[2]
            if await routes.domain_id(db, domain) is None:
                raise invalid(f"Invalid `actions` field. `{domain}` is no domain of yours: no mailbox can lie there.")


async def _check_endpoints(db: Connection, org_id: UUID, ids: Iterable[UUID]) -> None:
    for webhook_id in ids:
        if await webhooks.get(db, org_id, webhook_id) is None:
            raise not_found("Webhook")


async def _check_ways(db: Connection, org_id: UUID, ids: set[UUID]) -> None:
    for way_id in ids:
        way = await ways.shown(db, org_id, way_id)
        if way is None:
            raise not_found("Way")
        if way["kind"] not in ("smarthost", "lmtp"):
            raise invalid("Invalid `actions` field. Mail is relayed by ways of kind smarthost or lmtp.")
    await routes.ensure_lanes(db, org_id, ids)


def _json(match: Match) -> dict[str, Any]:
    written: dict[str, Any] = match.model_dump(mode="json", by_alias=True, exclude_none=True)
    return written


def _shape(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "name": row["name"],
        "position": row["position"],
        "enabled": row["enabled"],
        "match": row["match"],
        "except": row["except_"],
        "actions": row["actions"],
        "stop": row["stop"],
        "created_at": row["created_at"].isoformat(),
        "updated_at": row["updated_at"].isoformat(),
    }
