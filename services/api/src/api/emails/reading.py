"""GET /emails, /emails/:id, /v1/emails/:id/deliveries: what was sent and what became of it.

Beyond Resend: `GET /emails` filters by to, from, subject, tag, status and date, and answers MailIt's `page` and `per_page`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import asyncpg
import orjson
from fastapi import APIRouter, Request

from api.auth import FullAccess
from api.context import Context, Ctx
from api.emails import schemas
from api.errors import ApiError, invalid, not_found
from api.pages import listed, page, path_id
from mailcore.flow.parse import raw_of
from mailcore.kit.errors import Invalid, NotFound, Refused
from mailcore.smtp.address import parse_mailbox
from mailcore.store import explain, sent, waiting
from mailcore.store.sent import MAX_COUNT, Search, TooMuch

router = APIRouter(tags=["emails"])

STATUSES: Final = (
    *("bounced", "canceled", "clicked", "complained", "delivered", "delivery_delayed", "failed", "opened", "queued"),
    *("scheduled", "sent", "suppressed"),
)
"""Of `last_event` (resend.md §4.4)."""
MAX_TEXT = 500
PER_PAGE = 20
MAX_PER_PAGE = 100


@router.get("/emails", responses={200: {"model": schemas.EmailList}}, response_model=None, openapi_extra=schemas.LIST)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    search = _search(request)
    try:
        async with ctx.store.search(who.org_id) as db:
            if "page" in request.query_params or "per_page" in request.query_params:
                return await _numbered(request, db, search)
            found = await sent.page(db, page(request), search)
    except TooMuch:
        raise invalid(
            "This search looks at more emails than one request may. Narrow it by `start_date` and `end_date`, or by `to`."
        ) from None
    return listed(found, summary)


@router.get("/emails/{id}", responses={200: {"model": schemas.Email}}, response_model=None)
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await sent.find(db, path_id(id))
    if row is None:
        raise not_found("Email")
    html, text = await body(ctx, row)
    return {"object": "email", **summary(row), "html": html, "text": text, "tags": row["tags"] or []}


@router.get("/v1/emails/{id}/deliveries", responses={200: {"model": schemas.DeliveryList}}, response_model=None)
async def deliveries(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """What happened to each recipient's copy, and why."""
    email_id = path_id(id)
    async with ctx.store.worker() as db:
        held = await explain.held(db, who.org_id, email_id)
        waits = await waiting.of_email(db, who.org_id, email_id)
    async with ctx.store.tenant(who.org_id, snapshot=True) as db:
        found = await explain.deliveries(db, email_id, held, waits)
    if not found:
        raise not_found("Email")
    return {"object": "list", "has_more": False, "data": found}


async def body(ctx: Context, row: asyncpg.Record, html_format: str = "cid") -> tuple[str | None, str | None]:
    """`(html, text)` of a row of `sent.find`: as it was given, or read out of a message that was handed in whole."""
    if row["body_blob"] is not None:
        stored = orjson.loads(await ctx.blobs.get(row["body_blob"]))
        return stored["html"], stored["text"]
    if row["raw"] is None and row["raw_blob"] is None:
        return row["html"], row["text_"]
    try:
        content = await ctx.reader.content(await raw_of(ctx.blobs, row["raw"], row["raw_blob"]), html_format)
    except (NotFound, Refused):
        return None, None  # more than its reader may take; the rest of the email is known nevertheless
    return content["html"], content["text"]


def summary(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "message_id": row["message_id"],
        "to": row["to_"],
        "from": row["from_"],
        "created_at": row["created_at"].isoformat(),
        "subject": row["subject"],
        "bcc": row["bcc"],
        "cc": row["cc"],
        "reply_to": row["reply_to"],
        "last_event": row["last_event"],
        "scheduled_at": None if row["scheduled_at"] is None else row["scheduled_at"].isoformat(),
        "topic_id": None,
    }


async def _numbered(request: Request, db: asyncpg.Connection, search: Search) -> dict[str, Any]:
    """MailIt's form of the list."""
    number, size = _count(request, "page", 1, MAX_COUNT), _count(request, "per_page", PER_PAGE, MAX_PER_PAGE)
    if number * size > MAX_COUNT:
        raise invalid(f"Pages reach {MAX_COUNT} emails far. Use `after` and `before`, or narrow the search by date.")
    rows, total = await sent.numbered(db, search, offset=(number - 1) * size, limit=size)
    return {
        "data": [summary(row) for row in rows],
        "total": total,
        "page": number,
        "per_page": size,
        "total_pages": -(-total // size),
        "has_more": number * size < total,
    }


def _count(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0
    if not 1 <= number <= most:
        raise invalid(f"The `{name}` parameter must be a number between 1 and {most}.")
    return number


def _search(request: Request) -> Search:
    """Raises ApiError 422."""
    query = request.query_params
    for name in ("to", "from", "subject", "tag", "status"):
        if len(query.get(name, "")) > MAX_TEXT:
            raise _wrong(name, f"At most {MAX_TEXT} characters.")
    to = query.get("to")
    if to:
        try:
            to = str(parse_mailbox(to).address)
        except Invalid:
            raise _wrong("to", "Write a whole address such as `you@example.com`.") from None
    status = query.get("status")
    if status and status not in STATUSES:
        raise _wrong("status", f"One of {', '.join(STATUSES)}.")
    name, _, value = query.get("tag", "").partition(":")
    start, end = (
        moment_of(query.get("start_date"), "start_date"),
        moment_of(query.get("end_date"), "end_date", end=True),
    )
    if start is not None and end is not None and start > end:
        raise _wrong("start_date", "It must be on or before `end_date`.")
    return Search(
        to=to or None,
        from_=query.get("from") or None,
        subject=query.get("subject") or None,
        tag=None if not name else {"name": name, "value": value} if value else {"name": name},
        status=status or None,
        start=start,
        end=end,
    )


def moment_of(text: str | None, name: str, zone: Any = UTC, *, end: bool = False) -> datetime | None:
    """A date or a date and time of a query, in UTC; at the end of a range a date is its whole day. Raises ApiError 422."""
    if not text:
        return None
    # an offset's plus that was not percent-encoded has become a space
    text = text if len(text) < 40 else ""
    try:
        if len(text) == 10:
            day = date.fromisoformat(text) + timedelta(days=end)
            return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
        at = datetime.fromisoformat(text[:-6] + "+" + text[-5:] if text[-6:-5] == " " and "T" in text else text)
        return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _wrong(name, "Use an ISO 8601 date or date and time.") from None


def _wrong(name: str, what: str) -> ApiError:
    return invalid(f"Invalid `{name}`. {what}")
