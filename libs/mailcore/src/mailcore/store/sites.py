"""Where mail goes: sites, and which of them a recipient domain belongs to. No tenant in these tables."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from mailcore.smtp.reply import Reply
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
    return (await ensure_all(db, [key], max_connections))[key]


async def ensure_all(db: Connection, keys: Collection[str], max_connections: int) -> dict[str, Site]:
    """By key."""
    found = await _by_key(db, keys)
    if missing := sorted({*keys} - found.keys()):
        await db.execute(_ENSURE, missing, max_connections)
        found |= await _by_key(db, missing)
    return found


# in their order: two processes that meet the same new sites wait for each other once, and never in a circle
_ENSURE = """
INSERT INTO sites (key, max_connections) SELECT key, $2 FROM unnest($1::text[]) WITH ORDINALITY AS t (key, n) ORDER BY n
ON CONFLICT (key) DO NOTHING
"""


async def _by_key(db: Connection, keys: Collection[str]) -> dict[str, Site]:
    rows = await db.fetch(
        "SELECT id, key, max_connections, suspended_until, failures FROM sites WHERE key = ANY ($1::text[])", list(keys)
    )
    return {row[1]: Site(*row) for row in rows}


async def get(db: Connection, site_id: int) -> Site | None:
    row = await db.fetchrow(
        "SELECT id, key, max_connections, suspended_until, failures FROM sites WHERE id = $1", site_id
    )
    return Site(*row) if row else None


async def point(db: Connection, places: Mapping[str, int]) -> None:
    """These domains' mail goes to these sites; their queued rows follow, being read by it at the next claim."""
    await db.execute(_POINT, list(places), list(places.values()))


_POINT = """
WITH asked AS (SELECT * FROM unnest($1::text[], $2::bigint[]) AS t (domain, site_id)),
locked AS MATERIALIZED (
  SELECT r.domain, asked.site_id FROM recipient_domains r JOIN asked USING (domain) ORDER BY r.domain FOR NO KEY UPDATE OF r
)
UPDATE recipient_domains r SET site_id = locked.site_id, resolved_at = now() FROM locked WHERE r.domain = locked.domain
"""


async def suspend(
    db: Connection, site_id: int, last_reply: str, *, first: float, longest: float, growth: float = 2.0
) -> float:
    """One more failure in a row: no attempts for `first` seconds, `growth` times as long with each, at most `longest`. Returns the
    seconds."""
    seconds: float = await db.fetchval(_SUSPEND, site_id, storable(last_reply[:MAX_FAILURE]), first, longest, growth)
    return seconds


# several processes may learn of one failure: while the site is suspended it is counted once
_SUSPEND = """
UPDATE sites
SET failures = CASE WHEN suspended_until > now() THEN failures ELSE failures + 1 END,
    suspended_until = CASE WHEN suspended_until > now() THEN suspended_until
                           ELSE now() + make_interval(secs => least($4::float8, $3::float8 * $5::float8 ^ least(failures, 20))) END,
    last_reply = $2
WHERE id = $1
RETURNING extract(epoch FROM suspended_until - now())::float8
"""


async def clear(db: Connection, site_id: int) -> None:
    """It takes mail again."""
    await db.execute("UPDATE sites SET failures = 0, suspended_until = NULL WHERE id = $1", site_id)


# ---- what it said ----------------------------------------------------------------------------------------------------

KEPT_REPLIES = 10
MAX_FAILURE = 500
MAX_TEXT = 300
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Said:
    at: float
    """Seconds since 1970."""
    reply: Reply
    rule: str | None


@dataclass(frozen=True, slots=True)
class Note:
    """Of one site, since the last one."""

    site_id: int
    took: bool
    """It took a mail."""
    said: Sequence[Said]
    """What was no success, in order."""


def storable(text: str) -> str:
    """A peer says what it likes; Postgres text holds no NUL and no lone surrogate."""
    return _UNSTORABLE.sub("\ufffd", text)


async def note(db: Connection, notes: Sequence[Note]) -> None:
    """Keeps the last KEPT_REPLIES of each site; equal ones of one note are one, with their count."""
    await db.execute(
        _NOTE,
        [each.site_id for each in notes],
        [each.took for each in notes],
        [orjson.dumps(_replies(each.said)).decode() for each in notes],
        KEPT_REPLIES,
    )


def _replies(said: Sequence[Said]) -> list[dict[str, Any]]:
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for each in reversed(said):
        reply = each.reply
        text = storable(reply.text[:MAX_TEXT])
        one = found.setdefault(
            (reply.code, reply.enhanced, text, each.rule),
            {
                "at": datetime.fromtimestamp(each.at, UTC).isoformat(timespec="milliseconds"),
                "code": reply.code,
                "enhanced_code": reply.enhanced,
                "text": text,
                "rule": each.rule,
                "count": 0,
            },
        )
        one["count"] += 1
    return list(found.values())


# lists in a list would be read as one array of more dimensions, so that they travel as text
_NOTE = """
UPDATE sites s
SET heard_at = CASE WHEN t.took THEN now() ELSE s.heard_at END,
    replies = CASE WHEN t.said = '[]' THEN s.replies ELSE (
      SELECT jsonb_agg(each.value ORDER BY each.place)
      FROM jsonb_array_elements(t.said || s.replies) WITH ORDINALITY AS each (value, place) WHERE each.place <= $4
    ) END
FROM (
  SELECT id, took, said::jsonb FROM unnest($1::bigint[], $2::boolean[], $3::text[]) AS t (id, took, said)
) t
WHERE s.id = t.id
"""


async def slow(db: Connection, site_id: int, seconds: float, reason: str) -> None:
    """Half of its connections and rate for so long; never shorter than before."""
    await db.execute(
        "UPDATE sites SET slow_until = now() + make_interval(secs => $2), slow_rule = $3 "
        "WHERE id = $1 AND coalesce(slow_until, '-infinity') < now() + make_interval(secs => $2)",
        site_id,
        seconds,
        reason[:500],
    )
