"""POST, GET /v1/messages/{id}/report: that a message is spam, or is not, and what scanners learned of it."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request

from api.auth import FullAccess
from api.body import Asked, read, takes
from api.context import Ctx
from api.errors import not_found
from api.pages import path_id
from mailcore.flow import training
from mailcore.store import trainings

router = APIRouter(prefix="/v1/messages/{message_id}/report", tags=["messages"])


class Report(Asked):
    spam: bool
    """False: it is none, wherever it lies."""


class Learned(BaseModel):
    scanner: str
    learned: bool
    note: str | None = None
    """Why not, where that is all there is to it."""
    error: str | None = None
    """What keeps it from learning; it is told again later."""


class Reported(BaseModel):
    object: Literal["report"]
    message_id: str
    spam: bool
    state: Literal["waiting", "done", "failed", "skipped"]
    """skipped: nobody here learns, or the mail itself is not here."""
    reason: str | None
    learned: list[Learned]
    reported_at: str


@router.post("", responses={200: {"model": Reported}}, response_model=None, openapi_extra=takes(Report))
async def report(request: Request, message_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """The message gets the flag `$Junk`, or `$NotJunk` and lies among the junk no more. Scanners learn it a moment later."""
    id_ = path_id(message_id)
    asked = await read(request, Report)
    row = await training.report(
        ctx.store,
        ctx.ringer,
        who.org_id,
        id_,
        spam=asked.spam,
        by=who.user_id,
        per_day=ctx.settings.scanners.train_per_day,
    )
    if row is None:
        raise not_found("Message")
    return _shape(row)


@router.get("", responses={200: {"model": Reported}}, response_model=None)
async def get(message_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """What was last said of the message."""
    id_ = path_id(message_id)
    async with ctx.store.tenant(who.org_id) as db:
        row = await trainings.find(db, id_)
    if row is None:
        raise not_found("Report")
    return _shape(row)


def _shape(row: Any) -> dict[str, Any]:
    return {
        "object": "report",
        "message_id": str(row["message_id"]),
        "spam": row["spam"],
        "state": row["state"],
        "reason": row["reason"],
        "learned": [{"note": None, "error": None, **one} for one in row["learned"]],
        "reported_at": row["reported_at"].isoformat(),
    }
