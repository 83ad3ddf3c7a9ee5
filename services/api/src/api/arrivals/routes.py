"""GET /v1/arrivals, GET /v1/arrivals/{id}."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.context import Ctx
from api.errors import not_found
from api.links import RECEIVED, links
from api.messages.shapes import BOOLEAN, asked_boolean, parameter
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.store import arrivals, messages

router = APIRouter(prefix="/v1/arrivals", tags=["arrivals"])

_PARAMETERS = {
    "parameters": [
        *PARAMETERS["parameters"],
        {"name": "door", "in": "query", "required": False, "schema": {"type": "string"}},
        parameter("pending", BOOLEAN, "Those that wait for a scanner to look at them, or those that do not."),
    ]
}


@router.get("", openapi_extra=_PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Newest first, whatever their state; `door` and `pending` narrow it. Reports that changed nothing are here, too."""
    asked, pending = page(request), asked_boolean(request, "pending")
    async with ctx.store.tenant(who.org_id) as db:
        found = await arrivals.page(db, asked, door=request.query_params.get("door"), pending=pending)
    return listed(found, _shape)


@router.get("/{arrival_id}")
async def get(arrival_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Who handed it over, what authentication and scanners found, what was decided and why, which messages it became,
    where it waits."""
    id_ = path_id(arrival_id)
    async with ctx.store.tenant(who.org_id, snapshot=True) as db:
        row = await arrivals.find(db, id_)
        if row is None:
            raise not_found("Arrival")
        queued = await arrivals.queue_row(db, id_)
        delivered = [UUID(one["message_id"]) for one in row["decisions"] if one.get("message_id")]
        made = await messages.of_ids(db, delivered)
    link = links(ctx).file(RECEIVED, who.org_id, id_, "raw")
    return (
        {"object": "arrival"}
        | _shape(row)
        | {
            "facts": row["facts"],
            "auth": row["auth"],
            "findings": row["findings"],
            "decisions": row["decisions"],
            "summary": row["summary"],
            "queue": queued
            and {
                "due_at": queued["due_at"].isoformat(),
                "attempt": queued["attempt"],
                "crashes": queued["crashes"],
                "leased": queued["leased"],
            },
            "messages": [
                {"id": str(one["id"]), "mailbox_id": str(one["mailbox_id"]), "mailbox": one["address"]} for one in made
            ],
            "raw": {"download_url": link.url, "expires_at": link.expires_at},
        }
    )


def _shape(row: Any) -> dict[str, Any]:
    summary = row["summary"] or {}
    return {
        "id": str(row["id"]),
        "door": row["door"],
        "source": row["source"],
        "source_id": row["source_id"],
        "mail_from": row["mail_from"],
        "rcpt_to": row["rcpt_to"],
        "size": row["size"],
        "sha256": row["sha256"].hex(),
        "state": row["state"] if row["pending"] is None else "pending",
        "pending": row["pending"] and {"scanners": row["pending"].split(", "), "since": row["pending_at"].isoformat()},
        "from": summary.get("from"),
        "subject": summary.get("subject"),
        "message_id": summary.get("message_id"),
        "created_at": row["created_at"].isoformat(),
        "routed_at": row["routed_at"] and row["routed_at"].isoformat(),
    }
