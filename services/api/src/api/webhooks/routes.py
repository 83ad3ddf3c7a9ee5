"""POST, GET /webhooks; GET, PATCH, DELETE /webhooks/{id}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.body import Asked, read, takes
from api.context import Context, Ctx
from api.errors import invalid, not_found
from api.pages import PARAMETERS, listed, page, path_id
from mailcore import events
from mailcore.kit.guard import Blocked, Guard
from mailcore.kit.ids import uuid7
from mailcore.mime.headers import check_text
from mailcore.queue.jobs import WEBHOOKS
from mailcore.store import webhooks

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

MAX_ENDPOINTS = 5_000
"""Of one organization: each event is matched against all of them."""


class NewWebhook(Asked):
    endpoint: str
    """Where events are posted: http or https."""
    events: list[str]


class ChangedWebhook(Asked):
    endpoint: str | None = None
    events: list[str] | None = None
    status: Literal["enabled", "disabled"] | None = None


@router.post("", status_code=201, openapi_extra=takes(NewWebhook))
async def create(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = await read(request, NewWebhook)
    _check_endpoint(ctx, asked.endpoint)
    wanted = _known(asked.events)
    webhook_id, secret = uuid7(), events.new_secret()
    async with ctx.store.tenant(who.org_id) as db:
        if await webhooks.count(db, who.org_id) >= MAX_ENDPOINTS:
            raise invalid(f"An organization has at most {MAX_ENDPOINTS} webhooks. Delete one that is not needed.")
        await webhooks.add(
            db,
            webhook_id=webhook_id,
            org_id=who.org_id,
            endpoint=asked.endpoint,
            events=wanted,
            secret_sealed=ctx.keyring.seal(secret, "webhook"),
        )
    return {"object": "webhook", "id": str(webhook_id), "signing_secret": events.show_secret(secret)}


@router.get("", openapi_extra=PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        found = await webhooks.list_(db, who.org_id, page(request, default=None))
    return listed(found, _shape)


@router.get("/{webhook_id}")
async def get(webhook_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await webhooks.get(db, who.org_id, path_id(webhook_id))
    if row is None:
        raise not_found("Webhook")
    secret = ctx.keyring.open(row["secret_sealed"], "webhook")
    return {"object": "webhook", **_shape(row), "signing_secret": events.show_secret(secret)}


@router.patch("/{webhook_id}", openapi_extra=takes(ChangedWebhook))
async def change(webhook_id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """An endpoint that is disabled gets nothing, also not what is waiting for it."""
    id_ = path_id(webhook_id)
    asked = await read(request, ChangedWebhook)
    if asked.endpoint is not None:
        _check_endpoint(ctx, asked.endpoint)
    async with ctx.store.tenant(who.org_id) as db:
        found = await webhooks.change(
            db,
            who.org_id,
            id_,
            endpoint=asked.endpoint,
            events=None if asked.events is None else _known(asked.events),
            status=asked.status,
        )
    if not found:
        raise not_found("Webhook")
    ctx.ringer.ring(WEBHOOKS)
    return {"object": "webhook", "id": str(id_)}


@router.delete("/{webhook_id}")
async def delete(webhook_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    id_ = path_id(webhook_id)
    async with ctx.store.tenant(who.org_id) as db:
        if not await webhooks.remove(db, who.org_id, id_):
            raise not_found("Webhook")
    return {"object": "webhook", "id": str(id_), "deleted": True}


def _check_endpoint(ctx: Context, endpoint: str) -> None:
    """What the URL itself says. What its name resolves to is checked at every post."""
    check_text(endpoint, "endpoint")
    try:
        Guard("webhooks", ctx.settings.network.allow.webhooks).check_url(endpoint)
    except Blocked as error:
        raise invalid(f"Invalid `endpoint` field. {error.public}") from error


def _known(asked: Sequence[str]) -> list[str]:
    if not asked:
        raise invalid("Invalid `events` field. Name at least one event type, such as `email.delivered`.")
    unknown = next((name for name in asked if name not in events.TYPES), None)
    if unknown is not None:
        raise invalid(f"Invalid `events` field. There is no event type {unknown[:80]!a}.")
    return list(dict.fromkeys(asked))


def _shape(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "created_at": row["created_at"].isoformat(),
        "status": row["status"],
        "endpoint": row["endpoint"],
        "events": row["events"],
    }
