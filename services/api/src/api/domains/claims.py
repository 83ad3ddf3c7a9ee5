"""POST /domains/claim; GET /domains/:id/claim; POST /domains/:id/claim/verify."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from api.auth import FullAccess
from api.body import read, takes
from api.context import Ctx
from api.domains import schemas
from api.pages import path_id
from mailcore.flow.claims import record
from mailcore.flow.domains import domain_name
from mailcore.kit.ids import uuid7
from mailcore.store.domains import NewDomain

router = APIRouter(tags=["domains"])


@router.post(
    "/domains/claim",
    status_code=201,
    response_model=None,
    responses={
        201: {"model": schemas.Claim},
        200: {"model": schemas.Claim, "description": "The same claim as before, which has not ended."},
    },
    openapi_extra=takes(schemas.ClaimDomain),
)
async def start(request: Request, response: Response, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Of a domain that another organization has verified. It may send; receiving is a matter of PATCH later."""
    asked = await read(request, schemas.ClaimDomain)
    claim, made = await ctx.claims.start(
        NewDomain(
            id=uuid7(),
            org_id=who.org_id,
            name=domain_name(asked.name),
            region=asked.region,
            sending=True,
            receiving=False,
            custom_return_path=asked.custom_return_path,
            open_tracking=asked.open_tracking,
            click_tracking=asked.click_tracking,
            tracking_subdomain=asked.tracking_subdomain,
            tls="opportunistic",
            created_at=datetime.now(UTC),
        )
    )
    if not made:
        response.status_code = 200
    return _shown(claim)


@router.get("/domains/{id}/claim", response_model=None, responses={200: {"model": schemas.Claim}})
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """The latest claim of this organization's domain."""
    return _shown(await ctx.claims.latest(who.org_id, path_id(id)))


@router.post("/domains/{id}/claim/verify", response_model=None, responses={200: {"model": schemas.Claim}})
async def verify(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Asks for a look at the TXT record; `GET` says what came of it."""
    return _shown(await ctx.claims.ask(who.org_id, path_id(id)))


def _shown(claim: Any) -> dict[str, Any]:
    return {
        "object": "domain_claim",
        "id": str(claim["id"]),
        "name": claim["name"],
        "status": claim["status"],
        "domain_id": None if claim["domain_id"] is None else str(claim["domain_id"]),
        "region": claim["region"],
        "record": {"type": "TXT", "name": claim["name"], "value": record(claim), "ttl": "Auto"},
        "blocked_reason": claim["blocked_reason"],
        "failure_reason": claim["failure_reason"],
        "created_at": claim["created_at"].isoformat(),
        "expires_at": claim["expires_at"].isoformat(),
    }
