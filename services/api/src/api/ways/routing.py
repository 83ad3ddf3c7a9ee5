"""POST, GET /v1/routes-out; GET, PATCH, DELETE /v1/routes-out/{id}; the same under /v1/installation, for the operator.

The most particular route of an organization's own takes a mail: by tag and domain, by tag, by domain, by neither; else the
installation's, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg
from fastapi import APIRouter
from starlette.requests import Request

from api.body import read, takes
from api.errors import ApiError, invalid, not_found
from api.pages import PARAMETERS, listed, page, path_id
from api.ways import schemas
from api.ways.schemas import ChangedRoute, NewRoute
from api.ways.scope import Of, Scope
from mailcore.kit.ids import uuid7
from mailcore.queue.jobs import OUTBOUND
from mailcore.store import ways
from mailcore.store.session import Connection

own = APIRouter(prefix="/v1/routes-out", tags=["ways"])
installation = APIRouter(prefix="/v1/installation/routes-out", tags=["ways"])

MAX_ROUTES = 500
"""Of one organization: each mail is matched against all of them."""
DEFAULT = "default"
_MADE: dict[str, Any] = {
    "status_code": 201,
    "responses": {201: {"model": schemas.Route}},
    "response_model": None,
    "openapi_extra": takes(NewRoute),
}
_LISTED: dict[str, Any] = {
    "responses": {200: {"model": schemas.RouteList}},
    "response_model": None,
    "openapi_extra": PARAMETERS,
}
_SHOWN: dict[str, Any] = {"responses": {200: {"model": schemas.Route}}, "response_model": None}
_GONE: dict[str, Any] = {"responses": {200: {"model": schemas.RouteGone}}, "response_model": None}


@own.post("", **_MADE)
@installation.post("", **_MADE)
async def create(request: Request, scope: Of) -> dict[str, Any]:
    """For mail that is handed in from now on; a few seconds pass until every process knows it."""
    asked = await read(request, NewRoute)
    named = _ids(asked.ways)
    for_org = None if asked.organization_id is None else path_id(asked.organization_id, "organization_id")
    if for_org is not None and scope.org_id is not None:
        raise invalid("The `organization_id` is for the installation's routes. Yours are for your organization alone.")
    domain_id = None if asked.domain_id is None else path_id(asked.domain_id, "domain_id")
    route_id = uuid7()
    async with scope.db() as db:
        await _check_ways(db, scope, named)
        if domain_id is not None and not await db.fetchval("SELECT true FROM domains WHERE id = $1", domain_id):
            raise not_found("Domain")
        if await ways.count_routes(db, scope.org_id) >= MAX_ROUTES:
            raise invalid(
                f"There are {MAX_ROUTES} routes already, the most there can be. Delete one that is not needed."
            )
        try:
            made = await ways.add_route(
                db,
                route_id=route_id,
                org_id=scope.org_id,
                for_org=for_org,
                domain_id=domain_id,
                tag_name=asked.tag.name if asked.tag else None,
                tag_value=asked.tag.value if asked.tag else None,
                ways=named,
            )
        except asyncpg.ForeignKeyViolationError:
            raise not_found("Organization") from None
        if not made:
            raise ApiError(409, "resource_locked", "There is a route for this mail already. Change that one.")
        row = await ways.route(db, scope.org_id, route_id)
    return {"object": "route_out"} | _shape(row)


@own.get("", **_LISTED)
@installation.get("", **_LISTED)
async def list_(request: Request, scope: Of) -> dict[str, Any]:
    async with scope.db() as db:
        found = await ways.routes_page(db, scope.org_id, page(request))
    return listed(found, _shape)


@own.get("/{route_id}", **_SHOWN)
@installation.get("/{route_id}", **_SHOWN)
async def get(route_id: str, scope: Of) -> dict[str, Any]:
    async with scope.db() as db:
        row = await ways.route(db, scope.org_id, path_id(route_id))
    if row is None:
        raise not_found("Route")
    return {"object": "route_out"} | _shape(row)


@own.patch("/{route_id}", **_SHOWN | {"openapi_extra": takes(ChangedRoute)})
@installation.patch("/{route_id}", **_SHOWN | {"openapi_extra": takes(ChangedRoute)})
async def change(route_id: str, request: Request, scope: Of) -> dict[str, Any]:
    """Another list: mail that waits by this route takes it too, at once."""
    id_, asked = path_id(route_id), await read(request, ChangedRoute)
    named = _ids(asked.ways)
    async with scope.db() as db:
        await _check_ways(db, scope, named)
        if not await ways.change_route(db, scope.org_id, id_, named):
            raise not_found("Route")
        row = await ways.route(db, scope.org_id, id_)
    scope.ctx.ringer.ring(OUTBOUND, "routes")
    return {"object": "route_out"} | _shape(row)


@own.delete("/{route_id}", **_GONE)
@installation.delete("/{route_id}", **_GONE)
async def delete(route_id: str, scope: Of) -> dict[str, Any]:
    """Mail that waits by it goes the default way."""
    id_ = path_id(route_id)
    async with scope.db() as db:
        if not await ways.remove_route(db, scope.org_id, id_):
            raise not_found("Route")
    scope.ctx.ringer.ring(OUTBOUND, "routes")
    return {"object": "route_out", "id": str(id_), "deleted": True}


def _ids(named: Sequence[str]) -> list[UUID]:
    """Raises ApiError 422."""
    ids = [ways.DEFAULT if each == DEFAULT else path_id(each, f"ways.{n}") for n, each in enumerate(named)]
    if len(set(ids)) < len(ids):
        raise invalid("Invalid `ways` field. Each way stands in it once.")
    return ids


async def _check_ways(db: Connection, scope: Scope, named: Sequence[UUID]) -> None:
    """A route names ways of its own scope. Raises ApiError 404."""
    wanted = set(named) - {ways.DEFAULT}
    if wanted - await ways.known(db, scope.org_id, wanted):
        raise not_found("Way")


def _shape(row: Any) -> dict[str, Any]:
    tag = None if row["tag_name"] is None else {"name": row["tag_name"], "value": row["tag_value"]}
    return {
        "id": str(row["id"]),
        "ways": [DEFAULT if way == ways.DEFAULT else str(way) for way in row["ways"]],
        "domain_id": None if row["domain_id"] is None else str(row["domain_id"]),
        "tag": tag,
        "organization_id": None if row["for_org"] is None else str(row["for_org"]),
        "created_at": row["created_at"].isoformat(),
    }
