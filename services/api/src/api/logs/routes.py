"""GET /logs, GET /logs/:id: every call of the organization in the last 30 days (resend.md §7)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel

from api.auth import FullAccess
from api.context import Ctx
from api.errors import invalid, not_found
from api.logs import rebuilt
from api.logs.record import is_accepted_send
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.kit.ids import uuid7_time
from mailcore.store import logs
from mailcore.store.logs import Wanted

router = APIRouter(tags=["logs"])

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
LEVELS = {"info": (100, 400), "warn": (400, 500), "error": (500, 600)}
MAX_TEXT = 200


class Log(BaseModel):
    id: str
    created_at: str
    endpoint: str
    method: str
    response_status: int
    user_agent: str | None
    api_key_id: str | None
    user_id: str | None
    ip: str | None
    duration_ms: float
    request_id: str


class LogWithBodies(Log):
    object: str = "log"
    request_body: Any
    response_body: Any


class MailItLog(BaseModel):
    id: str
    level: str
    message: str
    email_id: str | None
    created_at: str


class LogList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[Log] | list[MailItLog]


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }


FILTERS: dict[str, Any] = {
    "parameters": [
        *PARAMETERS["parameters"],
        _parameter("method", "Of the call.", enum=list(METHODS)),
        _parameter("status", "A status such as `422`, or a class such as `4xx`.", pattern="^[1-5]([0-9]{2}|xx)$"),
        _parameter("endpoint", "Paths that begin with this, such as `/emails`.", maxLength=MAX_TEXT),
        _parameter("start_date", "Calls from this time on: ISO 8601, or a day (UTC).", maxLength=64),
        _parameter("end_date", "Calls before this time, or up to the end of this day (UTC).", maxLength=64),
        _parameter("q", "Text in path, user agent, ids or bodies.", minLength=1, maxLength=MAX_TEXT),
        _parameter(
            "level", "MailIt's form: its shape of answer, `info` below 400, `warn` below 500.", enum=list(LEVELS)
        ),
    ]
}


@router.get("/logs", response_model=None, responses={200: {"model": LogList}}, openapi_extra=FILTERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Newest first. With `level` the rows have MailIt's form: `id, level, message, email_id, created_at`."""
    asked = page(request)
    wanted = _wanted(request)
    try:
        async with ctx.store.search(who.org_id) as db:
            found = await logs.page(db, asked, wanted)
    except asyncpg.QueryCanceledError:
        raise invalid("This search takes too long. Narrow it by `start_date` and `end_date`, or by `status`.") from None
    return listed(found, _mailit if "level" in request.query_params else _summary)


@router.get("/logs/{id}", response_model=None, responses={200: {"model": LogWithBodies}})
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """With both bodies: secrets masked, contents of attachments replaced by their size, what is long cut."""
    log_id = path_id(id, "logId")
    async with ctx.store.tenant(who.org_id) as db:
        row = await logs.find(db, log_id)
    if row is None:
        raise not_found("Log")
    asked, answer = _json(row["request_body"]), _json(row["response_body"])
    if asked is None and answer is not None and is_accepted_send(row["method"], row["endpoint"], row["status"]):
        asked = await rebuilt.request_body(ctx, who.org_id, answer, ctx.settings.logs.body_bytes)
    return {"object": "log", **_summary(row), "request_body": asked, "response_body": answer}


def _wanted(request: Request) -> Wanted:
    query = request.query_params
    statuses = None
    if "level" in query:
        if query["level"] not in LEVELS:
            raise invalid("Invalid `level` parameter. It must be `info`, `warn` or `error`.")
        statuses = LEVELS[query["level"]]
    if "status" in query:
        if not re.fullmatch(r"[1-5]([0-9]{2}|xx)", query["status"], re.ASCII | re.IGNORECASE):
            raise invalid("Invalid `status` parameter. It must be a status such as `422`, or a class such as `4xx`.")
        first = int(query["status"].lower().replace("x", "0"))
        statuses = (first, first + (100 if "x" in query["status"].lower() else 1))
    if "method" in query and query["method"].upper() not in METHODS:
        raise invalid(f"Invalid `method` parameter. It must be one of {', '.join(METHODS)}.")
    return Wanted(
        method=query["method"].upper() if "method" in query else None,
        statuses=statuses,
        endpoint=_text(query.get("endpoint"), "endpoint"),
        since=_moment(query.get("start_date"), "start_date"),
        until=_moment(query.get("end_date"), "end_date"),
        text=_text(query.get("q"), "q"),
    )


def _text(text: str | None, name: str) -> str | None:
    if text is not None and not 1 <= len(text) <= MAX_TEXT:
        raise invalid(f"Invalid `{name}` parameter. It must have between 1 and {MAX_TEXT} characters.")
    return text


def _moment(text: str | None, name: str) -> datetime | None:
    if text is None:
        return None
    try:
        if len(text) == 10 and name == "end_date":
            text += "T23:59:59.999999"
        at = datetime.fromisoformat(text.replace(" ", "+"))  # a plus that was not encoded
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        at = None
    if at is None or not 1970 < at.year < 3000:
        raise invalid(f"Invalid `{name}`.")
    return at


def _json(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


def _summary(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "created_at": uuid7_time(row["id"]).isoformat(),
        "endpoint": row["endpoint"],
        "method": row["method"],
        "response_status": row["status"],
        "user_agent": row["user_agent"],
        "api_key_id": None if row["key_id"] is None else str(row["key_id"]),
        "user_id": None if row["user_id"] is None else str(row["user_id"]),
        "ip": row["client"],
        "duration_ms": round(row["duration_ms"], 1),
        "request_id": row["request_id"] or str(row["id"]),
    }


def _mailit(row: Any) -> dict[str, Any]:
    status = row["status"]
    email = re.match(r"/emails/([0-9a-f-]{36})\b", row["endpoint"])
    return {
        "id": str(row["id"]),
        "level": next(level for level, (low, high) in LEVELS.items() if low <= status < high),
        "message": f"{row['method']} {row['endpoint']} {status}",
        "email_id": email[1] if email else None,
        "created_at": uuid7_time(row["id"]).isoformat(),
    }
