"""POST, GET /webhooks; GET, PATCH, DELETE /webhooks/{id}; POST /webhooks/{id}/signing-secret/rotate (resend.md §10.1).

MailIt's form is taken too: `url` for `endpoint`, `active` for `status`, `*` for every event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.body import read, takes
from api.context import Context, Ctx
from api.errors import invalid, not_found
from api.pages import PARAMETERS, listed, page, path_id
from api.webhooks import schemas
from api.webhooks.schemas import ChangedWebhook, NewWebhook
from mailcore import events
from mailcore.kit.guard import Blocked, Guard
from mailcore.kit.ids import uuid7
from mailcore.mime.headers import check_text
from mailcore.queue.jobs import WEBHOOKS
from mailcore.store import webhooks

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

MAX_ENDPOINTS = 5_000
"""Of one organization: each event is matched against all of them."""
OVERLAP_SECONDS = 86_400
"""After a rotation the old secret signs beside the new one for a day."""


@router.post(
    "",
    status_code=201,
    responses={201: {"model": schemas.WebhookCreated}},
    response_model=None,
    openapi_extra=takes(NewWebhook),
)
async def create(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = await read(request, NewWebhook)
    _check_endpoint(ctx, asked.endpoint)
    wanted = _known(asked.events)
    webhook_id, secret = uuid7(), events.new_secret()
    async with ctx.store.tenant(who.org_id) as db:
        if await webhooks.count(db, who.org_id) >= MAX_ENDPOINTS:
            raise invalid(f"An organization has at most {MAX_ENDPOINTS} webhooks. Delete one that is not needed.")
        row = await webhooks.add(
            db,
            webhook_id=webhook_id,
            org_id=who.org_id,
            endpoint=asked.endpoint,
            events=wanted,
            secret_sealed=ctx.keyring.seal(secret, "webhook"),
            ordered=asked.ordered,
            include_body=asked.include_body,
        )
    made = {"object": "webhook", "id": str(webhook_id), "signing_secret": events.show_secret(secret)}
    return made if asked.url is None else made | _mailit(row)


@router.get("", responses={200: {"model": schemas.WebhookList}}, response_model=None, openapi_extra=PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        found = await webhooks.list_(db, who.org_id, page(request, default=None))
    return listed(found, _shape)


@router.get("/{webhook_id}", responses={200: {"model": schemas.Webhook}}, response_model=None)
async def get(webhook_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await webhooks.get(db, who.org_id, path_id(webhook_id))
    if row is None:
        raise not_found("Webhook")
    secret = ctx.keyring.open(row["secret_sealed"], "webhook")
    return {
        "object": "webhook",
        **_shape(row),
        "signing_secret": events.show_secret(secret),
        "ordered": row["ordered"],
        "include_body": row["include_body"],
        "failing_since": _time(row["failing_since"]),
        "disabled_at": _time(row["disabled_at"]),
        "disabled_reason": row["disabled_reason"],
    }


@router.patch(
    "/{webhook_id}",
    responses={200: {"model": schemas.WebhookChanged}},
    response_model=None,
    openapi_extra=takes(ChangedWebhook),
)
async def change(webhook_id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """An endpoint that is disabled gets nothing, also not what is waiting for it. Enabling it forgets its failures."""
    id_ = path_id(webhook_id)
    asked = await read(request, ChangedWebhook)
    if asked.endpoint is not None:
        _check_endpoint(ctx, asked.endpoint)
    status = asked.status
    if status is None and asked.active is not None:
        status = "enabled" if asked.active else "disabled"
    async with ctx.store.tenant(who.org_id) as db:
        row = await webhooks.change(
            db,
            who.org_id,
            id_,
            endpoint=asked.endpoint,
            events=None if asked.events is None else _known(asked.events),
            status=status,
            ordered=asked.ordered,
            include_body=asked.include_body,
        )
    if row is None:
        raise not_found("Webhook")
    ctx.ringer.ring(WEBHOOKS)
    changed = {"object": "webhook", "id": str(id_)}
    return changed if asked.url is None and asked.active is None else changed | _mailit(row)


@router.delete("/{webhook_id}", responses={200: {"model": schemas.WebhookDeleted}}, response_model=None)
async def delete(webhook_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    id_ = path_id(webhook_id)
    async with ctx.store.tenant(who.org_id) as db:
        if not await webhooks.remove(db, who.org_id, id_):
            raise not_found("Webhook")
    return {"object": "webhook", "id": str(id_), "deleted": True}


@router.post(
    "/{webhook_id}/signing-secret/rotate",
    responses={200: {"model": schemas.WebhookCreated}},
    response_model=None,
)
async def rotate(webhook_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """A new secret. Posts of the next 24 hours are signed with the new and the old one."""
    id_, secret = path_id(webhook_id), events.new_secret()
    async with ctx.store.tenant(who.org_id) as db:
        found = await webhooks.rotate(
            db,
            who.org_id,
            id_,
            secret_sealed=ctx.keyring.seal(secret, "webhook"),
            overlap_seconds=OVERLAP_SECONDS,
        )
    if not found:
        raise not_found("Webhook")
    return {"object": "webhook", "id": str(id_), "signing_secret": events.show_secret(secret)}


def _check_endpoint(ctx: Context, endpoint: str) -> None:
    """What the URL itself says. What its name resolves to is checked at every post."""
    check_text(endpoint, "endpoint")
    try:
        Guard("webhooks", ctx.settings.network.allow.webhooks).check_url(endpoint)
    except Blocked as error:
        raise invalid(f"Invalid `endpoint` field. {error.public}") from error


def _known(asked: Sequence[str]) -> list[str]:
    if not asked:
        raise invalid(
            "Invalid `events` field. Name at least one event type, such as `email.delivered`, or `*` for all."
        )
    unknown = next((name for name in asked if name not in events.TYPES and name != events.EVERY_TYPE), None)
    if unknown is not None:
        raise invalid(f"Invalid `events` field. There is no event type {unknown[:80]!a}.")
    return [events.EVERY_TYPE] if events.EVERY_TYPE in asked else list(dict.fromkeys(asked))


def _shape(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "created_at": row["created_at"].isoformat(),
        "status": row["status"],
        "endpoint": row["endpoint"],
        "events": row["events"],
    }


def _mailit(row: Any) -> dict[str, Any]:
    """features.md §2.4."""
    return {
        "url": row["endpoint"],
        "events": row["events"],
        "active": row["status"] == "enabled",
        "created_at": row["created_at"].isoformat(),
    }


def _time(at: Any) -> str | None:
    return None if at is None else str(at.isoformat())
