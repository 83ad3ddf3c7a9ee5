"""The log of API calls: written in batches by the api's processes (role door), read by organization (role app).

What is written may be lost in a crash of the server (`synchronous_commit = off`); nothing but these rows is written so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import orjson

from mailcore.kit.ids import lower_bound
from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection

DAYS = 30
"""Older rows are not shown, and dropped with their month."""
SEARCH_SECONDS = 5

NewLog: TypeAlias = tuple[
    str,
    UUID,
    UUID | None,
    UUID | None,
    str,
    str,
    int,
    float,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
]
"""id (UUIDv7 as text), org_id, key_id, user_id, method, endpoint, status, duration_ms, user_agent, client, request_id,
request_body, response_body. A plain tuple, and all of them as one JSON value: that is what a row costs the process that answers
requests."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a list is narrowed to; None: not by this."""

    method: str | None = None
    statuses: tuple[int, int] | None = None
    """From, to (without it)."""
    endpoint: str | None = None
    """Begins with this."""
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    """Somewhere in endpoint, user agent, request id or bodies."""


async def insert(db: Connection, rows: Sequence[NewLog]) -> None:
    """Texts hold no NUL."""
    await db.execute("SET LOCAL synchronous_commit = off")
    await db.execute(_INSERT, orjson.dumps(rows, default=str).decode())  # the driver's UUIDs are no UUIDs to orjson


async def page(db: Connection, page: Page, wanted: Wanted, *, now: datetime | None = None) -> Slice:
    """Raises asyncpg.QueryCanceledError after SEARCH_SECONDS."""
    where, args = _where(wanted, now or datetime.now(UTC))
    await db.execute(_SEARCH)
    return await fetch(db, f"SELECT {_SUMMARY} FROM logs WHERE {where}", args, page)


async def find(db: Connection, id_: UUID, *, now: datetime | None = None) -> asyncpg.Record | None:
    if id_ < oldest(now or datetime.now(UTC)):
        return None
    return await db.fetchrow(
        f"SELECT {_SUMMARY}, request_body, response_body FROM logs WHERE org_id = (SELECT current_org()) AND id = $1",
        id_,
    )


async def sent(db: Connection, ids: Sequence[UUID]) -> list[asyncpg.Record]:
    """The emails of an accepted send, in this order."""
    rows = await db.fetch(_SENT, list(ids))
    found = {row["id"]: row for row in rows}
    return [found[id_] for id_ in ids if id_ in found]


async def drop_old(db: Connection, now: datetime) -> int:
    """Months whose every row is too old to be shown; role worker. Returns how many."""
    return len(await db.fetch("SELECT drop_logs($1)", now - timedelta(days=DAYS)))


def oldest(now: datetime) -> UUID:
    return lower_bound(now - timedelta(days=DAYS))


def _where(wanted: Wanted, now: datetime) -> tuple[str, list[Any]]:
    args: list[Any] = [oldest(now)]
    conditions = ["org_id = (SELECT current_org())", "id >= $1"]

    def add(condition: str, *values: Any) -> None:
        places = [f"${len(args) + n}" for n in range(1, len(values) + 1)]
        args.extend(values)
        conditions.append(condition.format(*places))

    if wanted.since is not None:
        add("id >= {}", lower_bound(wanted.since))
    if wanted.until is not None:
        add("id < {}", lower_bound(wanted.until))
    if wanted.method is not None:
        add("method = {}", wanted.method)
    if wanted.statuses is not None:
        add("status >= {} AND status < {}", *wanted.statuses)
        if wanted.statuses[0] >= 400:
            conditions.append("status >= 400")  # says to the planner that logs_refused has all of them
    if wanted.endpoint is not None:
        add("starts_with(endpoint, {})", wanted.endpoint)
    if wanted.text is not None:
        pattern = "%" + wanted.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        add(
            "concat_ws(' ', endpoint, user_agent, request_id, id::text, request_body, response_body) ILIKE {}",
            pattern,
        )
    return " AND ".join(conditions), args


# The planner takes every organization for an average one, and would read and sort all rows of a large one for a page of it;
# the index has them in order.
_SEARCH = (
    f"SET LOCAL statement_timeout = '{SEARCH_SECONDS}s'; SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off"
)
_SUMMARY = "id, key_id, user_id, method, endpoint, status, duration_ms, user_agent, client, request_id"
_INSERT = """
INSERT INTO logs (id, org_id, key_id, user_id, method, endpoint, status, duration_ms, user_agent, client, request_id,
                  request_body, response_body)
SELECT (r->>0)::uuid, (r->>1)::uuid, (r->>2)::uuid, (r->>3)::uuid, r->>4, r->>5, (r->>6)::smallint, (r->>7)::real, r->>8, r->>9,
       r->>10, r->>11, r->>12
FROM jsonb_array_elements($1::text::jsonb) AS r
"""
_SENT = """
SELECT id, from_, to_, cc, bcc, reply_to, subject, html, text_, headers, tags, attachments, body_blob, body_bytes, scheduled_at
FROM emails WHERE id = ANY ($1::uuid[])
"""
