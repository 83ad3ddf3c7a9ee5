"""Ways out and the routes that name them in order. Role app for an organization's own, worker for the installation's.

A way's health is its site's: `suspended_until`, `failures`, `last_reply`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection

DEFAULT = UUID(int=0)
"""In a route's list: the way that mail takes where no route is (OUTBOUND__ROUTE)."""


@dataclass(frozen=True, slots=True)
class WayRow:
    id: UUID
    org_id: UUID | None
    """None: the installation's."""
    name: str
    kind: str
    settings: dict[str, Any]
    secrets_sealed: bytes
    reports: bool
    """Its provider posts events to us."""
    enabled: bool
    site_id: int
    updated_at: datetime
    site_key: str
    max_connections: int
    failures: int
    suspended_until: datetime | None


async def by_id(db: Connection, way_id: UUID) -> WayRow | None:
    """Role worker, or app for an own one."""
    row = await db.fetchrow(f"{_SELECT} WHERE w.id = $1", way_id)
    return WayRow(*row) if row else None


_SELECT = """
SELECT w.id, w.org_id, w.name, w.kind, w.settings, w.secrets_sealed, w.reports, w.enabled, w.site_id, w.updated_at, s.key,
       s.max_connections, s.failures, s.suspended_until
FROM ways w JOIN sites s ON s.id = w.site_id
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """Of a lane with a route: the way that its mail takes by now."""

    way_id: UUID | None
    """None: the installation's own route."""
    place: int
    """In the route's list, from 1."""
    ways: int
    """How many that has."""
    site: str
    """Key of the site."""
    others_free: bool
    """Another one would take its mail if this one fell."""
    resting: list[str] | None
    """Key and last reply of those that take none now."""

    @property
    def words(self) -> str:
        rest = f"; resting: {', '.join(self.resting)}" if self.resting else ""
        return f"way {self.place} of {self.ways}: {self.site}{rest}"[:480]


# Of lane `l` and its recipient domain `r`: `taken` is the way of its route that takes its mail now, and `s` the site. The first
# that does not rest and is not held; of several that do, the first; `off` where all of them are switched off. Without a route, or
# when it is gone, `taken` is NULL and `s` the domain's own site. The condition on route_id is tested before anything is read: for a
# lane without a route that costs some 3 µs. A route_id below zero is the same route for mail with REQUIRETLS: a provider's API
# cannot promise that (RFC 8689 §4.2.1), so any other way goes first, also one that rests.
TAKEN = """LEFT JOIN LATERAL (
  SELECT c.way_id, c.site_id, c.place, c.ways, c.key, c.off,
         count(*) FILTER (WHERE c.free AND NOT c.lax) OVER () > (c.free AND NOT c.lax)::integer AS others_free,
         array_agg(c.key || coalesce(' (' || left(c.last_reply, 100) || ')', '')) FILTER (WHERE NOT c.free) OVER () AS resting
  FROM (
    SELECT w.id AS way_id, t.id AS site_id, u.place, cardinality(o.ways) AS ways, t.key, t.last_reply, NOT w.enabled AS off,
           coalesce(w.enabled, true) AND (t.suspended_until IS NULL OR t.suspended_until <= now())
             AND NOT EXISTS (SELECT FROM holds h WHERE h.site_id = t.id AND (h.org_id = l.org_id OR h.org_id IS NULL)
                               AND (h.until IS NULL OR h.until > now())) AS free,
           l.route_id < 0 AND coalesce(w.kind, 'smarthost') NOT IN ('smarthost', 'lmtp') AS lax
    FROM routes_out o
    CROSS JOIN LATERAL unnest(o.ways) WITH ORDINALITY AS u (id, place)
    LEFT JOIN ways w ON w.id = u.id
    JOIN sites t ON t.id = coalesce(w.site_id, r.site_id)
    WHERE l.route_id <> 0 AND o.lane_route = abs(l.route_id)
      AND (w.id IS NOT NULL OR u.id = '00000000-0000-0000-0000-000000000000')
  ) c
  ORDER BY c.lax, NOT c.free, c.off IS TRUE, c.place LIMIT 1
) taken ON true
JOIN sites s ON s.id = coalesce(taken.site_id, r.site_id)"""
OWN_KINDS = ("smarthost", "lmtp")
"""Ways that speak SMTP or LMTP to a host; all others are a provider's API."""
TAKEN_COLUMNS = "taken.way_id, taken.place, taken.ways, taken.key, taken.others_free, taken.resting"


def taken(row: Sequence[Any]) -> Taken | None:
    """From TAKEN_COLUMNS."""
    return None if row[1] is None else Taken(*row)


# ---- for the api -----------------------------------------------------------------------------------------------------

_SHOWN = """
SELECT w.id, w.name, w.kind, w.settings, w.reports, w.enabled, w.created_at, s.key AS site, s.max_connections, s.failures,
       s.suspended_until, s.last_reply
FROM ways w JOIN sites s ON s.id = w.site_id
WHERE w.org_id IS NOT DISTINCT FROM $1
"""


async def page(db: Connection, org_id: UUID | None, asked: Page) -> Slice:
    return await fetch(db, _SHOWN, [org_id], asked, column="w.id")


async def shown(db: Connection, org_id: UUID | None, way_id: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(f"{_SHOWN} AND w.id = $2", org_id, way_id)


async def add(
    db: Connection,
    *,
    way_id: UUID,
    org_id: UUID | None,
    name: str,
    kind: str,
    settings: dict[str, Any],
    secrets_sealed: bytes,
    reports: bool,
    site_id: int,
) -> None:
    await db.execute(
        "INSERT INTO ways (id, org_id, name, kind, settings, secrets_sealed, reports, site_id) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        *(way_id, org_id, name, kind, settings, secrets_sealed, reports, site_id),
    )


async def change(
    db: Connection,
    org_id: UUID | None,
    way_id: UUID,
    *,
    name: str,
    settings: dict[str, Any],
    secrets_sealed: bytes,
    reports: bool,
    enabled: bool,
) -> None:
    await db.execute(
        "UPDATE ways SET name = $3, settings = $4, secrets_sealed = $5, reports = $6, enabled = $7, "
        "updated_at = clock_timestamp() WHERE org_id IS NOT DISTINCT FROM $1 AND id = $2",
        *(org_id, way_id, name, settings, secrets_sealed, reports, enabled),
    )


async def locked(db: Connection, org_id: UUID | None, way_id: UUID) -> WayRow | None:
    """For a change in the same transaction."""
    row = await db.fetchrow(
        f"{_SELECT} WHERE w.org_id IS NOT DISTINCT FROM $1 AND w.id = $2 FOR UPDATE OF w", org_id, way_id
    )
    return WayRow(*row) if row else None


async def remove(db: Connection, way_id: UUID) -> None:
    """Its site stays: attempts name it. What it was to relay and has not goes the default way: it comes back, and is kept."""
    await db.execute("DELETE FROM routes_out WHERE tag_name = 'postroom:relay' AND ways = ARRAY[$1::uuid]", way_id)
    await db.execute("DELETE FROM ways WHERE id = $1", way_id)


async def count(db: Connection, org_id: UUID | None) -> int:
    found: int = await db.fetchval("SELECT count(*) FROM ways WHERE org_id IS NOT DISTINCT FROM $1", org_id)
    return found


async def known(db: Connection, org_id: UUID | None, ids: Collection[UUID]) -> set[UUID]:
    """Those of the ids that are ways of the organization (None: of the installation), held until the transaction ends."""
    rows = await db.fetch(
        "SELECT id FROM ways WHERE org_id IS NOT DISTINCT FROM $1 AND id = ANY ($2::uuid[]) ORDER BY id FOR SHARE",
        org_id,
        list(ids),
    )
    return {row["id"] for row in rows}


# ---- routes ----------------------------------------------------------------------------------------------------------

_ROUTES = """
SELECT id, for_org, domain_id, tag_name, tag_value, ways, created_at FROM routes_out WHERE org_id IS NOT DISTINCT FROM $1
"""


async def routes_page(db: Connection, org_id: UUID | None, asked: Page) -> Slice:
    return await fetch(db, f"{_ROUTES} AND tag_name IS DISTINCT FROM 'postroom:relay'", [org_id], asked)


async def route(db: Connection, org_id: UUID | None, route_id: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(f"{_ROUTES} AND id = $2", org_id, route_id)


async def add_route(
    db: Connection,
    *,
    route_id: UUID,
    org_id: UUID | None,
    for_org: UUID | None,
    domain_id: UUID | None,
    tag_name: str | None,
    tag_value: str | None,
    ways: Sequence[UUID],
) -> bool:
    """False: there is one for this mail already."""
    return bool(
        await db.fetchval(
            "INSERT INTO routes_out (id, org_id, for_org, domain_id, tag_name, tag_value, ways) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (org_id, for_org, domain_id, tag_name, tag_value) DO NOTHING "
            "RETURNING true",
            *(route_id, org_id, for_org, domain_id, tag_name, tag_value, list(ways)),
        )
    )


async def change_route(db: Connection, org_id: UUID | None, route_id: UUID, ways: Sequence[UUID]) -> bool:
    """Mail that waits in its lanes takes the new list too."""
    return bool(
        await db.fetchval(
            "UPDATE routes_out SET ways = $3 WHERE org_id IS NOT DISTINCT FROM $1 AND id = $2 RETURNING true",
            *(org_id, route_id, list(ways)),
        )
    )


async def remove_route(db: Connection, org_id: UUID | None, route_id: UUID) -> bool:
    """What waits in its lanes goes the default way."""
    return bool(
        await db.fetchval(
            "DELETE FROM routes_out WHERE org_id IS NOT DISTINCT FROM $1 AND id = $2 RETURNING true", org_id, route_id
        )
    )


async def count_routes(db: Connection, org_id: UUID | None) -> int:
    found: int = await db.fetchval("SELECT count(*) FROM routes_out WHERE org_id IS NOT DISTINCT FROM $1", org_id)
    return found


async def routes_naming(db: Connection, way_id: UUID) -> int:
    """Of mail that leaves and of received mail; what stands in routes_out for a relay is nobody's own (store.routes)."""
    found: int = await db.fetchval(
        "SELECT (SELECT count(*) FROM routes_out WHERE $1 = ANY (ways) AND tag_name IS DISTINCT FROM 'postroom:relay') "
        "+ (SELECT count(*) FROM routes WHERE actions @> $2)",
        way_id,
        [{"type": "relay", "way_id": str(way_id)}],
    )
    return found


@dataclass(frozen=True, slots=True)
class Rule:
    lane_route: int
    own: bool
    """The organization's; else the installation's."""
    for_org: UUID | None
    domain_id: UUID | None
    tag_name: str | None
    tag_value: str | None


FIND_RULES = "SELECT lane_route, own, for_org, domain_id, tag_name, tag_value FROM lookup_routes_out($1)"
