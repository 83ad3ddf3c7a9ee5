"""What the health checks of sending found last (flow.health). No tenant in it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from mailcore.smtp.reply import Reply
from mailcore.store.session import Connection
from mailcore.store.sources import HOST_SECONDS


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


async def replace(db: Connection, found: Sequence[Finding], at: datetime, later: Collection[str] = ()) -> None:
    """All but those whose subject is, or begins with, one of `later`. Role worker."""
    await db.execute("SELECT pg_advisory_xact_lock(hashtext('postroom.health'))")
    kept = await db.fetch(_REPLACED, list(later))
    rows = [(each.check, each.subject, each.status, each.text, each.advice, at) for each in found]
    there = {row[:2] for row in rows}
    rows += [tuple(row) for row in kept if (row["check"], row["subject"]) not in there]
    await db.executemany(
        'INSERT INTO health_findings (place, "check", subject, status, text, advice, at) VALUES ($1, $2, $3, $4, $5, $6, $7)',
        [(n, *row) for n, row in enumerate(rows)],
    )


_REPLACED = """
WITH gone AS (DELETE FROM health_findings RETURNING *)
SELECT "check", subject, status, text, advice, at FROM gone WHERE split_part(subject, ' ', 1) = ANY ($1::text[]) ORDER BY place
"""


async def age(db: Connection) -> float | None:
    """Seconds since the last look; None: there was none."""
    seconds: float | None = await db.fetchval("SELECT extract(epoch FROM now() - max(at))::float8 FROM health_findings")
    return seconds


async def sources(db: Connection, most: int) -> list[dict[str, Any]]:
    """Addresses of the pools that mail leaves from, as the world sees them; fields of flow.addresses.Source. Role worker."""
    rows = await db.fetch(_SOURCES, HOST_SECONDS, most)
    return [dict(row) for row in rows]


_SOURCES = """
SELECT host(a.ip) AS ip, s.ehlo_name AS ehlo, p.name AS pool, host(coalesce(a.local, a.ip)) AS bound, h.usable,
       coalesce(h.error, '') AS error
FROM sources s JOIN pools p ON p.id = s.pool_id
CROSS JOIN LATERAL (VALUES (s.ipv4, s.local_ipv4), (s.ipv6, s.local_ipv6)) AS a (ip, local)
LEFT JOIN LATERAL (
  SELECT bool_or(h.usable) AS usable, min(h.error) AS error FROM source_hosts h
  WHERE h.source_id = s.id AND h.seen_at > now() - make_interval(secs => $1::float8)
) h ON true
WHERE s.paused_at IS NULL AND a.ip IS NOT NULL ORDER BY s.id, family(a.ip) LIMIT $2
"""


async def carried(db: Connection) -> dict[tuple[str, int], str]:
    """Sending domain, empty for every one, and class → the name of the pool that carries such mail: of those with a source."""
    rows = await db.fetch(
        "SELECT s.domain, s.class, p.name FROM pool_serves s JOIN pools p ON p.id = s.pool_id "
        "WHERE EXISTS (SELECT FROM sources o WHERE o.pool_id = p.id)"
    )
    return {(row["domain"], row["class"]): row["name"] for row in rows}


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
