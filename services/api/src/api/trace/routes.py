"""GET /v1/trace: what would happen to a mail, step by step."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from api.auth import FullAccess
from api.context import Ctx
from api.operators import authenticate_operator
from mailcore.flow.trace import Question, verdict

router = APIRouter(tags=["trace"])


class Step(BaseModel):
    step: str = Field(
        description="address, suppression, sender, reputation, bulk (of a broadcast), quota, lane, way, mx, addresses, tls, "
        "site, source."
    )
    verdict: str = Field(description="ok, stop (it ends here), wait (it stays in the queue for now), unknown.")
    text: str
    facts: dict[str, Any] = Field(description="What the verdict was given by.")


class Trace(BaseModel):
    object: str = "trace"
    to: str
    verdict: str = Field(description="Of all steps: stop, wait, unknown or ok.")
    data: list[Step]


@router.get("/v1/trace", response_model=None, responses={200: {"model": Trace}})
async def trace(
    request: Request,
    who: FullAccess,
    ctx: Ctx,
    to: Annotated[str, Query(max_length=2000, description="The recipient.")],
    from_: Annotated[
        str | None,
        Query(alias="from", max_length=2000, description="Left out: an address of the first domain that may send."),
    ] = None,
    broadcast: Annotated[bool, Query(description="As a broadcast; left out: as transactional mail.")] = False,
    org_id: Annotated[UUID | None, Query(description="Another organization: only the operator may ask for it.")] = None,
) -> dict[str, Any]:
    """Sends nothing and changes nothing."""
    if org_id is not None and org_id != who.org_id:
        await authenticate_operator(request)
    steps = await ctx.tracer.trace(Question(org_id or who.org_id, to, from_, broadcast))
    return {
        "object": "trace",
        "to": to,
        "verdict": verdict(steps),
        "data": [
            {"step": each.step, "verdict": each.verdict, "text": each.text, "facts": each.facts} for each in steps
        ],
    }
