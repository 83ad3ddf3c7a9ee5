"""Routes of received mail, an ordered table an organization. Written with the role app, read by routing with the role worker.

A relay names one of the organization's ways; lanes name it by a row of routes_out under RELAY_TAG, which stands there for it alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.kit.ids import uuid7
from mailcore.store.session import Connection

RELAY_TAG = "postroom:relay"

_COLUMNS = "id, position, name, enabled, match, except_, actions, stop, created_at, updated_at"


async def lock(db: Connection) -> None:
    """One at a time changes the order of an organization's table."""
    await db.execute("SELECT pg_advisory_xact_lock(hashtext('postroom.routes'), hashtext(current_org()::text))")


async def all_(db: Connection) -> list[asyncpg.Record]:
    """In order."""
    rows: list[asyncpg.Record] = await db.fetch(f"SELECT {_COLUMNS} FROM routes ORDER BY position")
    return rows


async def find(db: Connection, id_: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(f"SELECT {_COLUMNS} FROM routes WHERE id = $1", id_)


async def add(
    db: Connection,
    *,
    id_: UUID,
    org_id: UUID,
    position: int,
    name: str,
    enabled: bool,
    match: dict[str, Any],
    except_: dict[str, Any] | None,
    actions: list[dict[str, Any]],
    stop: bool,
) -> None:
    """`position` from 1; those at and behind it move on. After `lock`."""
    await db.execute("UPDATE routes SET position = position + 1 WHERE position >= $1", position)
    await db.execute(
        "INSERT INTO routes (id, org_id, position, name, enabled, match, except_, actions, stop) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        *(id_, org_id, position, name, enabled, match, except_, actions, stop),
    )


async def change(
    db: Connection,
    id_: UUID,
    *,
    name: str,
    enabled: bool,
    match: dict[str, Any],
    except_: dict[str, Any] | None,
    actions: list[dict[str, Any]],
    stop: bool,
) -> None:
    await db.execute(
        "UPDATE routes SET name = $2, enabled = $3, match = $4, except_ = $5, actions = $6, stop = $7, "
        "updated_at = clock_timestamp() WHERE id = $1",
        *(id_, name, enabled, match, except_, actions, stop),
    )


async def remove(db: Connection, id_: UUID) -> bool:
    """After `lock`."""
    position = await db.fetchval("DELETE FROM routes WHERE id = $1 RETURNING position", id_)
    if position is None:
        return False
    await db.execute("UPDATE routes SET position = position - 1 WHERE position > $1", position)
    return True


async def reorder(db: Connection, ids: Sequence[UUID]) -> None:
    """All of them, in their new order. After `lock`."""
    await db.execute(
        "UPDATE routes r SET position = t.place FROM unnest($1::uuid[]) WITH ORDINALITY AS t (id, place) "
        "WHERE r.id = t.id AND r.position <> t.place",
        list(ids),
    )


async def ensure_lanes(db: Connection, org_id: UUID, ways: Collection[UUID]) -> None:
    """So that lanes can name these ways."""
    for way_id in sorted(ways):
        await db.execute(
            "INSERT INTO routes_out (id, org_id, tag_name, tag_value, ways) VALUES ($1, $2, $3, $4, $5) "
            "ON CONFLICT (org_id, for_org, domain_id, tag_name, tag_value) DO NOTHING",
            *(uuid7(), org_id, RELAY_TAG, str(way_id), [way_id]),
        )


async def domain_id(db: Connection, name: str) -> UUID | None:
    """The organization's own domain of that name, verified or not."""
    return await db.fetchval("SELECT id FROM domains WHERE name = $1", name)  # type: ignore[no-any-return]


# ---- for routing: role worker ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TableRows:
    routes: list[dict[str, Any]]
    """Those that are switched on, in order."""
    lane_routes: dict[UUID, int]
    endpoints: frozenset[UUID]
    senders: tuple[str, ...]
    blocked: dict[str, frozenset[str]]
    """Blocked sender → mailboxes that want nothing of him; an empty one: all."""


async def load(db: Connection, org_ids: Collection[UUID]) -> dict[UUID, TableRows]:
    """One statement for all of them. Organizations without routes have an empty table."""
    rows = await db.fetch(_LOAD, list(org_ids))
    return {
        row["org_id"]: TableRows(
            row["routes"] or [],
            {UUID(way): lane_route for way, lane_route in (row["lane_routes"] or {}).items()},
            frozenset(row["endpoints"] or ()),
            tuple(row["senders"] or ()),
            {sender: frozenset(boxes) for sender, boxes in (row["blocked"] or {}).items()},
        )
        for row in rows
    }


_LOAD = f"""
SELECT o.org_id, t.routes,
  CASE WHEN t.routes IS NOT NULL THEN
    (SELECT jsonb_object_agg(r.tag_value, r.lane_route) FROM routes_out r
     JOIN ways w ON w.id = r.ways[1] WHERE r.org_id = o.org_id AND r.tag_name = '{RELAY_TAG}') END AS lane_routes,
  CASE WHEN t.routes IS NOT NULL THEN
    ARRAY(SELECT w.id FROM webhooks w WHERE w.org_id = o.org_id AND w.status = 'enabled') END AS endpoints,
  CASE WHEN t.routes IS NOT NULL THEN
    ARRAY(SELECT d.name FROM domains d WHERE d.org_id = o.org_id AND d.sending
          AND (d.status = 'verified' OR d.status IN ('partially_verified', 'partially_failed') AND d.lacking = 'receiving')
          ORDER BY d.id LIMIT 100) END AS senders,
  (SELECT jsonb_object_agg(b.sender, b.boxes) FROM (
     SELECT b.sender, jsonb_agg(coalesce(m.address, '')) AS boxes
     FROM blocked_senders b LEFT JOIN mailboxes m ON m.id = b.mailbox_id WHERE b.org_id = o.org_id GROUP BY b.sender) b) AS blocked
FROM unnest($1::uuid[]) AS o (org_id)
CROSS JOIN LATERAL (
  SELECT jsonb_agg(jsonb_build_object('id', r.id, 'name', r.name, 'updated_at', r.updated_at, 'match', r.match,
                                      'except_', r.except_, 'actions', r.actions, 'stop', r.stop) ORDER BY r.position) AS routes
  FROM routes r WHERE r.org_id = o.org_id AND r.enabled
) t
"""
