"""Where mail goes: sites, and which of them a recipient domain belongs to. No tenant in these tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class Site:
    id: int
    key: str
    max_connections: int
    suspended_until: datetime | None
    failures: int
    """Connections that failed in a row."""


async def ensure(db: Connection, key: str, max_connections: int) -> Site:
    """The site with that key; a new one gets `max_connections`."""
    await db.execute(
        "INSERT INTO sites (key, max_connections) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING", key, max_connections
    )
    row = await db.fetchrow("SELECT id, key, max_connections, suspended_until, failures FROM sites WHERE key = $1", key)
    assert row is not None
    return Site(*row)


async def get(db: Connection, site_id: int) -> Site | None:
    row = await db.fetchrow(
        "SELECT id, key, max_connections, suspended_until, failures FROM sites WHERE id = $1", site_id
    )
    return Site(*row) if row else None


async def point(db: Connection, domains: Sequence[str], site_id: int) -> None:
    """These domains' mail goes to that site; their queued rows follow, being read by it at the next claim."""
    await db.execute(
        "UPDATE recipient_domains SET site_id = $2, resolved_at = now() WHERE domain = ANY ($1::text[])",
        sorted(domains),
        site_id,
    )


async def suspend(db: Connection, site_id: int, last_reply: str, *, first: float, longest: float) -> float:
    """One more failure in a row: no attempts for `first` seconds, doubling with each, at most `longest`. Returns the seconds."""
    seconds: float = await db.fetchval(_SUSPEND, site_id, last_reply, first, longest)
    return seconds


# several processes may learn of one failure: while the site is suspended it is counted once
_SUSPEND = """
UPDATE sites
SET failures = CASE WHEN suspended_until > now() THEN failures ELSE failures + 1 END,
    suspended_until = CASE WHEN suspended_until > now() THEN suspended_until
                           ELSE now() + make_interval(secs => least($4::float8, $3::float8 * 2 ^ least(failures, 20))) END,
    last_reply = $2
WHERE id = $1
RETURNING extract(epoch FROM suspended_until - now())::float8
"""


async def sharers(db: Connection, service: str) -> int:
    """Processes of a service that share its sites: those that live, and the dead until they are buried."""
    count: int = await db.fetchval("SELECT count(*) FROM workers WHERE service = $1", service)
    return count


async def clear(db: Connection, site_id: int) -> None:
    """It takes mail again."""
    await db.execute("UPDATE sites SET failures = 0, suspended_until = NULL WHERE id = $1", site_id)
