"""Rows as /v1/messages and /v1/threads show them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from api.errors import invalid
from api.pages import path_id


def message(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "mailbox_id": str(row["mailbox_id"]),
        "mailbox": row["address"],
        "account_id": row["account_id"] and str(row["account_id"]),
        "arrival_id": row["arrival_id"] and str(row["arrival_id"]),
        "thread_id": row["thread_id"] and str(row["thread_id"]),
        "message_id": row["message_id"],
        "from": row["from_"],
        "to": row["to_"],
        "cc": row["cc"],
        "reply_to": row["reply_to"],
        "subject": row["subject"],
        "snippet": row["snippet"],
        "date": row["date"] and row["date"].isoformat(),
        "received_at": row["received_at"].isoformat(),
        "size": row["size"],
        "attachment_count": row["attachments"],
        "read": row["seen"],
        "starred": row["flagged"],
        "junk": row["junk"],
        "flags": row["flags"],
        "doubts": row["doubts"],
    }


def thread(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "mailbox_id": str(row["mailbox_id"]),
        "mailbox": row["address"],
        "account_id": row["account_id"] and str(row["account_id"]),
        "subject": row["subject"],
        "participants": row["participants"],
        "messages": row["messages"],
        "unread": row["unread"],
        "snippet": row["snippet"],
        "from": row["from_"],
        "first_at": row["first_at"].isoformat(),
        "last_at": row["last_at"].isoformat(),
    }


def parameter(name: str, schema: dict[str, Any], description: str = "") -> dict[str, Any]:
    more = {"description": description} if description else {}
    return {"name": name, "in": "query", "required": False, "schema": schema} | more


UUID_ = {"type": "string", "format": "uuid"}
BOOLEAN = {"type": "boolean"}


def asked_id(request: Request, name: str) -> Any:
    text = request.query_params.get(name)
    return None if text is None else path_id(text, name)


def asked_boolean(request: Request, name: str) -> bool | None:
    """Raises ApiError 422."""
    text = request.query_params.get(name)
    if text not in (None, "true", "false"):
        raise invalid(f"The `{name}` parameter must be true or false.", "invalid_parameter")
    return None if text is None else text == "true"
