"""GET /v1/health/sending: whether receivers will take this installation's mail, as outbound found it last. POST: look again now."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.context import Ctx
from api.operators import Operator
from mailcore.kit.errors import Unavailable
from mailcore.queue.jobs import HEALTH
from mailcore.store import health

router = APIRouter(tags=["health"])


class Finding(BaseModel):
    check: str = Field(
        description="source, port-out, ptr, ehlo, spf, dkim, dmarc, blocklist, port-in, certificate, scanner, clock, queue, "
        "refusal."
    )
    subject: str = Field(description="The address, domain or list it is about; empty: the installation.")
    status: str = Field(description="ok, wrong, unknown.")
    text: str
    advice: str = Field(description="One line; empty where nothing is to be done.")


class Sending(BaseModel):
    object: str = "health"
    status: str = Field(description="wrong where one is; unknown before outbound has looked; otherwise ok.")
    checked_at: str | None
    data: list[Finding] = Field(description="What is wrong first, and each in the order in which it should be mended.")


class Asked(BaseModel):
    object: str = "health"
    status: str = "checking"


@router.get("/v1/health/sending", response_model=None, responses={200: {"model": Sending}})
async def sending(who: Operator, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        rows = await health.findings(db)
    found = sorted(rows, key=lambda row: ("wrong", "unknown", "ok").index(row["status"]))
    statuses = {row["status"] for row in rows}
    return {
        "object": "health",
        "status": "wrong" if "wrong" in statuses else "ok" if "ok" in statuses else "unknown",
        "checked_at": rows[0]["at"].isoformat() if rows else None,
        "data": [{name: row[name] for name in Finding.model_fields} for row in found],
    }


@router.post("/v1/health/sending", status_code=202, response_model=None, responses={202: {"model": Asked}})
async def look(who: Operator, ctx: Ctx) -> dict[str, Any]:
    """Outbound looks within seconds; GET then says when it did."""
    if not await ctx.ringer.enqueue(HEALTH, "now"):
        raise Unavailable("Redis does not answer, so outbound cannot be asked. It looks by itself every hour.")
    return {"object": "health", "status": "checking"}
