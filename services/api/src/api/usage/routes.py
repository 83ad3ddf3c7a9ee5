"""GET /usage, and MailIt's GET /settings/usage."""

from __future__ import annotations

from datetime import date
from typing import Any

from fastapi import APIRouter

from api.auth import FullAccess, Principal
from api.context import Context, Ctx
from api.errors import not_found
from api.usage import schemas
from mailcore.flow.quota import Standing, midnight, next_day, next_month
from mailcore.store import usage

router = APIRouter(tags=["usage"])

_NONE_YET = {"used": 0, "limit": None}
"""Contacts, segments, broadcasts and automations have no limits here."""


@router.get("/usage", responses={200: {"model": schemas.Usage}}, response_model=None)
async def get(who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    standing = await _standing(who, ctx)
    today, first = midnight(standing.day), midnight(standing.day.replace(day=1))
    async with ctx.store.tenant(who.org_id) as db:
        counts = await usage.counts(db)
        received = await usage.received(db, today), await usage.received(db, first)
        own_rate = await db.fetchval("SELECT rate_limit FROM organizations")
    rate = ctx.settings.rate_limit.requests_per_second if own_rate is None else own_rate
    month = next_month(standing.day)
    return {
        "object": "usage",
        "emails": {
            "daily": _emails(standing.daily, standing.daily_limit, received[0], next_day(standing.day)),
            "monthly": _emails(standing.monthly, standing.monthly_limit, received[1], month),
        },
        "contacts": _NONE_YET,
        "segments": _NONE_YET,
        "broadcasts": _NONE_YET,
        "ai_credits": {**_NONE_YET, "next_increase_at": None},
        "automation_runs": {**_NONE_YET, "resets_at": _resets_at(month)},
        "domains": {"used": counts["domains"], "limit": ctx.settings.domains.max_per_organization},
        "rate_limit": {"limit": rate or None, "duration": "1000ms"},
    }


@router.get("/settings/usage", responses={200: {"model": schemas.SettingsUsage}}, response_model=None)
async def settings_usage(who: FullAccess, ctx: Ctx) -> dict[str, int]:
    standing = await _standing(who, ctx)
    async with ctx.store.tenant(who.org_id) as db:
        counts = await usage.counts(db)
    return {"emails_sent_today": standing.daily, "emails_sent_month": standing.monthly, **counts, "contacts": 0}


async def _standing(who: Principal, ctx: Context) -> Standing:
    standing = await ctx.submits.quotas.exact(who.org_id)
    if standing is None:
        raise not_found("Organization")
    return standing


def _emails(sent: int, limit: int | None, received: int, resets: date) -> dict[str, Any]:
    return {"used": sent, "limit": limit, "sent": sent, "received": received, "resets_at": _resets_at(resets)}


def _resets_at(day: date) -> str:
    return midnight(day).isoformat()
