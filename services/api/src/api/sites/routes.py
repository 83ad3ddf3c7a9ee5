"""GET /v1/sites, GET and PATCH /v1/sites/{id}, POST /v1/sites/{id}/suspend and /resume: the operator's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from api.body import read, takes
from api.context import Context, Ctx
from api.errors import invalid, not_found
from api.operators import Operator
from api.pages import plain_limit
from api.queue.schemas import Told
from api.queue.shapes import bar_shape, hold_shape, ordered_by, organization, told_shape
from api.sites import schemas
from api.sites.schemas import ChangedSite, Resumed, Suspended
from mailcore.dns.names import normalize_domain
from mailcore.flow import operate, shaping
from mailcore.flow.shaping import RATES, Shape
from mailcore.kit.errors import Invalid
from mailcore.store import bars, holds, site_list
from mailcore.store.bars import Bar
from mailcore.store.holds import Hold
from mailcore.store.site_list import NOTHING, Depth, SiteRow

router = APIRouter(prefix="/v1/sites", tags=["sites"])

_PARAMETERS: dict[str, Any] = {
    "parameters": [
        {
            "name": "limit",
            "in": "query",
            "required": False,
            "schema": {"type": "integer", "minimum": 1, "maximum": 100},
        },
        {"name": "after", "in": "query", "required": False, "schema": {"type": "string"}},
        {"name": "waiting", "in": "query", "required": False, "schema": {"type": "boolean"}},
        {"name": "domain", "in": "query", "required": False, "schema": {"type": "string"}},
    ]
}


@router.get("", responses={200: {"model": schemas.SiteList}}, response_model=None, openapi_extra=_PARAMETERS)
async def list_(request: Request, _: Operator, ctx: Ctx) -> dict[str, Any]:
    """Those that mail goes to, the latest first. `waiting=true`: for which mail waits; `domain`: where its mail goes."""
    limit = plain_limit(request)
    query = request.query_params
    after = None if (text := query.get("after")) is None else _number(text)
    if text is not None and after is None:
        raise invalid("The `after` cursor must be the id of a site.")
    waiting = query.get("waiting", "false")
    if waiting not in ("true", "false"):
        raise invalid("The `waiting` parameter must be true or false.", "invalid_parameter")
    async with operate.reading(ctx.store) as db:
        depths = await site_list.depths(db)
        rows = await site_list.page(
            db,
            limit=limit + 1,
            after=after,
            only=sorted(depths) if waiting == "true" else None,
            domain=_domain(query.get("domain")),
        )
        held, barred = await holds.in_force(db), await bars.in_force(db)
    data = [_shape(ctx, row, depths.get(row.id, NOTHING), held, barred) for row in rows[:limit]]
    return {"object": "list", "has_more": len(rows) > limit, "data": data}


@router.get("/{site_id}", responses={200: {"model": schemas.WholeSite}}, response_model=None)
async def get(site_id: str, _: Operator, ctx: Ctx) -> dict[str, Any]:
    """With its rules, and the domains whose mail goes there."""
    return await _whole(ctx, _id(site_id))


@router.patch(
    "/{site_id}",
    responses={200: {"model": schemas.WholeSite}},
    response_model=None,
    openapi_extra=takes(ChangedSite),
)
async def change(site_id: str, request: Request, _: Operator, ctx: Ctx) -> dict[str, Any]:
    """The operator's own limits and rules; processes take them within two seconds."""
    id_ = _id(site_id)
    asked = await read(request, ChangedSite)
    async with ctx.store.worker() as db:
        row = await site_list.get(db, id_)
        if row is None:
            raise not_found("Site")
        limits, rules = row.limits, row.rules
        if "limits" in asked.model_fields_set:
            limits = _changed(limits, asked)
        if "rules" in asked.model_fields_set:
            rules = shaping.checked_rules(asked.rules or [])
        await site_list.shape(db, id_, limits, rules)
    return await _whole(ctx, id_)


@router.post(
    "/{site_id}/suspend",
    responses={200: {"model": Told}},
    response_model=None,
    openapi_extra=takes(Suspended, required=False),
)
async def suspend(site_id: str, request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """Nothing leaves for this site, or nothing of one organization; what is under way ends."""
    asked = await read(request, Suspended)
    told = await operate.hold(
        ctx.store,
        _id(site_id),
        organization(asked.organization_id),
        seconds=asked.seconds,
        reason=asked.reason,
        ordered_by=ordered_by(who),
        dry_run=asked.dry_run,
    )
    return told_shape("hold", told)


@router.post(
    "/{site_id}/resume",
    responses={200: {"model": Told}},
    response_model=None,
    openapi_extra=takes(Resumed, required=False),
)
async def resume(site_id: str, request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """Lifts what `suspend` or a rule placed, here or at all sites of its provider; the site's own rest ends, too."""
    asked = await read(request, Resumed)
    told = await operate.resume(
        ctx.store,
        ctx.ringer,
        _id(site_id),
        organization(asked.organization_id),
        provider=ctx.shaping.provider,
        ordered_by=ordered_by(who),
        dry_run=asked.dry_run,
    )
    return told_shape("resume", told)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _id(text: str) -> int:
    """Raises ApiError 404: sites are numbered, and nothing else is the id of one."""
    id_ = _number(text)
    if id_ is None:
        raise not_found("Site")
    return id_


def _domain(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return normalize_domain(text)
    except Invalid:
        raise invalid("Invalid `domain` parameter: it is no domain name.", "invalid_parameter") from None


def _changed(limits: dict[str, int], asked: ChangedSite) -> dict[str, int]:
    if asked.limits is None:
        return {}
    given = {name: getattr(asked.limits, name) for name in asked.limits.model_fields_set}
    return {name: value for name, value in {**limits, **given}.items() if value is not None}


async def _whole(ctx: Context, id_: int) -> dict[str, Any]:
    async with operate.reading(ctx.store) as db:
        row = await site_list.get(db, id_)
        if row is None:
            raise not_found("Site")
        depth = await site_list.depth(db, id_)
        domains = await site_list.domains(db, id_)
        held, barred = await holds.in_force(db), await bars.in_force(db)
    found = _effective(ctx, row)
    return {
        **_shape(ctx, row, depth, held, barred),
        "own_limits": {name: row.limits.get(name) for name in shaping.LimitsForm.model_fields},
        "own_rules": row.rules,
        "rules": [rule.name for rule in found.rules],
        "domains": domains,
    }


def _effective(ctx: Context, row: SiteRow) -> Shape:
    return ctx.shaping.shape(
        row.key,
        connections=row.max_connections,
        mails_per_connection=ctx.settings.outbound.mails_per_connection,
        limits=row.limits,
        rules=row.rules,
    )


def _shape(ctx: Context, row: SiteRow, depth: Depth, held: Sequence[Hold], barred: Sequence[Bar]) -> dict[str, Any]:
    found = _effective(ctx, row)
    rates = {name: next((count for count, span in found.rates if span == of), None) for name, of in RATES.items()}
    its = [hold for hold in held if hold.site_id in (None, row.id)]
    if any(hold.org_id is None for hold in its):
        state = "held"
    elif row.resting_until is not None:
        state = "resting"
    else:
        state = "open" if row.slow_until is None else "slowed"
    return {
        "object": "site",
        "id": str(row.id),
        "key": row.key,
        "hosts": shaping.hosts_of(row.key),
        "provider": found.provider,
        "state": state,
        "depth": {
            "waiting": depth.waiting,
            "at_least": depth.at_least,
            "lanes": depth.lanes,
            "oldest_due": None if depth.oldest_due is None else depth.oldest_due.isoformat(),
        },
        "rate": round(row.rate, 3),
        "connections": {
            "limit": found.connections,
            "granted": row.granted,
            "in_use": row.bears,
            "open": row.open,
            "processes": row.processes,
        },
        "limits": {
            "connections": found.connections,
            "mails_per_connection": found.mails_per_connection,
            **rates,
        },
        "resting_until": None if row.resting_until is None else row.resting_until.isoformat(),
        "failures": row.failures,
        "last_failure": row.last_reply,
        "slowed": None if row.slow_until is None else {"until": row.slow_until.isoformat(), "reason": row.slow_rule},
        "holds": [hold_shape(hold) for hold in its],
        "bars": [bar_shape(bar) for bar in barred if bar.place in (row.key, found.provider)],
        "last_delivered_at": None if row.heard_at is None else row.heard_at.isoformat(),
        "replies": row.replies,
    }
