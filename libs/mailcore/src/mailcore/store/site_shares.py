"""Who of the processes uses how much of a site's connections: the sum of what they were granted never exceeds its limit.

A share belongs to a worker and ends with it: `workers.leave` and `workers.bury` take it along. Growing is counted under the lock of
the site's row; what a process gives back it has closed before. In one transaction: `lock`, then `share`, for the counting must see
what was committed while the lock was waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class Standing:
    """A site as those find it who share it."""

    site_id: int
    key: str
    max_connections: int
    """What the settings said when it became known."""
    limits: dict[str, int]
    rules: list[dict[str, Any]]
    closed: bool
    """It rests, or it is held, or everything is."""
    held: frozenset[UUID]
    """Organizations whose mail to it is held."""
    slow_seconds: float
    """How long a rule slows it down from now on; 0 when none does."""
    failing: bool
    """It took no mail when it was last asked, and has not taken one since."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a process asks of a site."""

    site_id: int
    most: int
    """The site's limit."""
    holds: int
    """Connections that it has open, or may open before it hears the answer: it is granted these at least, if it had them."""
    bears: int
    open: int
    rate: float


@dataclass(frozen=True, slots=True)
class Grant:
    site_id: int
    connections: int
    """No more than these, in sum over all processes no more than the limit."""
    target: int
    """What is ours once the others and we have settled; below `connections`: close some."""


async def lock(db: Connection, sites: Sequence[int]) -> list[Standing]:
    """Until the transaction ends no other process's share of these grows."""
    rows = await db.fetch(_LOCK, sorted(sites))
    return [
        Standing(
            site_id=row["id"],
            key=row["key"],
            max_connections=row["max_connections"],
            limits=row["limits"],
            rules=row["rules"],
            closed=row["closed"],
            held=frozenset(row["held"]),
            slow_seconds=row["slow_seconds"],
            failing=row["failing"],
        )
        for row in rows
    ]


_LOCK = """
SELECT s.id, s.key, s.max_connections, s.limits, s.rules,
       coalesce(s.suspended_until > now(), false)
         OR EXISTS (SELECT FROM holds h WHERE h.org_id IS NULL AND (h.site_id IS NULL OR h.site_id = s.id)
                    AND (h.until IS NULL OR h.until > now())) AS closed,
       ARRAY(SELECT h.org_id FROM holds h WHERE h.org_id IS NOT NULL AND (h.site_id IS NULL OR h.site_id = s.id)
             AND (h.until IS NULL OR h.until > now())) AS held,
       greatest(0, coalesce(extract(epoch FROM s.slow_until - now()), 0))::float8 AS slow_seconds,
       s.failures > 0 AS failing
FROM sites s WHERE s.id = ANY ($1::bigint[]) ORDER BY s.id FOR NO KEY UPDATE
"""


async def share(db: Connection, worker: int, service: str, asks: Sequence[Ask]) -> list[Grant]:
    """After `lock` of these sites, in its transaction. Equal parts for those that use a site; who is alone on it leaves one
    connection to each other living process of the service, which may begin with that at once."""
    rows = await db.fetch(
        _SHARE,
        worker,
        service,
        [ask.site_id for ask in asks],
        [ask.most for ask in asks],
        [ask.holds for ask in asks],
        [ask.bears for ask in asks],
        [ask.open for ask in asks],
        [ask.rate for ask in asks],
    )
    return [Grant(*row) for row in rows]


# fair: the limit divided, its remainder to those that came first. had: no more is kept than was granted.
_SHARE = """
WITH ask AS MATERIALIZED (
  SELECT * FROM unnest($3::bigint[], $4::int[], $5::int[], $6::int[], $7::int[], $8::real[])
    AS t (site_id, most, holds, bears, open, rate)
), there AS MATERIALIZED (
  SELECT ask.*, others.taken, others.sharers, mine.connections AS had,
         CASE WHEN others.sharers > 0 THEN most / (others.sharers + 1) + (most % (others.sharers + 1) > others.before)::int
              ELSE greatest(1, most - greatest(0, (SELECT count(*) FROM workers WHERE service = $2) - 1)) END::int AS fair
  FROM ask
  CROSS JOIN LATERAL (
    SELECT coalesce(sum(s.connections), 0)::int AS taken, count(*)::int AS sharers,
           count(*) FILTER (WHERE s.worker < $1)::int AS before
    FROM site_shares s WHERE s.site_id = ask.site_id AND s.worker <> $1
  ) others
  LEFT JOIN LATERAL (
    SELECT s.connections FROM site_shares s WHERE s.site_id = ask.site_id AND s.worker = $1
  ) mine ON true
), stored AS (
  INSERT INTO site_shares (site_id, worker, connections, bears, open, rate)
  SELECT site_id, $1, greatest(least(holds, coalesce(had, 0)), least(fair, greatest(0, most - taken))), bears, open, rate
  FROM there
  ON CONFLICT (site_id, worker) DO UPDATE
    SET connections = excluded.connections, bears = excluded.bears, open = excluded.open, rate = excluded.rate,
        renewed_at = clock_timestamp()
  RETURNING site_id, connections
)
SELECT stored.site_id, stored.connections, least(stored.connections, there.fair)
FROM stored JOIN there USING (site_id)
"""


async def give_back(db: Connection, worker: int, sites: Sequence[int]) -> None:
    """This worker uses them no more, and has nothing open there."""
    await db.execute("DELETE FROM site_shares WHERE worker = $1 AND site_id = ANY ($2::bigint[])", worker, list(sites))
