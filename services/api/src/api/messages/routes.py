"""GET /v1/messages, GET /v1/messages/{id}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.context import Ctx
from api.errors import not_found
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.store import pages

router = APIRouter(prefix="/v1/messages", tags=["messages"])

_SELECT = """
SELECT m.id, m.mailbox_id, b.address, b.account_id, m.arrival_id, m.message_id, m.from_, m.to_, m.cc, m.subject, m.date, m.size,
       m.flags, m.received_at
FROM messages m JOIN mailboxes b ON b.id = m.mailbox_id WHERE m.org_id = $1
"""
_FILTERS = {"mailbox_id": "m.mailbox_id", "account_id": "b.account_id"}
_PARAMETERS = {
    "parameters": [
        *PARAMETERS["parameters"],
        *(
            {"name": name, "in": "query", "required": False, "schema": {"type": "string", "format": "uuid"}}
            for name in _FILTERS
        ),
    ]
}


@router.get("", openapi_extra=_PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Newest first; `mailbox_id` and `account_id` narrow it."""
    select, args = _SELECT, [who.org_id]
    for name, column in _FILTERS.items():
        if name in request.query_params:
            args.append(path_id(request.query_params[name], name))
            select += f" AND {column} = ${len(args)}"
    asked = page(request)
    async with ctx.store.tenant(who.org_id) as db:
        found = await pages.fetch(db, select, args, asked, column="m.id")
    return listed(found, _shape)


@router.get("/{message_id}")
async def get(message_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await db.fetchrow(_SELECT + " AND m.id = $2", who.org_id, path_id(message_id))
    if row is None:
        raise not_found("Message")
    return {"object": "message"} | _shape(row)


def _shape(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "mailbox_id": str(row["mailbox_id"]),
        "mailbox": row["address"],
        "account_id": row["account_id"] and str(row["account_id"]),
        "arrival_id": row["arrival_id"] and str(row["arrival_id"]),
        "message_id": row["message_id"],
        "from": row["from_"],
        "to": row["to_"],
        "cc": row["cc"],
        "subject": row["subject"],
        "date": row["date"] and row["date"].isoformat(),
        "size": row["size"],
        "flags": row["flags"],
        "received_at": row["received_at"].isoformat(),
    }
