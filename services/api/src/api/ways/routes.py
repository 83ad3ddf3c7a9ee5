"""POST, GET /v1/ways; GET, PATCH, DELETE /v1/ways/{id}; the same under /v1/installation, for the operator."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request

from api.body import read, takes
from api.errors import ApiError, invalid, not_found
from api.pages import PARAMETERS, listed, page, path_id
from api.ways import schemas
from api.ways.schemas import ChangedWay, NewWay
from api.ways.scope import Of, Scope
from mailcore.flow import ways as kinds
from mailcore.flow.ways import SmartHost
from mailcore.kit.errors import Refused, Unavailable
from mailcore.kit.guard import Guard
from mailcore.kit.ids import uuid7
from mailcore.providers.base import Account
from mailcore.queue.jobs import OUTBOUND
from mailcore.store import holds, sites, ways

own = APIRouter(prefix="/v1/ways", tags=["ways"])
installation = APIRouter(prefix="/v1/installation/ways", tags=["ways"])

MAX_WAYS = 100
"""Of one organization."""
MAX_CONNECTIONS = 20
"""Of an organization's way; the operator may allow more (PATCH /v1/sites/{id})."""
_MADE: dict[str, Any] = {
    "status_code": 201,
    "responses": {201: {"model": schemas.Way}},
    "response_model": None,
    "openapi_extra": takes(NewWay),
}
_LISTED: dict[str, Any] = {
    "responses": {200: {"model": schemas.WayList}},
    "response_model": None,
    "openapi_extra": PARAMETERS,
}
_SHOWN: dict[str, Any] = {"responses": {200: {"model": schemas.Way}}, "response_model": None}
_GONE: dict[str, Any] = {"responses": {200: {"model": schemas.WayGone}}, "response_model": None}


@own.post("", **_MADE)
@installation.post("", **_MADE)
async def create(request: Request, scope: Of) -> dict[str, Any]:
    """Stores the account; nothing is sent by it until a route names it."""
    asked = await read(request, NewWay)
    account = kinds.check(asked.kind, asked.settings)
    await _check_host(scope, account)
    if scope.org_id is not None and asked.max_connections > MAX_CONNECTIONS:
        raise invalid(
            f"Invalid `max_connections` field. A way has at most {MAX_CONNECTIONS}; the operator may allow more."
        )
    shown, secrets = kinds.parted(account)
    way_id = uuid7()
    store = scope.ctx.store
    # a site belongs to no tenant: the door makes it
    async with store.door() as db:
        site = await sites.ensure(db, f"{asked.kind}:{way_id}", asked.max_connections)
    async with scope.db() as db:
        if await ways.count(db, scope.org_id) >= MAX_WAYS:
            raise invalid(f"There are {MAX_WAYS} ways already, the most there can be. Delete one that is not needed.")
        await ways.add(
            db,
            way_id=way_id,
            org_id=scope.org_id,
            name=asked.name,
            kind=asked.kind,
            settings=shown,
            secrets_sealed=kinds.seal(scope.ctx.keyring, secrets),
            reports=account.events() is not None,
            site_id=site.id,
        )
        row = await ways.shown(db, scope.org_id, way_id)
    return {"object": "way"} | _shape(scope, row)


@own.get("", **_LISTED)
@installation.get("", **_LISTED)
async def list_(request: Request, scope: Of) -> dict[str, Any]:
    async with scope.db() as db:
        found = await ways.page(db, scope.org_id, page(request))
    return listed(found, lambda row: _shape(scope, row))


@own.get("/{way_id}", **_SHOWN)
@installation.get("/{way_id}", **_SHOWN)
async def get(way_id: str, scope: Of) -> dict[str, Any]:
    async with scope.db() as db:
        row = await ways.shown(db, scope.org_id, path_id(way_id))
    if row is None:
        raise not_found("Way")
    return {"object": "way"} | _shape(scope, row)


@own.patch("/{way_id}", **_SHOWN | {"openapi_extra": takes(ChangedWay)})
@installation.patch("/{way_id}", **_SHOWN | {"openapi_extra": takes(ChangedWay)})
async def change(way_id: str, request: Request, scope: Of) -> dict[str, Any]:
    """Whatever is changed, the way is tried again at once."""
    id_, asked, ctx = path_id(way_id), await read(request, ChangedWay), scope.ctx
    async with scope.db() as db:
        before = await ways.locked(db, scope.org_id, id_)
    if before is None:
        raise not_found("Way")
    given = before.settings | kinds.unseal(ctx.keyring, before.secrets_sealed) | (asked.settings or {})
    account = kinds.check(before.kind, {name: value for name, value in given.items() if value is not None})
    await _check_host(scope, account)  # asks the name server: no transaction is open
    shown, secrets = kinds.parted(account)
    async with scope.db() as db:
        now = await ways.locked(db, scope.org_id, id_)
        if now is None:
            raise not_found("Way")
        if now.updated_at != before.updated_at:
            raise ApiError(409, "resource_locked", "Somebody else has changed this way just now. Try again.")
        await ways.change(
            db,
            scope.org_id,
            id_,
            name=asked.name or now.name,
            settings=shown,
            secrets_sealed=kinds.seal(ctx.keyring, secrets),
            reports=account.events() is not None,
            enabled=now.enabled if asked.enabled is None else asked.enabled,
        )
    async with ctx.store.worker() as db:
        await sites.clear(db, before.site_id)
        # runs under way hear of a hold within seconds, too
        if asked.enabled is False:
            await holds.place(db, before.site_id, None, origin="operator", reason="this way out is switched off")
        elif asked.enabled is True:
            await holds.lift(db, before.site_id, None)
    ctx.ringer.ring(OUTBOUND, str(before.site_id))
    return await get(way_id, scope)


@own.delete("/{way_id}", **_GONE)
@installation.delete("/{way_id}", **_GONE)
async def delete(way_id: str, scope: Of) -> dict[str, Any]:
    """Not while a route names it. What it reported about its mail stays."""
    id_ = path_id(way_id)
    async with scope.db() as db:
        if await ways.locked(db, scope.org_id, id_) is None:
            raise not_found("Way")
        if naming := await ways.routes_naming(db, id_):
            raise ApiError(
                409,
                "resource_locked",
                f"{naming} {'route names' if naming == 1 else 'routes name'} this way. Take it out of them first.",
            )
        await ways.remove(db, id_)
    return {"object": "way", "id": str(id_), "deleted": True}


async def _check_host(scope: Scope, account: Account | SmartHost) -> None:
    """A tenant names a host of the public network only. Raises ApiError 422."""
    if scope.org_id is None or not isinstance(account, SmartHost):
        return
    guard: Guard = scope.ctx.smart_hosts
    try:
        await guard.check_host(account.host, account.port, ports=account.ports)
    except (Refused, Unavailable) as error:
        raise invalid(error.public) from error


def _shape(scope: Scope, row: Any) -> dict[str, Any]:
    resting = row["suspended_until"] is not None and row["suspended_until"] > datetime.now(UTC)
    state = "off" if not row["enabled"] else "resting" if resting else "working"
    can_report = row["kind"] not in ("smarthost", "lmtp", "cloudflare")
    return {
        "id": str(row["id"]),
        "name": row["name"],
        "kind": row["kind"],
        "settings": row["settings"],
        "secrets": kinds.secret_names(row["kind"]),
        "site": row["site"],
        "enabled": row["enabled"],
        "health": {
            "state": state,
            "failures": row["failures"],
            "resting_until": row["suspended_until"].isoformat() if resting else None,
            "last_reply": row["last_reply"] if row["failures"] else None,
        },
        "max_connections": row["max_connections"],
        "events_url": _events_url(scope, row["id"]) if can_report else None,
        "reports": row["reports"],
        "created_at": row["created_at"].isoformat(),
    }


def _events_url(scope: Scope, way_id: UUID) -> str:
    return f"{scope.ctx.settings.http.public_url.rstrip('/')}/v1/provider-events/{way_id}"
