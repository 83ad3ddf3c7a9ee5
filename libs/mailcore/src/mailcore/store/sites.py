"""Where mail goes: sites, and which of them a recipient domain belongs to. No tenant in these tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
