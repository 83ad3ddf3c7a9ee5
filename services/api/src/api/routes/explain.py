"""POST /v1/routes/explain: which routes fit a mail, why, and what would become of it. Nothing is done and nothing is stored."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.body import read, takes
from api.context import Context, Ctx
from api.errors import invalid, not_found
from api.pages import path_id
from api.routes import schemas
from api.routes.schemas import MAX_RECIPIENTS, AskedExplanation
from mailcore.flow import tables
from mailcore.flow.conditions import Facts
from mailcore.flow.follow import facts_of
from mailcore.flow.in_hand import InHand
from mailcore.flow.parse import raw_of
from mailcore.flow.pass_on import loop
from mailcore.flow.scan import recall
from mailcore.flow.scan_policy import Policies
from mailcore.flow.table import Step, Table
from mailcore.kit.errors import NotFound
from mailcore.kit.ids import uuid7
from mailcore.store import arrivals, routes
from mailcore.store.arrivals import Stored

router = APIRouter(prefix="/v1/routes", tags=["routes"])


@router.post(
    "/explain",
    responses={200: {"model": schemas.Explanation}},
    response_model=None,
    openapi_extra=takes(AskedExplanation),
)
async def explain(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = await read(request, AskedExplanation)
    async with ctx.store.tenant(who.org_id) as db:
        found = (await routes.load(db, [who.org_id]))[who.org_id]
    if asked.arrival_id is None:
        mail = await _made_up(ctx, who.org_id, asked)
    else:
        mail = await _arrived(ctx, asked, asked.arrival_id, who.org_id)
    table = tables.read(found)
    facts = _supposed(facts_of(mail), asked, known=asked.arrival_id is not None)
    plan = table.plan(facts, mail.row.rcpt_to)
    return {
        "object": "routes_explanation",
        "quarantined": None if plan.held is None or plan.held.route is None else str(plan.held.route.id),
        "recipients": [
            _recipient(mail, table, facts, recipient, [step for step in plan.steps if step.recipient == recipient])
            for recipient in dict.fromkeys(mail.row.rcpt_to)
        ],
    }


def _recipient(mail: InHand, table: Table, facts: Facts, recipient: str, steps: list[Step]) -> dict[str, Any]:
    at_rcpt = Facts(sender=mail.row.mail_from, door=mail.row.door)
    return {
        "recipient": recipient,
        "routes": table.explained(facts, recipient),
        "actions": [
            step.action.model_dump(mode="json") | {"route_id": None if step.route is None else str(step.route.id)}
            for step in steps
        ],
        "rejected_at_rcpt": table.refusal(at_rcpt, recipient) is not None,
        "loop": loop(mail, recipient),
    }


def _supposed(facts: Facts, asked: AskedExplanation, *, known: bool) -> Facts:
    """`known`: what was found of it counts where nothing is supposed."""
    auth = asked.auth if asked.auth is not None else facts.auth if known else None
    verdicts = asked.verdict if asked.verdict is not None else facts.verdicts if known else None
    scores = asked.score if asked.score is not None else facts.scores if known else None
    return replace(facts, auth=auth, verdicts=verdicts, scores=scores)


async def _arrived(ctx: Context, asked: AskedExplanation, arrival_id: str, org_id: UUID) -> InHand:
    """Raises ApiError 404, Unavailable."""
    id_ = path_id(arrival_id, "arrival_id")
    async with ctx.store.tenant(org_id) as db:
        row = next(iter(await arrivals.load(db, [id_])), None)
    if row is None:
        raise not_found("Arrival")
    try:
        raw = await raw_of(ctx.blobs, row.raw, row.raw_blob)
    except NotFound:
        raise not_found("Arrival") from None
    row = replace(row, rcpt_to=tuple(asked.rcpt_to or row.rcpt_to)[:MAX_RECIPIENTS])
    mail = InHand(row, raw, await ctx.reader.summary(raw), auth=row.auth)
    await recall(mail, Policies(ctx.store))
    return mail


async def _made_up(ctx: Context, org_id: UUID, asked: AskedExplanation) -> InHand:
    if asked.raw is None or asked.rcpt_to is None:
        raise invalid("An explanation needs `arrival_id`, or `raw` and `rcpt_to`.")
    raw = asked.raw.encode("utf-8", "replace")
    row = Stored(
        id=uuid7(),
        org_id=org_id,
        door="smtp",
        source="",
        mail_from=asked.mail_from,
        rcpt_to=tuple(asked.rcpt_to),
        facts={},
        state="received",
        size=len(raw),
        raw=raw,
        raw_blob=None,
        auth=None,
        created_at=datetime.now(UTC),
    )
    return InHand(row, raw, await ctx.reader.summary(raw))
