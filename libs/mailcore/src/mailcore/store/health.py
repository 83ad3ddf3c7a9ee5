"""What the health checks of sending found last (flow.health). No tenant in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from mailcore.smtp.reply import Reply
from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    subject: str
    """The address, domain or list it is about; empty: the installation."""
    status: str
    """ok, wrong, unknown."""
    text: str
    advice: str = ""
    """One line; empty where nothing is to be done."""


async def findings(db: Connection) -> list[asyncpg.Record]:
    """In the order in which they should be mended; role app or worker."""
    return await db.fetch(  # type: ignore[no-any-return]
        'SELECT "check", subject, status, text, advice, at FROM health_findings ORDER BY place'
    )


async def replace(db: Connection, found: Sequence[Finding], at: datetime) -> None:
    """Role worker."""
    await db.execute("SELECT pg_advisory_xact_lock(hashtext('postroom.health'))")
    await db.execute("DELETE FROM health_findings")
    await db.executemany(
        'INSERT INTO health_findings (place, "check", subject, status, text, advice, at) VALUES ($1, $2, $3, $4, $5, $6, $7)',
        [(n, each.check, each.subject, each.status, each.text, each.advice, at) for n, each in enumerate(found)],
    )


async def age(db: Connection) -> float | None:
    """Seconds since the last look; None: there was none."""
    seconds: float | None = await db.fetchval("SELECT extract(epoch FROM now() - max(at))::float8 FROM health_findings")
    return seconds


async def sources(db: Connection) -> list[tuple[str, str]]:
    """Addresses that mail leaves from, as the world sees them, each with its EHLO name; empty where the operator named none. Role
    worker."""
    rows = await db.fetch(
        "SELECT host(a.ip), s.ehlo_name FROM sources s CROSS JOIN LATERAL unnest(ARRAY[s.ipv4, s.ipv6]) AS a (ip) "
        "WHERE s.paused_at IS NULL AND a.ip IS NOT NULL ORDER BY s.id, family(a.ip)"
    )
    return [(row[0], row[1]) for row in rows]


async def replies(db: Connection, hours: int) -> dict[str, list[Reply]]:
    """What sites said in the last hours and was no 250, the newest first, by their keys. Role worker."""
    rows = await db.fetch(_REPLIES, hours)
    found: dict[str, list[Reply]] = {}
    for row in rows:
        found.setdefault(row["key"], []).append(Reply(row["code"] or 0, row["text"] or "", row["enhanced"]))
    return found


_REPLIES = """
SELECT s.key, (r.value->>'code')::integer AS code, r.value->>'enhanced_code' AS enhanced, r.value->>'text' AS text
FROM sites s CROSS JOIN LATERAL jsonb_array_elements(s.replies) WITH ORDINALITY AS r (value, place)
WHERE s.replies <> '[]' AND (r.value->>'at')::timestamptz > now() - make_interval(hours => $1)
ORDER BY s.id, r.place LIMIT 10000
"""
