"""Arrivals that are held back: state quarantined. Role app for one organization's, worker for what has waited out its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection

_SELECT = """
SELECT id, door, source, mail_from, rcpt_to, size, summary, decisions, created_at, held_by, held_reason, held_until
FROM arrivals WHERE state = 'quarantined'
"""


@dataclass(frozen=True, slots=True)
class Gone:
    count: int
    blobs: list[str]
    """To be deleted after the commit."""


async def page(db: Connection, asked: Page, *, by: str | None = None) -> Slice:
    """Newest first; `by` narrows it to what one step holds. Role app."""
    if by is None:
        return await fetch(db, _SELECT, [], asked)
    return await fetch(db, f"{_SELECT} AND held_by = $1", [by], asked)


async def find(db: Connection, arrival_id: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(f"{_SELECT} AND id = $1", arrival_id)


async def release(db: Connection, arrival_id: UUID, decision: dict[str, Any]) -> bool:
    """Back into the queue, due at once; also one that waits there for a scanner. False: it is neither."""
    return bool(await db.fetchval(_RELEASE, arrival_id, [decision]))


async def due(db: Connection, now: datetime, limit: int) -> list[UUID]:
    """Whose time is over, the longest first."""
    rows = await db.fetch(
        "SELECT id FROM arrivals WHERE state = 'quarantined' AND held_until <= $1 ORDER BY held_until LIMIT $2",
        now,
        limit,
    )
    return [row["id"] for row in rows]


async def drop(db: Connection, ids: Sequence[UUID], decision: dict[str, Any]) -> Gone:
    """Those of them that are in quarantine: state dropped, without their content."""
    if not ids:
        return Gone(0, [])
    rows = await db.fetch(_DROP, sorted(ids), [decision])
    return Gone(len(rows), [row["raw_blob"] for row in rows if row["raw_blob"] is not None])


# a router locks the row of the queue first, too
_RELEASE = """
WITH waiting AS MATERIALIZED (
  SELECT FROM arrival_queue WHERE arrival_id = $1 FOR UPDATE
), released AS (
  UPDATE arrivals SET state = 'received', released_at = clock_timestamp(), held_by = NULL, held_reason = NULL, held_until = NULL,
         pending = NULL, pending_at = NULL,
         decisions = decisions || $2
  WHERE id = $1 AND (SELECT count(*) FROM waiting) >= 0 AND (state = 'quarantined' OR state = 'received' AND pending IS NOT NULL)
  RETURNING id, org_id
)
INSERT INTO arrival_queue (arrival_id, org_id, due_at) SELECT id, org_id, now() FROM released
ON CONFLICT (arrival_id) DO UPDATE SET due_at = now() RETURNING true
"""

# RETURNING gives what an update has made of a row; the key of the blob is what it was before
_DROP = """
WITH old AS (
  SELECT id, raw_blob FROM arrivals WHERE id = ANY ($1) AND state = 'quarantined' ORDER BY id FOR UPDATE
)
UPDATE arrivals a SET state = 'dropped', raw = NULL, raw_blob = NULL, decisions = a.decisions || $2
FROM old WHERE a.id = old.id RETURNING old.raw_blob
"""
