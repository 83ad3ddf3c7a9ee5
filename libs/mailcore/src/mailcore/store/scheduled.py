"""Emails that wait for their time, moved or taken back by their owner. Role app.

Outbound claims with SKIP LOCKED, so that of a claim and a change one comes first: `hold` locks the rows that nobody has leased, and
what it holds no claim sees until the transaction ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class Held:
    last_event: str
    scheduled: int
    """Deliveries that wait for their time."""
    begun: int
    """Deliveries that wait no more, suppressed ones aside."""
    free: int
    """Queue rows that are now locked, and that nobody has ever begun."""
    taken: int
    """Queue rows that a worker has or had."""


async def hold(db: Connection, email_id: UUID) -> Held | None:
    """Locks what can be locked without waiting. None: no such email."""
    rows = await db.fetch(_LOCK, email_id)
    free = sum(row["worker"] is None and row["attempt"] == 0 for row in rows)
    told = await db.fetchrow(_TOLD, email_id)
    return None if told is None else Held(told[0], told[1], told[2], free, len(rows) - free)


# a row under another's lock is being claimed, settled or changed just now
_LOCK = "SELECT worker, attempt FROM queue WHERE email_id = $1 FOR UPDATE SKIP LOCKED"
_TOLD = """
SELECT (array_agg(last_event ORDER BY last_event_at DESC, n))[1], count(*) FILTER (WHERE state = 'scheduled'),
       count(*) FILTER (WHERE state NOT IN ('scheduled', 'suppressed'))
FROM deliveries WHERE email_id = $1 GROUP BY email_id
"""


async def move(db: Connection, email_id: UUID, at: datetime) -> list[int]:
    """To another time, after `hold`. Returns the sites to ring when it is due."""
    await db.execute("UPDATE emails SET scheduled_at = $2 WHERE id = $1", email_id, at)
    rows = await db.fetch(_MOVE, email_id, at)
    return [row["site_id"] for row in rows]


_MOVE = """
WITH moved AS (UPDATE queue SET due_at = $2, waits_for = NULL, turn = NULL WHERE email_id = $1 RETURNING lane_id)
SELECT DISTINCT r.site_id FROM moved JOIN lanes l ON l.id = moved.lane_id JOIN recipient_domains r ON r.domain = l.domain
"""


async def cancel(db: Connection, email_id: UUID) -> None:
    """For good, after `hold`."""
    await db.execute(_CANCEL, email_id)


_CANCEL = """
WITH gone AS (DELETE FROM queue WHERE email_id = $1 RETURNING email_id, n)
UPDATE deliveries d SET state = 'cancelled', last_event = 'canceled', last_event_at = now()
FROM gone WHERE d.email_id = gone.email_id AND d.n = gone.n
"""
