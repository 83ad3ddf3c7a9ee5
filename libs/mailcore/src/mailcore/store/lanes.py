"""Lanes: recipient domain × class × organization × route, made when the first mail needs one (DESIGN §3)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias
from uuid import UUID

from mailcore.store.session import Connection

LaneKey: TypeAlias = tuple[UUID, str, int, int]
"""Organization, recipient domain, class (0 transactional, 1 broadcast), route (0 none; `routes_out.lane_route`, below zero for mail
with REQUIRETLS)."""
# `step`: of each lane with rows that are free and no suspects its id and when the first is due. queue_due holds only such rows, by
# (lane_id, due_at): each step lands on the next lane's first row (loose index scan). For statements `by_index`
LANES_WITH_ROWS = """
WITH RECURSIVE step AS (
  (SELECT lane_id, due_at FROM queue WHERE worker IS NULL AND crashes = 0 ORDER BY lane_id, due_at LIMIT 1)
  UNION ALL
  SELECT following.lane_id, following.due_at
  FROM step CROSS JOIN LATERAL (
    SELECT q.lane_id, q.due_at FROM queue q
    WHERE q.lane_id > step.lane_id AND q.worker IS NULL AND q.crashes = 0
    ORDER BY q.lane_id, q.due_at LIMIT 1
  ) following
)"""


async def ensure(db: Connection, keys: Collection[LaneKey]) -> dict[LaneKey, int]:
    """The lane of each key, made where it is missing; role door or worker.

    A new domain gets a site of its own (`domain:<name>`) until its MX is known. In a transaction of its own: lanes are never
    taken back, so their ids may be remembered once it is committed.
    """
    wanted = sorted(keys, key=lambda key: (key[1], key[0].int, *key[2:]))  # one order for all: no deadlock
    lanes = await _find(db, wanted)
    missing = [key for key in wanted if key not in lanes]
    if missing:
        domains = sorted({key[1] for key in missing})
        await db.execute(_INSERT_SITES, domains)
        await db.execute(_INSERT_DOMAINS, domains)
        await db.execute(_INSERT_LANES, *_columns(missing))
        lanes |= await _find(db, missing)
    return lanes


async def _find(db: Connection, keys: list[LaneKey]) -> dict[LaneKey, int]:
    rows = await db.fetch(_FIND, *_columns(keys))
    return {(row["org_id"], row["domain"], row["class"], row["route_id"]): row["id"] for row in rows}


def _columns(keys: list[LaneKey]) -> tuple[list[UUID], list[str], list[int], list[int]]:
    return [key[0] for key in keys], [key[1] for key in keys], [key[2] for key in keys], [key[3] for key in keys]


_FIND = """
SELECT l.org_id, l.domain, l.class, l.route_id, l.id
FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::bigint[]) AS k (org_id, domain, class, route_id)
JOIN lanes l ON l.org_id = k.org_id AND l.domain = k.domain AND l.class = k.class AND l.route_id = k.route_id
"""
_INSERT_SITES = """
INSERT INTO sites (key)
SELECT 'domain:' || d FROM unnest($1::text[]) AS d
WHERE NOT EXISTS (SELECT FROM recipient_domains r WHERE r.domain = d)
ON CONFLICT (key) DO NOTHING
"""
_INSERT_DOMAINS = """
INSERT INTO recipient_domains (domain, site_id)
SELECT d, s.id FROM unnest($1::text[]) AS d JOIN sites s ON s.key = 'domain:' || d
ON CONFLICT (domain) DO NOTHING
"""
_INSERT_LANES = """
INSERT INTO lanes (org_id, domain, class, route_id)
SELECT org_id, domain, class, route_id
FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::bigint[]) AS k (org_id, domain, class, route_id)
ON CONFLICT (org_id, domain, class, route_id) DO NOTHING
"""
