"""GET /webhooks/{id}/events[/{event}], …/events/{event}/attempts, POST …/events/{event}/replay: what an endpoint got (§10.1).

Events are named by the id of their posts (`msg_…`, the header svix-id), which is another one at each endpoint.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.context import Context, Ctx
from api.errors import ApiError, invalid, not_found
from api.links import links
from api.pages import path_id, plain_limit
from api.webhooks import schemas
from mailcore import events
from mailcore.flow.bodies import Bodies
from mailcore.flow.parsed import Parsed
from mailcore.queue.jobs import WEBHOOKS
from mailcore.store import arrivals, webhooks
from mailcore.store.pages import Page
from mailcore.store.webhooks import Posted

router = APIRouter(prefix="/webhooks/{webhook_id}/events", tags=["webhooks"])


@router.get(
    "",
    responses={200: {"model": schemas.EventList}},
    response_model=None,
    openapi_extra=schemas.cursor_after("msg_"),
)
async def list_(webhook_id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    id_ = path_id(webhook_id)
    limit, after = plain_limit(request), None
    if "after" in request.query_params:
        after = events.event_of(request.query_params["after"], id_)
        if after is None:
            raise invalid("The `after` cursor must be the id of an event of this webhook, such as msg_….")
    async with ctx.store.tenant(who.org_id) as db:
        if await webhooks.get(db, who.org_id, id_) is None:
            raise not_found("Webhook")
        found = await webhooks.events_page(db, id_, Page(limit, after))
    return {
        "object": "list",
        "has_more": found.has_more,
        "data": [
            {
                "id": events.message_id(row["event_id"], id_),
                "type": row["type"],
                "created_at": row["created_at"].isoformat(),
                "status": row["state"],
            }
            for row in found.rows
        ],
    }


@router.get("/{event_id}", responses={200: {"model": schemas.WebhookEvent}}, response_model=None)
async def get(webhook_id: str, event_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    id_, of = path_id(webhook_id), _event(event_id, webhook_id)
    async with ctx.store.tenant(who.org_id) as db:
        webhook = await webhooks.get(db, who.org_id, id_)
        found = None if webhook is None or of is None else await webhooks.posted(db, id_, of)
    if webhook is None:
        raise not_found("Webhook")
    if found is None:
        raise not_found("Webhook event")
    return {
        "object": "webhook_event",
        "id": event_id,
        "type": found.event.type,
        "created_at": found.event.created_at.isoformat(),
        "status": found.state,
        "next_attempt_at": None if found.next_attempt_at is None else found.next_attempt_at.isoformat(),
        "payload": await _payload(ctx, who.org_id, found, include_body=webhook["include_body"]),
    }


@router.post("/{event_id}/replay", responses={200: {"model": schemas.EventReplayed}}, response_model=None)
async def replay(webhook_id: str, event_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Posts it again under the same id, now and by the whole schedule. One that waits for its next attempt gets it now."""
    id_, of = path_id(webhook_id), _event(event_id, webhook_id)
    async with ctx.store.tenant(who.org_id) as db:
        if await webhooks.get(db, who.org_id, id_) is None:
            raise not_found("Webhook")
        came = "unknown" if of is None else await webhooks.replay(db, who.org_id, id_, of)
    if came == "unknown":
        raise not_found("Webhook event")
    if came == "disabled":
        raise invalid("The webhook is disabled. Enable it, then replay the event.")
    if came == "used up":
        raise invalid(f"The event has been posted {webhooks.MAX_ATTEMPTS} times. It is not posted again.")
    ctx.ringer.ring(WEBHOOKS)
    return {"object": "webhook_event", "id": event_id}


@router.get(
    "/{event_id}/attempts",
    responses={200: {"model": schemas.AttemptList}},
    response_model=None,
    openapi_extra=schemas.cursor_after("atmpt_"),
)
async def attempts(webhook_id: str, event_id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    id_, of = path_id(webhook_id), _event(event_id, webhook_id)
    limit, after = plain_limit(request), None
    if "after" in request.query_params:
        after = events.attempt_of(request.query_params["after"], id_)
        if after is None:
            raise invalid("The `after` cursor must be the id of an attempt of this event, such as atmpt_….")
    async with ctx.store.tenant(who.org_id) as db:
        if await webhooks.get(db, who.org_id, id_) is None:
            raise not_found("Webhook")
        if of is None or await webhooks.posted(db, id_, of) is None:
            raise not_found("Webhook event")
        found = await webhooks.attempts_page(db, id_, of, limit=limit, after=after)
    return {
        "object": "list",
        "has_more": found.has_more,
        "data": [
            {
                "id": events.attempt_id(row["id"], id_),
                "http_status_code": row["http_status"] or 0,
                "response": row["response"] or "",
                "sent_at": row["at"].isoformat(),
            }
            for row in found.rows
        ],
    }


def _event(text: str, webhook_id: str) -> UUID | None:
    """None: it is an event's id, but of another endpoint. Raises ApiError 422 for what is none at all."""
    if not events.is_message_id(text):
        raise ApiError(422, "invalid_parameter", "The `event_id` must be the id of a webhook event, such as msg_….")
    return events.event_of(text, path_id(webhook_id))


async def _payload(ctx: Context, org_id: UUID, found: Posted, *, include_body: bool) -> dict[str, Any]:
    subject = found.subject
    if found.event.type == events.ROUTED:
        async with ctx.store.tenant(org_id) as db:
            row = await arrivals.find(db, found.object_id, raw=True)
        raw = None if row is None else (row["raw"], row["raw_blob"])
        return await Parsed(ctx.blobs, links(ctx), ctx.reader).payload(found.event, subject, raw)
    if include_body and found.event.type == "email.received" and subject is not None:
        async with ctx.store.tenant(org_id) as db:
            row = await arrivals.find(db, found.object_id, raw=True)
        if row is not None:
            subject = {**subject, "content": await Bodies(ctx.blobs, ctx.reader).of(row["raw"], row["raw_blob"])}
    return events.payload(found.event, subject)
