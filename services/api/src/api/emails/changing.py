"""PATCH /emails/:id, POST /emails/:id/cancel, POST /emails/:id/share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request

from api.auth import FullAccess
from api.body import Asked, read, takes
from api.context import Ctx
from api.emails import schemas
from api.emails.parse import parse_scheduled
from api.errors import invalid, not_found
from api.links import RECEIVED, SENT, links
from api.pages import path_id
from mailcore.flow.reschedule import cancel as cancel_email
from mailcore.flow.reschedule import reschedule
from mailcore.kit.errors import Invalid
from mailcore.kit.moment import duration
from mailcore.store import arrivals, sent

router = APIRouter(tags=["emails"])

MAX_SHARED = timedelta(hours=48)
"""How long a shared page can be seen; as long as it is when nothing is said."""


class Changed(Asked):
    scheduled_at: str


class Shared(Asked):
    expires_in: str | None = None


@router.patch(
    "/emails/{id}",
    responses={200: {"model": schemas.EmailChanged}},
    response_model=None,
    openapi_extra=takes(Changed),
)
async def update(id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Moves a scheduled email to another time; to one that has passed: it leaves now."""
    email_id = path_id(id)
    asked = await read(request, Changed)
    at, _ = parse_scheduled(asked.scheduled_at)
    await reschedule(ctx.store, ctx.ringer, who.org_id, email_id, at or datetime.now(UTC), due=at is None)
    return {"object": "email", "id": str(email_id)}


@router.post("/emails/{id}/cancel", responses={200: {"model": schemas.EmailChanged}}, response_model=None)
async def cancel(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    email_id = path_id(id)
    await cancel_email(ctx.store, who.org_id, email_id)
    return {"object": "email", "id": str(email_id)}


@router.post(
    "/emails/{id}/share",
    responses={200: {"model": schemas.EmailShared}},
    response_model=None,
    openapi_extra=takes(Shared, required=False),
)
async def share(id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """A page that shows the email, sent or received, to whoever has its URL."""
    email_id = path_id(id)
    seconds = _seconds((await read(request, Shared)).expires_in)
    async with ctx.store.tenant(who.org_id) as db:
        if await sent.find(db, email_id) is not None:
            kind = SENT
        elif (row := await arrivals.find(db, email_id)) is not None and row["summary"] is not None:
            kind = RECEIVED
        else:
            raise not_found("Email")
    return {
        "object": "email",
        "id": str(email_id),
        "url": links(ctx).page(kind, who.org_id, email_id, seconds).url,
    }


def _seconds(text: str | None) -> int:
    if text is None:
        return int(MAX_SHARED.total_seconds())
    try:
        asked = duration(text)
    except Invalid as error:
        raise invalid(f"Invalid `expires_in` field. {error.public}") from None
    if asked > MAX_SHARED:
        raise invalid("expires_in must not exceed 48 hours")
    if asked < timedelta(seconds=1):
        raise invalid("Invalid `expires_in` field. It must be at least one second.")
    return int(asked.total_seconds())
