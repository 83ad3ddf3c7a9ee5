"""Waiting mail of a certain age that nobody has been told of. Role worker."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from mailcore.store.plans import by_index
from mailcore.store.session import Connection
from mailcore.store.waiting import PLANNED, why

BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Late:
    email_id: UUID
    n: int
    org_id: UUID
    recipient: str
    why: str | None = None
    """What it waits for (store.waiting); None: its next attempt."""


@dataclass(frozen=True, slots=True)
class Batch:
    told: list[Late]
    last: UUID | None
    """Where the next batch begins; None: this was the last one."""


async def late(db: Connection, start: UUID | None, end: UUID, before: datetime) -> Batch:
    """Of emails with ids from `start` until `end` that wanted to leave before `before`: marks those that wait as delayed.

    A row that is under way is left to settle, one that somebody opened stays opened; a broadcast that waits for room is no news, as
    a warm-up spreads them over days. An email's rows are in one batch.
    """
    await by_index(db)
    rows = await db.fetch(_LATE, start or UUID(int=0), end, before, BATCH, PLANNED)
    late = [row for row in rows if row["recipient"] is not None]
    words = await why(db, [(row["waits_for"], row["turn"]) for row in late if row["waits_for"] is not None])
    told = [
        Late(row["email_id"], row["n"], row["org_id"], row["recipient"], words.get((row["waits_for"], row["turn"])))
        for row in late
    ]
    looked = rows[0]
    if looked["rows"] < BATCH:
        return Batch(told, None)
    last: UUID = looked["last"]
    return Batch(told, UUID(int=last.int + 1) if looked["first"] == last else last)


# the last email of a batch may have more rows: it is looked at again, and those that were told are no news. Only news is locked:
# the rest may be millions of rows that are held
_LATE = """
WITH waiting AS MATERIALIZED (
  SELECT q.email_id, q.n FROM queue q
  WHERE q.email_id >= $1 AND q.email_id < $2 AND q.worker IS NULL AND (q.turn = ANY ($5::smallint[])) IS NOT TRUE
  ORDER BY q.email_id, q.n LIMIT $4
), news AS MATERIALIZED (
  SELECT waiting.email_id, waiting.n FROM waiting
  JOIN emails e ON e.id = waiting.email_id
  JOIN deliveries d ON d.email_id = waiting.email_id AND d.n = waiting.n
  WHERE d.state IN ('queued', 'scheduled') AND d.last_event NOT IN ('delivery_delayed', 'opened', 'clicked')
    AND coalesce(e.scheduled_at, e.created_at) < $3
), free AS MATERIALIZED (
  SELECT q.email_id, q.n, q.waits_for, q.turn FROM news JOIN queue q ON q.email_id = news.email_id AND q.n = news.n
  WHERE q.worker IS NULL AND (q.turn = ANY ($5::smallint[])) IS NOT TRUE
  ORDER BY q.email_id, q.n FOR UPDATE OF q SKIP LOCKED
), told AS (
  UPDATE deliveries d SET last_event = 'delivery_delayed', last_event_at = now()
  FROM free WHERE d.email_id = free.email_id AND d.n = free.n
    AND d.state IN ('queued', 'scheduled') AND d.last_event NOT IN ('delivery_delayed', 'opened', 'clicked')
  RETURNING d.email_id, d.n, d.org_id, d.recipient, free.waits_for, free.turn
)
SELECT looked.*, told.*
FROM (SELECT count(*) AS rows, min(email_id::text)::uuid AS first, max(email_id::text)::uuid AS last FROM waiting) looked
LEFT JOIN told ON true
"""
