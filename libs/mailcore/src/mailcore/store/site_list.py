"""Sites as the operator reads them. Role worker.

How much waits is counted by index and only so far: a queue of millions is never counted through. Lanes that have rows are found by
the loose index scan that outbound uses, one probe each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mailcore.store.lanes import LANES_WITH_ROWS
from mailcore.store.plans import by_index
from mailcore.store.session import Connection
from mailcore.store.ways import TAKEN

LANE_ROWS = 100
"""Of a lane, what is counted for a list of sites."""
SITE_ROWS = 10_000
"""Of a site, what is counted when it is asked for alone."""
STATEMENT_SECONDS = 5
MAX_DOMAINS = 50


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits for a site, not counting what is under way."""

    waiting: int
    at_least: bool
    """There is more than was counted."""
    lanes: int
    """Recipient domain × class × organization."""
    oldest_due: datetime | None
    """The first that was or will be due."""


NOTHING = Depth(0, False, 0, None)


@dataclass(frozen=True, slots=True)
class SiteRow:
    id: int
    key: str
    max_connections: int
    limits: dict[str, int]
    rules: list[dict[str, Any]]
    resting_until: datetime | None
    failures: int
    last_reply: str | None
    replies: list[dict[str, Any]]
    heard_at: datetime | None
    slow_until: datetime | None
    slow_rule: str | None
    granted: int
    """Connections that processes have leased."""
    bears: int
    open: int
    rate: float
    """Mails a second, lately."""
    processes: int


async def bounded(db: Connection) -> None:
    """For this transaction: an operator's question must not hold the database up."""
    await by_index(db)
    await db.execute(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")


async def page(
    db: Connection,
    *,
    limit: int,
    after: int | None = None,
    only: Sequence[int] | None = None,
    domain: str | None = None,
) -> list[SiteRow]:
    """Newest first, up to `limit`: where mail of recipient domains goes, or a way out leads; of `only` these, of that `domain`."""
    rows = await db.fetch(_PAGE, limit, after, None if only is None else list(only), domain)
    return [SiteRow(*row) for row in rows]


async def get(db: Connection, site_id: int) -> SiteRow | None:
    row = await db.fetchrow(_GET, site_id)
    return SiteRow(*row) if row else None


_COLUMNS = """
s.id, s.key, s.max_connections, s.limits, s.rules, CASE WHEN s.suspended_until > now() THEN s.suspended_until END, s.failures,
s.last_reply, s.replies, s.heard_at, CASE WHEN s.slow_until > now() THEN s.slow_until END,
CASE WHEN s.slow_until > now() THEN s.slow_rule END, shared.granted, shared.bears, shared.open, shared.rate, shared.processes
"""
_SHARED = """
CROSS JOIN LATERAL (
  SELECT coalesce(sum(x.connections), 0)::int AS granted, coalesce(sum(x.bears), 0)::int AS bears,
         coalesce(sum(x.open), 0)::int AS open, coalesce(sum(x.rate), 0)::float8 AS rate, count(*)::int AS processes
  FROM site_shares x WHERE x.site_id = s.id
) shared
"""
_PAGE = f"""
SELECT {_COLUMNS} FROM sites s {_SHARED}
WHERE ($2::bigint IS NULL OR s.id < $2) AND ($3::bigint[] IS NULL OR s.id = ANY ($3))
  AND (EXISTS (SELECT FROM recipient_domains r WHERE r.site_id = s.id AND ($4::text IS NULL OR r.domain = $4))
       OR $4 IS NULL AND EXISTS (SELECT FROM ways w WHERE w.site_id = s.id))
ORDER BY s.id DESC LIMIT $1
"""
_GET = f"SELECT {_COLUMNS} FROM sites s {_SHARED} WHERE s.id = $1"


async def domains(db: Connection, site_id: int) -> list[str]:
    """Up to MAX_DOMAINS recipient domains whose mail goes there."""
    rows = await db.fetch(
        "SELECT domain FROM recipient_domains WHERE site_id = $1 ORDER BY domain LIMIT $2", site_id, MAX_DOMAINS
    )
    return [row["domain"] for row in rows]


async def depths(db: Connection) -> dict[int, Depth]:
    """Of every site for which something waits. After `bounded`."""
    rows = await db.fetch(_DEPTHS, LANE_ROWS)
    return {row["site_id"]: Depth(row["waiting"], row["at_least"], row["lanes"], row["oldest_due"]) for row in rows}


_DEPTHS = f"""
{LANES_WITH_ROWS}
SELECT s.id AS site_id, sum(least(lane.found, $1))::bigint AS waiting, bool_or(lane.found > $1) AS at_least, count(*) AS lanes,
       min(step.due_at) AS oldest_due
FROM step
JOIN lanes l ON l.id = step.lane_id
JOIN recipient_domains r ON r.domain = l.domain
{TAKEN}
CROSS JOIN LATERAL (
  SELECT count(*) AS found FROM (
    SELECT FROM queue q WHERE q.lane_id = step.lane_id AND q.worker IS NULL AND q.crashes = 0 LIMIT $1 + 1
  ) counted
) lane
GROUP BY s.id
"""


async def depth(db: Connection, site_id: int) -> Depth:
    """Of one, counted further. After `bounded`."""
    row = await db.fetchrow(_DEPTH, site_id, SITE_ROWS)
    assert row is not None
    found = row["found"]
    return Depth(min(found, SITE_ROWS), found > SITE_ROWS, row["lanes"], row["oldest_due"])


_DEPTH = f"""
{LANES_WITH_ROWS}
, mine AS MATERIALIZED (
  SELECT step.* FROM step JOIN lanes l ON l.id = step.lane_id JOIN recipient_domains r ON r.domain = l.domain
  {TAKEN}
  WHERE s.id = $1
)
SELECT (SELECT count(*) FROM (
          SELECT FROM mine CROSS JOIN LATERAL (
            SELECT FROM queue q WHERE q.lane_id = mine.lane_id AND q.worker IS NULL AND q.crashes = 0 LIMIT $2 + 1
          ) row LIMIT $2 + 1
        ) counted) AS found,
       (SELECT count(*) FROM mine) AS lanes, (SELECT min(due_at) FROM mine) AS oldest_due
"""


async def shape(db: Connection, site_id: int, limits: dict[str, int], rules: list[dict[str, Any]]) -> None:
    """The operator's own."""
    await db.execute("UPDATE sites SET limits = $2, rules = $3 WHERE id = $1", site_id, limits, rules)


async def wake(db: Connection, site_ids: Sequence[int]) -> int:
    """Those that rest rest no more, and a rule slows them no more. Returns how many."""
    woken: int = await db.fetchval(_WAKE, list(site_ids))
    return woken


# one order for all: no deadlock
_WAKE = """
WITH woken AS (
  UPDATE sites s SET suspended_until = NULL, slow_until = NULL
  FROM (
    SELECT id FROM sites WHERE id = ANY ($1::bigint[]) AND (suspended_until > now() OR slow_until > now())
    ORDER BY id FOR NO KEY UPDATE
  ) resting
  WHERE s.id = resting.id RETURNING 1
) SELECT count(*) FROM woken
"""


async def sites_of(db: Connection, lanes: Sequence[int]) -> list[int]:
    rows = await db.fetch(
        f"SELECT DISTINCT s.id FROM lanes l JOIN recipient_domains r ON r.domain = l.domain {TAKEN} WHERE l.id = ANY ($1)",
        list(lanes),
    )
    return [row["id"] for row in rows]


async def resting(db: Connection, site_ids: Sequence[int]) -> int:
    """How many `wake` would wake."""
    count: int = await db.fetchval(
        "SELECT count(*) FROM sites WHERE id = ANY ($1::bigint[]) AND (suspended_until > now() OR slow_until > now())",
        list(site_ids),
    )
    return count


async def organization_exists(db: Connection, org_id: UUID) -> bool:
    return bool(await db.fetchval("SELECT EXISTS (SELECT FROM organizations WHERE id = $1)", org_id))
