"""What is known of a domain's and of a key's reputation: rates, alarms, pauses. Role worker, but for what says app."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection

SAMPLE = 50
"""Emails of a key and a quarter of an hour that are remembered by their ids."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Recipients of a domain's mail since `since`, by what became of it."""

    org_id: UUID
    domain_id: UUID
    name: str
    since: datetime
    delivered: int = 0
    bounced: int = 0
    """For good."""
    complained: int = 0

    @property
    def bounce_rate(self) -> float:
        """The share of what came to an end; 0 of nothing."""
        ended = self.delivered + self.bounced
        return self.bounced / ended if ended else 0.0

    @property
    def complaint_rate(self) -> float:
        """The share of what was delivered. Complaints come later than deliveries, so that it may be 1 at most."""
        return min(1.0, self.complained / self.delivered) if self.delivered else float(self.complained > 0)


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What a key sent in the last hour, and what it is used to."""

    org_id: UUID
    key_id: UUID
    name: str
    since: datetime
    sent: int
    """Recipients."""
    busiest: int
    """Recipients of its busiest hour in the 30 days before."""
    sampled: int = 0
    """Of the emails looked at, recipients that came to an end …"""
    bounced: int = 0
    """… and of these the ones that bounced for good."""


@dataclass(frozen=True, slots=True)
class Open:
    """An alarm that has not ended."""

    id: UUID
    org_id: UUID
    subject_id: UUID
    """The domain, or the key."""
    kind: str
    action: str


@dataclass(frozen=True, slots=True)
class NewAlarm:
    id: UUID
    org_id: UUID
    domain_id: UUID | None
    domain: str | None
    """Its name."""
    key_id: UUID | None
    kind: str
    action: str
    text: str
    facts: dict[str, Any]


async def alone(db: Connection) -> bool:
    """Nobody else guards until the transaction ends; False: somebody does."""
    return bool(await db.fetchval("SELECT pg_try_advisory_xact_lock(hashtext('postroom.guard'))"))


# ---- rates -----------------------------------------------------------------------------------------------------------


_KINDS = (
    "('delivered', 'test_delivered', 'bounced_permanent', 'test_bounced_permanent', 'complained', 'test_complained')"
)
# what test addresses did is counted with the rest, and once more by itself
_REAL = ", ".join(
    f"coalesce(sum(CASE c.kind WHEN '{kind}' THEN c.n WHEN 'test_{kind}' THEN -c.n END), 0)::bigint AS {name}"
    for kind, name in (("delivered", "delivered"), ("bounced_permanent", "bounced"), ("complained", "complained"))
)


async def suspicious(db: Connection, hours: int) -> list[Rates]:
    """Domains with a bounce or a complaint in so many hours, and those with an open alarm. Where a person has ended an alarm of
    a domain, its counts begin there."""
    return [Rates(*row) for row in await db.fetch(_SUSPICIOUS, hours)]


async def rates(db: Connection, domain_id: UUID, hours: int) -> Rates | None:
    """Of one domain, as `suspicious` counts; role app."""
    row = await db.fetchrow(_RATES, hours, domain_id)
    return None if row is None else Rates(*row)


# a day of the organizations in question is read once, however many domains they have
_COUNTED = """
WITH window_ AS (SELECT now() - make_interval(hours => $1) AS at), asked AS MATERIALIZED ({asked}), since AS MATERIALIZED (
  SELECT w.org_id, w.id, w.name, greatest(window_.at, (
           SELECT max(a.ended_at) FROM alarms a WHERE a.org_id = w.org_id AND a.domain = w.name
             AND a.kind <> 'bulk' AND a.ended_by = 'person')) AS at
  FROM asked w, window_
), counts AS MATERIALIZED (
  SELECT c.* FROM (SELECT DISTINCT org_id FROM since) o CROSS JOIN LATERAL (
    SELECT e.domain_id, e.at, e.kind, e.n FROM event_counts e
    WHERE e.org_id = o.org_id AND e.at >= (SELECT at FROM window_) AND e.kind IN {kinds} OFFSET 0) c
)
SELECT s.org_id, s.id, s.name, s.at,
       {real}
FROM since s LEFT JOIN counts c ON c.domain_id = s.id AND c.at >= s.at
GROUP BY s.org_id, s.id, s.name, s.at
"""
_SUSPICIOUS = _COUNTED.format(
    real=_REAL,
    kinds=_KINDS,
    asked="SELECT d.org_id, d.id, d.name FROM window_ JOIN event_counts c ON c.at >= window_.at "
    "AND c.kind IN ('bounced_permanent', 'complained') JOIN domains d ON d.id = c.domain_id "
    # its domain may be gone: what it sent counts all the same
    "UNION SELECT org_id, domain_id, domain FROM alarms WHERE ended_at IS NULL AND domain_id IS NOT NULL",
)
_RATES = _COUNTED.format(real=_REAL, kinds=_KINDS, asked="SELECT org_id, id, name FROM domains WHERE id = $2")


async def days(db: Connection, domain_id: UUID, days: int) -> list[asyncpg.Record]:
    """`(day, sent, delivered, bounced, complained)` by UTC, newest first, of days with any; role app."""
    return await db.fetch(_DAYS, domain_id, days)  # type: ignore[no-any-return]


_DAYS = f"""
SELECT (c.at AT TIME ZONE 'UTC')::date AS day,
       coalesce(sum(c.n) FILTER (WHERE c.kind = 'sent'), 0)::bigint AS sent, {_REAL}
FROM event_counts c
WHERE c.org_id = (SELECT current_org()) AND c.domain_id = $1
  AND c.at >= date_trunc('day', now(), 'UTC') - make_interval(days => $2 - 1)
  AND (c.kind = 'sent' OR c.kind IN {_KINDS})
GROUP BY 1 ORDER BY 1 DESC
"""


# ---- alarms ----------------------------------------------------------------------------------------------------------


async def open_alarms(db: Connection) -> list[Open]:
    rows = await db.fetch(
        "SELECT id, org_id, coalesce(domain_id, key_id), kind, action FROM alarms WHERE ended_at IS NULL ORDER BY id"
    )
    return [Open(*row) for row in rows]


async def raise_(db: Connection, new: NewAlarm) -> bool:
    """False: it is open already."""
    done = await db.fetchval(
        "INSERT INTO alarms (id, org_id, domain_id, domain, key_id, kind, action, text, facts) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING RETURNING true",
        *(new.id, new.org_id, new.domain_id, new.domain, new.key_id, new.kind, new.action, new.text[:1000], new.facts),
    )
    return bool(done)


async def end(db: Connection, ids: Sequence[UUID], by: str) -> list[asyncpg.Record]:
    """Those that were open. `by`: rate, person, pause, mended, change."""
    rows: list[asyncpg.Record] = await db.fetch(
        "UPDATE alarms SET ended_at = now(), ended_by = $2 WHERE id = ANY ($1::uuid[]) AND ended_at IS NULL "
        f"RETURNING {_COLUMNS}",
        list(ids),
        by,
    )
    return rows


async def find(db: Connection, id_: UUID) -> asyncpg.Record | None:
    """Role app or worker."""
    return await db.fetchrow(f"SELECT {_COLUMNS} FROM alarms WHERE id = $1", id_)


async def page(db: Connection, page: Page, *, open_only: bool = False) -> Slice:
    """Role app: an organization's own; role worker: of all."""
    return await fetch(
        db, f"SELECT {_COLUMNS} FROM alarms WHERE {'ended_at IS NULL' if open_only else 'true'}", [], page
    )


async def of_domain(db: Connection, domain_id: UUID) -> list[asyncpg.Record]:
    """The open ones, oldest first; role app."""
    rows: list[asyncpg.Record] = await db.fetch(
        f"SELECT {_COLUMNS} FROM alarms WHERE {_OF} AND ended_at IS NULL ORDER BY id", domain_id
    )
    return rows


async def paused(db: Connection, domain_id: UUID) -> list[asyncpg.Record]:
    """What keeps it from sending, oldest first; role app or worker."""
    rows: list[asyncpg.Record] = await db.fetch(
        f"SELECT {_COLUMNS} FROM alarms WHERE {_OF} AND action = 'paused' AND ended_at IS NULL ORDER BY id",
        domain_id,
    )
    return rows


async def set_key_status(db: Connection, key_id: UUID, status: str, *, was: str) -> str | None:
    """The key's name, where it had the status `was`."""
    name: str | None = await db.fetchval(
        "UPDATE api_keys SET status = $2 WHERE id = $1 AND status = $3 RETURNING name", key_id, status, was
    )
    return name


# by its name: a domain that was deleted and added again is paused still
_OF = "(org_id, domain) = (SELECT d.org_id, d.name FROM domains d WHERE d.id = $1)"
_COLUMNS = "id, org_id, domain_id, domain, key_id, kind, action, text, facts, ended_at, ended_by"


# ---- what keys send --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sent:
    org_id: UUID
    key_id: UUID
    recipients: int
    sample: Sequence[UUID | str]
    """Ids of some of the emails."""


async def note_sent(db: Connection, sent: Sequence[Sent]) -> None:
    """Adds to the current quarter of an hour. Role app, all of one organization."""
    for each in sorted(sent, key=lambda one: one.key_id.int):  # one order for all: no deadlock
        await db.execute(_NOTE, each.org_id, each.key_id, each.recipients, list(each.sample)[:SAMPLE], SAMPLE)


_NOTE = """
INSERT INTO key_counts AS k (org_id, key_id, at, sent, sample)
VALUES ($1, $2, date_bin('15 minutes', now(), '2000-01-01Z'), $3, $4)
ON CONFLICT (key_id, at) DO UPDATE SET sent = k.sent + excluded.sent, sample = (k.sample || excluded.sample)[1:$5]
"""


async def keys_in_use(db: Connection, volume: float, bounces: int) -> list[KeyUse]:
    """Keys that sent in the last hour, and those with an open alarm. Where a person has ended an alarm of a key, its hour begins
    there. `busiest` is looked for where more than `volume` recipients were sent to, `bounced` where at least `bounces` were."""
    return [KeyUse(*row) for row in await db.fetch(_KEYS, volume, bounces)]


_KEYS = """
WITH used AS (
  SELECT key_id FROM key_counts WHERE at >= now() - interval '1 hour'
  UNION SELECT key_id FROM alarms WHERE ended_at IS NULL AND key_id IS NOT NULL
), since AS (
  SELECT k.org_id, k.id, k.name, greatest(now() - interval '1 hour',
         (SELECT max(a.ended_at) FROM alarms a WHERE a.key_id = k.id AND a.ended_by = 'person')) AS at
  FROM used JOIN api_keys k ON k.id = used.key_id
)
SELECT s.org_id, s.id, s.name, s.at, recent.sent,
       CASE WHEN recent.sent > $1::float8 THEN coalesce((SELECT max(h.sent) FROM (
         SELECT sum(c.sent)::bigint AS sent FROM key_counts c WHERE c.key_id = s.id AND c.at < now() - interval '1 hour'
         GROUP BY date_bin('1 hour', c.at, '2000-01-01Z')) h), 0) ELSE 0 END::bigint,
       ended.n, ended.bounced
FROM since s
CROSS JOIN LATERAL (
  SELECT coalesce(sum(c.sent), 0)::bigint AS sent FROM key_counts c
  WHERE c.key_id = s.id AND c.at >= s.at
) recent
CROSS JOIN LATERAL (
  SELECT count(*) AS n,
         count(*) FILTER (WHERE d.state = 'bounced' AND NOT EXISTS (
           SELECT FROM attempts a WHERE a.email_id = d.email_id AND a.n = d.n AND a.rule = 'test-address')) AS bounced
  FROM key_counts c CROSS JOIN LATERAL unnest(c.sample) AS u (id)
  JOIN deliveries d ON d.email_id = u.id AND d.state IN ('delivered', 'bounced')
  WHERE c.key_id = s.id AND c.at >= s.at AND recent.sent >= $2::bigint
) ended
"""


async def forget_keys(db: Connection) -> int:
    """Counts older than 30 days, and samples older than a day."""
    await db.execute("UPDATE key_counts SET sample = '{}' WHERE at < now() - interval '1 day' AND sample <> '{}'")
    gone: str = await db.execute("DELETE FROM key_counts WHERE at < now() - interval '30 days'")
    return int(gone.rpartition(" ")[2])
