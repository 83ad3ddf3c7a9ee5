"""What may leave now: the lanes that have due rows, by one index probe a lane (loose index scan), never a look at the rows; and the
suspect whose turn it is. Who claims it: `store.deliveries`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from mailcore.store.lanes import LANES_WITH_ROWS
from mailcore.store.plans import by_index
from mailcore.store.session import Connection
from mailcore.store.ways import TAKEN, TAKEN_COLUMNS, Taken, taken

MOST_DUE = 5_000
"""Lanes that a look sees: who has many thousands has them one after the other, and others beside them."""


@dataclass(frozen=True, slots=True)
class DueLane:
    lane_id: int
    domain: str
    site_id: int
    due_at: datetime
    """Of its first row."""
    failures: int
    """Of its site: connections that failed in a row."""
    org_id: UUID
    class_: int
    """0 transactional, 1 broadcast."""
    taken: Taken | None = None
    """Of a lane with a route: the way that its mail takes; None: the domain's own site."""


async def due_lanes(db: Connection, of: Sequence[int] | None = None) -> list[DueLane]:
    """Lanes with a due row that nobody has leased, whose site is not suspended and whose mail is not held, at most MOST_DUE:
    organizations in turns, of each its sites and classes in turns, of these the oldest first. `of`: of these lanes alone, which
    costs an index probe each and not one for every lane with rows."""
    await by_index(db)
    rows = await db.fetch(_DUE_LANES, MOST_DUE) if of is None else await db.fetch(_DUE_OF, MOST_DUE, list(of))
    return [_due(row) for row in rows]


def _due(row: asyncpg.Record) -> DueLane:
    lane_id, domain, site_id, due_at, failures, org_id, class_ = row[:7]
    return DueLane(lane_id, domain, site_id, due_at, failures, org_id, class_, taken(row[7:13]))


NOT_HELD = """NOT EXISTS (
    SELECT FROM holds h WHERE h.site_id = s.id AND (h.org_id = l.org_id OR h.org_id IS NULL)
      AND (h.until IS NULL OR h.until > now()))
  AND NOT EXISTS (
    SELECT FROM holds h WHERE h.site_id IS NULL AND (h.org_id = l.org_id OR h.org_id IS NULL)
      AND (h.until IS NULL OR h.until > now()))"""
_THESE_LANES = """
WITH step AS (
  SELECT first.lane_id, first.due_at
  FROM unnest($2::bigint[]) AS lane (id) CROSS JOIN LATERAL (
    SELECT q.lane_id, q.due_at FROM queue q
    WHERE q.lane_id = lane.id AND q.worker IS NULL AND q.crashes = 0 ORDER BY q.lane_id, q.due_at LIMIT 1
  ) first
)"""
# what waits for a busy site hides nothing else of its organization
_DUE = f"""
SELECT * FROM (
SELECT step.lane_id, l.domain, s.id AS site_id, step.due_at, s.failures, l.org_id, l.class, {TAKEN_COLUMNS},
       row_number() OVER (PARTITION BY l.org_id, s.id, l.class ORDER BY step.due_at) AS turn
FROM step
JOIN lanes l ON l.id = step.lane_id
JOIN recipient_domains r ON r.domain = l.domain
{TAKEN}
WHERE step.due_at <= now() AND (s.suspended_until IS NULL OR s.suspended_until <= now()) AND taken.off IS NOT TRUE AND {NOT_HELD}
) due
ORDER BY row_number() OVER (PARTITION BY org_id ORDER BY turn, class, due_at), due_at
LIMIT $1
"""
_DUE_LANES, _DUE_OF = LANES_WITH_ROWS + _DUE, _THESE_LANES + _DUE


async def peek_suspect(db: Connection, busy: Sequence[int] = ()) -> DueLane | None:
    """The lane of the suspect that waited longest and whose site is not suspended and not among `busy`."""
    await by_index(db)
    row = await db.fetchrow(_PEEK_SUSPECT, list(busy))
    return _due(row) if row else None


_PEEK_SUSPECT = f"""
SELECT q.lane_id, l.domain, s.id, q.due_at, s.failures, l.org_id, l.class, {TAKEN_COLUMNS}
FROM queue q
JOIN lanes l ON l.id = q.lane_id
JOIN recipient_domains r ON r.domain = l.domain
{TAKEN}
WHERE q.crashes > 0 AND q.worker IS NULL AND q.due_at <= now() AND s.id <> ALL ($1::bigint[])
  AND (s.suspended_until IS NULL OR s.suspended_until <= now()) AND taken.off IS NOT TRUE AND {NOT_HELD}
ORDER BY q.due_at LIMIT 1
"""


async def depth(db: Connection, most: int = 10_000) -> int:
    """Rows waiting, counted up to `most`; beyond that the planner's estimate."""
    counted: int = await db.fetchval("SELECT count(*) FROM (SELECT FROM queue LIMIT $1) AS bounded", most)
    if counted < most:
        return counted
    estimate: int = await db.fetchval("SELECT reltuples::bigint FROM pg_class WHERE oid = 'queue'::regclass")
    return max(counted, estimate)
