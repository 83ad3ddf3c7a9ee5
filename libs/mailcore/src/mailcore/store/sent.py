"""Sent emails as their organization reads them: one, a page, a search (role app). Writers: store.emails, store.scheduled."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.kit.ids import lower_bound
from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection

SEARCH_SECONDS = 3
"""The longest that one search may look."""
MAX_TO = 10_000
"""Emails to one address that a search looks through."""
MAX_COUNT = 100_000
"""Emails are counted up to this many."""


@dataclass(frozen=True, slots=True)
class Search:
    to: str | None = None
    """A whole address; letters in any case."""
    from_: str | None = None
    """Part of the sender."""
    subject: str | None = None
    """Part of it."""
    tag: dict[str, str] | None = None
    """`name`, or `name` and `value`."""
    status: str | None = None
    """What `last_event` says."""
    start: datetime | None = None
    end: datetime | None = None
    """Exclusive."""

    @property
    def is_all(self) -> bool:
        return self == Search()


class TooMuch(Exception):
    """A search that would look at more than one may."""


async def find(db: Connection, id_: UUID) -> asyncpg.Record | None:
    """With `last_event`, and what it is made of."""
    return await db.fetchrow(
        f"SELECT {_SUMMARY}, html, text_, tags, body_blob, raw, raw_blob FROM emails e WHERE id = $1", id_
    )


async def page(db: Connection, page: Page, search: Search | None = None) -> Slice:
    """Raises TooMuch."""
    if search is None or search.is_all:
        return await fetch(db, f"SELECT {_SUMMARY} FROM emails e WHERE {_MINE}", [], page)
    try:
        where, args, cut = await _where(db, search, page)
        found = await fetch(db, f"SELECT {_SUMMARY} FROM emails e WHERE {where}", args, page)
    except asyncpg.QueryCanceledError:
        raise TooMuch from None
    if cut and not found.has_more:
        raise TooMuch  # among those that were not looked at there may be more
    return found


async def numbered(db: Connection, search: Search, *, offset: int, limit: int) -> tuple[list[asyncpg.Record], int]:
    """`(rows, how many there are)`, counted up to MAX_COUNT. Raises TooMuch."""
    try:
        where, args, cut = await _where(db, search, Page(None))
        if cut:
            raise TooMuch
        n = len(args)
        total: int = await db.fetchval(
            f"SELECT count(*) FROM (SELECT FROM emails e WHERE {where} LIMIT ${n + 1}) AS bounded", *args, MAX_COUNT
        )
        rows = await db.fetch(
            f"SELECT {_SUMMARY} FROM emails e WHERE {where} ORDER BY id DESC OFFSET ${n + 1} LIMIT ${n + 2}",
            *(*args, offset, limit),
        )
    except asyncpg.QueryCanceledError:
        raise TooMuch from None
    return rows, total


async def _where(db: Connection, search: Search, page: Page) -> tuple[str, list[Any], bool]:
    """`(condition, its arguments, whether only the MAX_TO nearest emails to that address are in it)`; sets the time limit."""
    await db.execute(f"SET LOCAL statement_timeout = '{SEARCH_SECONDS}s'")
    low = lower_bound(search.start) if search.start else UUID(int=0)
    high = lower_bound(search.end) if search.end else UUID(int=2**128 - 1)
    where, args, cut = [_MINE, "e.id >= $1", "e.id < $2"], [low, high], False

    def also(condition: str, value: Any) -> None:
        args.append(value)
        where.append(condition.format(f"${len(args)}"))

    if search.to is not None:
        ascending = page.before is not None and page.after is None
        nearest = await db.fetch(
            "SELECT id FROM lookup_emails_to($1, $2, $3, $4, $5) AS id",
            search.to,
            max(low, page.before) if ascending and page.before else low,
            min(high, page.after) if page.after else high,
            ascending,
            MAX_TO,
        )
        cut = len(nearest) == MAX_TO
        also("e.id = ANY ({}::uuid[])", [row["id"] for row in nearest])
    if search.from_ is not None:
        also("position(lower({}) in lower(e.from_)) > 0", search.from_)
    if search.subject is not None:
        also("position(lower({}) in lower(e.subject)) > 0", search.subject)
    if search.tag is not None:
        also("e.tags @> {}::jsonb", [search.tag])
    if search.status is not None:
        also(f"({_LAST_EVENT}) = {{}}", search.status)
    return " AND ".join(where), args, cut


async def attachments(db: Connection, id_: UUID) -> asyncpg.Record | None:
    """`attachments` without their content, `raw` and `raw_blob`; None: no such email."""
    return await db.fetchrow(_ATTACHMENTS, id_)


async def attachment(db: Connection, id_: UUID, attachment_id: str) -> dict[str, Any] | None:
    """One with its content (base64) or the key of its blob."""
    return await db.fetchval(_ATTACHMENT, id_, attachment_id)  # type: ignore[no-any-return]


_MINE = "org_id = (SELECT current_org())"
# of several recipients the latest event speaks for the email
_LAST_EVENT = (
    """SELECT d.last_event FROM deliveries d WHERE d.email_id = e.id ORDER BY d.last_event_at DESC, d.n LIMIT 1"""
)
_SUMMARY = f"""id, message_id, to_, from_, created_at, subject, cc, bcc, reply_to, scheduled_at, ({_LAST_EVENT}) AS last_event"""
_ATTACHMENTS = """
SELECT id, raw, raw_blob,
       (SELECT jsonb_agg(part - 'content' - 'blob' ORDER BY place)
        FROM jsonb_array_elements(attachments) WITH ORDINALITY AS t (part, place)) AS attachments
FROM emails WHERE id = $1
"""
_ATTACHMENT = """
SELECT part FROM emails CROSS JOIN LATERAL jsonb_array_elements(attachments) AS part WHERE id = $1 AND part->>'id' = $2
"""
