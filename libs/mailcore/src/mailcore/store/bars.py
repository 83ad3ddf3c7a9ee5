"""Sources that a site, or all sites of a provider, take nothing from for now, and why. No tenant in this table. Role worker.

Processes that send read it with the sources (`sources.read`); a bar that is over counts no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from mailcore.store.session import Connection

MAX_REASON = 500


@dataclass(frozen=True, slots=True)
class Bar:
    source_id: UUID
    place: str
    """A site's key, or a provider's name in the shaping file: all of his sites. Keys have a colon, names have none."""
    until: datetime
    reason: str
    created_at: datetime


async def place(db: Connection, source_id: UUID, place: str, seconds: float, reason: str) -> None:
    """For `seconds` from now. It shortens nothing; a source that is gone since needs none."""
    await db.execute(_PLACE, source_id, place, seconds, reason[:MAX_REASON])


_PLACE = """
INSERT INTO source_bars AS b (source_id, place, until, reason)
SELECT id, $2, now() + make_interval(secs => $3::float8), $4 FROM sources WHERE id = $1
ON CONFLICT (source_id, place) DO UPDATE
  SET until = excluded.until, reason = excluded.reason, created_at = now() WHERE b.until < excluded.until
"""


async def lift(db: Connection, places: Sequence[str]) -> int:
    """All that bars any source from these; returns how many were in force."""
    rows = await db.fetch(
        "DELETE FROM source_bars WHERE place = ANY ($1::text[]) RETURNING until > now() AS in_force", list(places)
    )
    return sum(row["in_force"] for row in rows)


async def in_force(db: Connection, limit: int = 1_000) -> list[Bar]:
    """The latest first."""
    rows = await db.fetch(
        "SELECT source_id, place, until, reason, created_at FROM source_bars WHERE until > now() "
        "ORDER BY created_at DESC, source_id, place LIMIT $1",
        limit,
    )
    return [Bar(*row) for row in rows]


async def forget(db: Connection) -> None:
    """Those that are over."""
    await db.execute("DELETE FROM source_bars WHERE until <= now()")
