"""GET /v1/domains/:id/reputation, GET /v1/alarms, /v1/alarms/:id; the operator's POST /v1/alarms/:id/end, /v1/domains/:id/pause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request

from api.auth import FullAccess
from api.body import read, takes
from api.context import Ctx
from api.errors import not_found
from api.operators import Operator, authenticate_operator
from api.pages import PARAMETERS, listed, page, path_id
from api.reputation import schemas
from mailcore.dns.suffixes import registered_domain
from mailcore.events import timestamp
from mailcore.flow import reputation as guard
from mailcore.flow.gate import lacking, standing
from mailcore.store import bulk, reputation

router = APIRouter(tags=["reputation"])

DAYS = 30


@router.get("/v1/domains/{id}/reputation", response_model=None, responses={200: {"model": schemas.Reputation}})
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """What became of the domain's mail, whether it may send, and whether broadcasts may be sent from it."""
    domain_id = path_id(id)
    settings = ctx.settings
    row, found = await standing(
        ctx.store,
        who.org_id,
        domain_id,
        link_url=settings.tracking.url or settings.http.public_url,
        catches=settings.outbound.route == "catch",
    )
    async with ctx.store.tenant(who.org_id) as db:
        rates = await reputation.rates(db, domain_id, guard.WINDOW_HOURS)
        days = await reputation.days(db, domain_id, DAYS)
        open_ = await reputation.of_domain(db, domain_id)
    if rates is None:
        raise not_found("Domain")
    reached_at = None
    if row["status"] == "verified":  # it is counted by name, whoever sends: told to those only who may
        async with ctx.store.worker() as db:
            reached_at = await bulk.reached_at(db, registered_domain(row["name"]) or row["name"])
    actions = {each["action"] for each in open_}
    limits = settings.reputation
    return {
        "object": "reputation",
        "domain_id": str(domain_id),
        "name": row["name"],
        "state": "paused" if "paused" in actions else "warned" if actions else "good",
        "last_24_hours": {"since": timestamp(rates.since), **_shares(rates.delivered, rates.bounced, rates.complained)},
        "thresholds": {name: getattr(limits, name) for name in schemas.Thresholds.model_fields},
        "days": [
            {
                "date": day["day"].isoformat(),
                "sent": day["sent"],
                **_shares(day["delivered"], day["bounced"], day["complained"]),
            }
            for day in days
        ],
        "alarms": [guard.shown(each) for each in open_],
        "bulk_sender_since": None if reached_at is None else timestamp(reached_at),
        "broadcasts": {
            "allowed": not lacking(found, limits),
            "requirements": [
                {"name": each.name, "status": each.status, "text": each.text, "advice": each.advice} for each in found
            ],
        },
    }


def _shares(delivered: int, bounced: int, complained: int) -> dict[str, Any]:
    ended = delivered + bounced
    return {
        "delivered": delivered,
        "bounced": bounced,
        "complained": complained,
        "bounce_rate": round(bounced / ended, 6) if ended else 0.0,
        "complaint_rate": round(min(1.0, complained / delivered), 6) if delivered else float(complained > 0),
    }


@router.get("/v1/alarms", response_model=None, responses={200: {"model": schemas.AlarmList}}, openapi_extra=PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Of this organization, the newest first. `?open=true` leaves out those that have ended, `?all=true` shows the operator those
    of all organizations."""
    asked, only = page(request), request.query_params.get("open") == "true"
    if request.query_params.get("all") == "true":
        await authenticate_operator(request)
        async with ctx.store.worker() as db:
            return listed(await reputation.page(db, asked, open_only=only), guard.shown)
    async with ctx.store.tenant(who.org_id) as db:
        return listed(await reputation.page(db, asked, open_only=only), guard.shown)


@router.get("/v1/alarms/{id}", response_model=None, responses={200: {"model": schemas.AlarmFound}})
async def find(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await reputation.find(db, path_id(id))
    if row is None:
        raise not_found("Alarm")
    return _alarm(row)


@router.post("/v1/alarms/{id}/end", response_model=None, responses={200: {"model": schemas.AlarmFound}})
async def end(id: str, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """Of any organization: a paused domain sends again, a suspended key is active again. The counts begin anew from here."""
    return _alarm(await guard.end(ctx.store, ctx.ringer, path_id(id)))


@router.post(
    "/v1/domains/{id}/pause",
    response_model=None,
    responses={200: {"model": schemas.AlarmFound}},
    openapi_extra=takes(schemas.Pause),
)
async def pause(id: str, request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """Any organization's domain sends nothing until the alarm that this makes is ended."""
    asked = await read(request, schemas.Pause)
    return _alarm(await guard.pause(ctx.store, ctx.ringer, path_id(id), asked.reason))


def _alarm(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"object": "alarm", **guard.shown(row)}
