"""What people say of messages, spam or not, and what scanners learned of it. A row a message; its due_at is the next try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from mailcore.store.session import Connection

JUNK, NOT_JUNK = "$Junk", "$NotJunk"
"""IANA keywords."""
DAYS = 90
"""How long rows are kept that have ended."""


@dataclass(frozen=True, slots=True)
class Due:
    message_id: UUID
    arrival_id: UUID
    spam: bool
    attempt: int
    """This one, from 1."""
    reports: int
    learned: list[dict[str, Any]]
    """By scanners that have answered before."""
    raw: bytes | None
    raw_blob: str | None
    gone: bool
    """The arrival's row is no more."""


@dataclass(frozen=True, slots=True)
class Taught:
    message_id: UUID
    reports: int
    state: str
    """waiting, done, failed, skipped."""
    reason: str | None
    learned: list[dict[str, Any]]


async def reported_since(db: Connection, since: datetime) -> int:
    """How often people of the organization changed what is known of messages. Role app."""
    count: int = await db.fetchval("SELECT coalesce(sum(reports), 0) FROM trainings WHERE reported_at > $1", since)
    return count


async def report(db: Connection, message_id: UUID, *, spam: bool, by: UUID | None) -> asyncpg.Record | None:
    """Marks the message, and has it learned. Said again, it changes nothing, but for what failed: that is tried again. None: there
    is no such message. Role app."""
    keyword = JUNK if spam else NOT_JUNK
    if await db.fetchval(_MARK, message_id, [keyword]) is None:
        return None
    await db.execute(_REPORT, message_id, spam, by)
    return await find(db, message_id)


async def find(db: Connection, message_id: UUID) -> asyncpg.Record | None:
    """Of a message that is there. Role app."""
    return await db.fetchrow(_FIND, message_id)


async def claim(db: Connection, limit: int, delays: Sequence[float], only: UUID | None = None) -> list[Due]:
    """What is due, its next try written first: `delays` in seconds, by attempt, the last one for all that follow. Role worker."""
    rows = await db.fetch(_CLAIM, limit, list(delays), only)
    return [Due(**dict(row)) for row in rows]


async def settle(db: Connection, taught: Taught) -> None:
    """Not where somebody has changed his mind since. Role worker."""
    learned = orjson.dumps(taught.learned).decode()
    await db.execute(_SETTLE, taught.message_id, taught.reports, taught.state, taught.reason, learned)


async def forget(db: Connection, limit: int) -> int:
    """Role worker."""
    gone: int = await db.fetchval(_FORGET, DAYS, limit)
    return gone


_MARK = """
UPDATE messages SET flags = array_remove(array_remove(flags, '$Junk'), '$NotJunk') || $2::text[] WHERE id = $1 RETURNING id
"""

_REPORT = """
INSERT INTO trainings AS t (message_id, org_id, arrival_id, spam, state, reason, due_at, reported_by)
SELECT m.id, m.org_id, m.arrival_id, $2, CASE WHEN m.arrival_id IS NULL THEN 'skipped' ELSE 'waiting' END,
       CASE WHEN m.arrival_id IS NULL THEN 'The mail itself lies on its own server, not here.' END,
       CASE WHEN m.arrival_id IS NOT NULL THEN now() END, $3
FROM messages m WHERE m.id = $1
ON CONFLICT (message_id) DO UPDATE SET spam = excluded.spam, state = excluded.state, reason = excluded.reason,
  due_at = excluded.due_at, learned = '[]', attempt = 0, reports = t.reports + 1, reported_by = excluded.reported_by,
  reported_at = now()
WHERE t.spam <> excluded.spam OR t.state = 'failed'
"""

_FIND = """
SELECT t.message_id, t.spam, t.state, t.reason, t.learned, t.attempt, t.due_at, t.reported_at
FROM trainings t JOIN messages m ON m.id = t.message_id WHERE t.message_id = $1
"""

_CLAIM = """
WITH due AS (
  SELECT message_id FROM trainings WHERE due_at <= now() AND ($3::uuid IS NULL OR message_id = $3)
  ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
), mine AS (
  UPDATE trainings t SET attempt = t.attempt + 1,
    due_at = now() + make_interval(secs => ($2::float8[])[least(t.attempt + 1, cardinality($2::float8[]))])
  FROM due WHERE t.message_id = due.message_id
  RETURNING t.message_id, t.arrival_id, t.spam, t.attempt, t.reports, t.learned
)
SELECT mine.*, a.raw, a.raw_blob, a.id IS NULL OR a.raw IS NULL AND a.raw_blob IS NULL AS gone
FROM mine LEFT JOIN arrivals a ON a.id = mine.arrival_id
"""

_SETTLE = """
UPDATE trainings SET state = $3, reason = $4, learned = $5::text::jsonb, due_at = CASE WHEN $3 = 'waiting' THEN due_at END
WHERE message_id = $1 AND reports = $2 AND state = 'waiting'
"""

_FORGET = """
WITH gone AS (
  DELETE FROM trainings WHERE message_id IN (
    SELECT message_id FROM trainings WHERE due_at IS NULL AND reported_at < now() - make_interval(days => $1) LIMIT $2)
  RETURNING 1
) SELECT count(*) FROM gone
"""
