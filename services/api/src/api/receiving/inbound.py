"""GET /inbound/emails, /inbound/emails/:id: received mail in MailIt's form. Whole bodies only of a single email."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.context import Ctx
from api.pages import NUMBERED, numbered, path_id
from api.receiving import schemas
from api.receiving.routes import content_of, routed
from mailcore.store import arrivals

router = APIRouter(prefix="/inbound/emails", tags=["receiving"])


@router.get("", responses={200: {"model": schemas.InboundList}}, response_model=None, openapi_extra=NUMBERED)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Newest first."""
    asked = numbered(request, reach=arrivals.MAX_COUNT)
    async with ctx.store.tenant(who.org_id) as db:
        rows, total = await arrivals.numbered(db, offset=asked.offset, limit=asked.size)
    return asked.answer([_shape(row) for row in rows], total)


@router.get("/{email_id}", responses={200: {"model": schemas.Inbound}}, response_model=None)
async def get(email_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    row = await routed(ctx, who.org_id, path_id(email_id), raw=True)
    content = await content_of(ctx, row, "data_uri") or {}
    return _shape(row) | {"html": content.get("html"), "text": content.get("text")}


def _shape(row: Any) -> dict[str, Any]:
    summary = row["summary"]
    return {
        "id": str(row["id"]),
        "from": summary["from"] or row["mail_from"],
        "to": summary["to"],
        "subject": summary["subject"],
        "html": None,
        "text": None,
        "created_at": row["created_at"].isoformat(),
    }
