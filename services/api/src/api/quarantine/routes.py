"""GET /v1/quarantine; GET, DELETE /v1/quarantine/{id}; POST /v1/quarantine/{id}/release. The id is the arrival's."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess, Principal
from api.context import Ctx
from api.errors import not_found
from api.pages import PARAMETERS, listed, page, path_id
from api.quarantine import schemas
from mailcore.flow import quarantine as flow
from mailcore.store import quarantine

router = APIRouter(prefix="/v1/quarantine", tags=["quarantine"])

_PARAMETERS = {
    "parameters": [
        *PARAMETERS["parameters"],
        {"name": "by", "in": "query", "required": False, "schema": {"type": "string"}},
    ]
}


@router.get("", responses={200: {"model": schemas.HeldMails}}, response_model=None, openapi_extra=_PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Newest first; `by` narrows it to what one step holds."""
    asked = page(request)
    async with ctx.store.tenant(who.org_id) as db:
        found = await quarantine.page(db, asked, by=request.query_params.get("by"))
    return listed(found, _shape)


@router.get("/{id}", responses={200: {"model": schemas.HeldMailRead}}, response_model=None)
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Its content: GET /v1/arrivals/{id}."""
    async with ctx.store.tenant(who.org_id) as db:
        row = await quarantine.find(db, path_id(id))
    if row is None:
        raise not_found("Quarantined mail")
    return {"object": "quarantined"} | _shape(row) | {"decisions": row["decisions"]}


@router.post("/{id}/release", responses={200: {"model": schemas.HeldMailReleased}}, response_model=None)
async def release(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """It is routed again, and nothing holds it a second time. Mail that waits for a scanner goes on without it."""
    id_ = path_id(id)
    if not await flow.release(ctx.store, ctx.ringer, who.org_id, id_, by=_who(who)):
        raise not_found("Quarantined mail")
    return {"object": "quarantined", "id": str(id_), "released": True}


@router.delete("/{id}", responses={200: {"model": schemas.HeldMailGone}}, response_model=None)
async def delete(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Its content is gone for good; what was decided about it can still be read."""
    id_ = path_id(id)
    if not await flow.delete(ctx.store, ctx.blobs, who.org_id, id_, by=_who(who)):
        raise not_found("Quarantined mail")
    return {"object": "quarantined", "id": str(id_), "deleted": True}


def _who(who: Principal) -> str:
    return f"API key {who.key_id}" if who.user_id is None else f"user {who.user_id}"


def _shape(row: Any) -> dict[str, Any]:
    summary = row["summary"] or {}
    last = row["decisions"][-1]["reason"] if row["decisions"] else ""
    return {
        "id": str(row["id"]),
        "door": row["door"],
        "source": row["source"],
        "mail_from": row["mail_from"],
        "rcpt_to": row["rcpt_to"],
        "size": row["size"],
        "from": summary.get("from"),
        "subject": summary.get("subject"),
        "attachments": len(summary.get("attachments") or ()),
        "held_by": row["held_by"],
        "reason": row["held_reason"] or last,
        "created_at": row["created_at"].isoformat(),
        "expires_at": row["held_until"] and row["held_until"].isoformat(),
    }
