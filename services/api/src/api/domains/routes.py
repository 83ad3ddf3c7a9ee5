"""POST, GET /domains; GET, PATCH, DELETE /domains/:id; POST /domains/:id/verify."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request

from api.auth import FullAccess
from api.body import read, takes
from api.context import Context, Ctx
from api.domains import schemas
from api.errors import invalid, not_found
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.flow.advice import advice
from mailcore.flow.domains import domain_name, records_shown
from mailcore.kit.ids import uuid7
from mailcore.store import domains
from mailcore.store.domains import NewDomain

router = APIRouter(tags=["domains"])


@router.post(
    "/domains",
    status_code=201,
    response_model=None,
    responses={201: {"model": schemas.DomainCreated}},
    openapi_extra=takes(schemas.CreateDomain),
)
async def create(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = await read(request, schemas.CreateDomain)
    name = domain_name(asked.name)
    if asked.capabilities.sending == asked.capabilities.receiving == "disabled":
        raise invalid("Enable at least one of the capabilities `sending` and `receiving`.")
    row = await ctx.domains.create(
        NewDomain(
            id=uuid7(),
            org_id=who.org_id,
            name=name,
            region=asked.region,
            sending=asked.capabilities.sending == "enabled",
            receiving=asked.capabilities.receiving == "enabled",
            custom_return_path=asked.custom_return_path,
            open_tracking=asked.open_tracking,
            click_tracking=asked.click_tracking,
            tracking_subdomain=asked.tracking_subdomain,
            tls=asked.tls,
            created_at=datetime.now(UTC),
        )
    )
    return _with_records(ctx, row)


@router.get("/domains", response_model=None, responses={200: {"model": schemas.DomainList}}, openapi_extra=PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = page(request, default=None)
    async with ctx.store.tenant(who.org_id) as db:
        found = await domains.page(db, asked)
    return listed(found, _summary)


@router.get("/domains/{id}", response_model=None, responses={200: {"model": schemas.Domain}})
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await domains.find(db, path_id(id))
    if row is None:
        raise not_found("Domain")
    return {
        "object": "domain",
        **_with_records(ctx, row),
        "custom_return_path": row["custom_return_path"],
        "tls": row["tls"],
    }


@router.patch(
    "/domains/{id}",
    response_model=None,
    responses={200: {"model": schemas.DomainId}},
    openapi_extra=takes(schemas.UpdateDomain),
)
async def update(id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    domain_id = path_id(id)
    asked = await read(request, schemas.UpdateDomain)
    changed = asked.model_dump(exclude_unset=True)
    capabilities = changed.pop("capabilities", {})
    changed |= {name: value == "enabled" for name, value in capabilities.items() if value is not None}
    await ctx.domains.update(who.org_id, domain_id, changed)
    return _id(domain_id)


@router.post("/domains/{id}/verify", response_model=None, responses={200: {"model": schemas.DomainId}})
async def verify(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Asks for a look at the domain's DNS. A verified domain goes on sending meanwhile."""
    domain_id = path_id(id)
    await ctx.domains.ask(who.org_id, domain_id)
    return _id(domain_id)


@router.delete("/domains/{id}", response_model=None, responses={200: {"model": schemas.DomainDeleted}})
async def delete(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Mail of it that still waits fails, each with its event."""
    domain_id = path_id(id)
    await ctx.domains.remove(who.org_id, domain_id)
    return {**_id(domain_id), "deleted": True}


def _id(domain_id: UUID) -> dict[str, Any]:
    return {"object": "domain", "id": str(domain_id)}


def _summary(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "name": row["name"],
        "status": row["status"],
        "created_at": row["created_at"].isoformat(),
        "region": row["region"],
        "open_tracking": row["open_tracking"],
        "click_tracking": row["click_tracking"],
        "tracking_subdomain": row["tracking_subdomain"],
        "capabilities": {
            "sending": "enabled" if row["sending"] else "disabled",
            "receiving": "enabled" if row["receiving"] else "disabled",
        },
    }


def _with_records(ctx: Context, row: Any) -> dict[str, Any]:
    published = ctx.domains.published
    return {**_summary(row), "records": records_shown(row, published), "advice": advice(row, published)}
