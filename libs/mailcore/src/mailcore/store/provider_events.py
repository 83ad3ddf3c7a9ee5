"""What a provider reports about mail it took: once each, and only about mail that went by that way; and what it never reports.
Role worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from mailcore.store.plans import by_index
from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class Carried:
    """A delivery that went by the way in question, held until the transaction ends."""

    email_id: UUID
    n: int
    org_id: UUID
    recipient: str
    state: str
    last_event: str
    leased: bool
    """An attempt is under way, or not settled yet."""


async def carried(db: Connection, site: str, org_id: UUID | None, email_ids: Sequence[UUID]) -> list[Carried]:
    """The deliveries of these emails that this site was attempted with, or that are under way somewhere.

    `org_id`: whose way it is; None: the installation's, which carries everybody's mail.
    """
    await by_index(db)
    return [Carried(*row) for row in await db.fetch(_CARRIED, list(email_ids), site, org_id)]


# a tenant's provider account may post what it likes: only mail that was given to it can be meant
_CARRIED = """
SELECT d.email_id, d.n, d.org_id, d.recipient, d.state, d.last_event, coalesce(q.worker IS NOT NULL, false)
FROM deliveries d LEFT JOIN queue q ON q.email_id = d.email_id AND q.n = d.n
WHERE d.email_id = ANY ($1::uuid[]) AND ($3::uuid IS NULL OR d.org_id = $3)
  AND (EXISTS (SELECT FROM attempts a WHERE a.email_id = d.email_id AND a.n = d.n AND a.site = $2)
       OR q.dot_sent)
ORDER BY d.email_id, d.n FOR UPDATE OF d
"""


async def take(db: Connection, digests: Sequence[bytes], org_ids: Sequence[UUID]) -> set[bytes]:
    """Those that have not been taken before."""
    rows = await db.fetch(_TAKE, list(digests), list(org_ids))
    return {row["digest"] for row in rows}


_TAKE = """
INSERT INTO provider_events (digest, org_id)
SELECT digest, org_id FROM unnest($1::bytea[], $2::uuid[]) AS t (digest, org_id) ORDER BY digest
ON CONFLICT (digest) DO NOTHING RETURNING digest
"""


@dataclass(frozen=True, slots=True)
class Move:
    email_id: UUID
    n: int
    state: str | None
    """None leaves it."""
    last_event: str
    code: int | None = None
    enhanced_code: str | None = None
    reply: str | None = None
    category: str | None = None
    category_rule: str | None = None


async def move(db: Connection, site: str, moves: Sequence[Move]) -> None:
    """One a delivery. What comes to its end waits no longer: what was queued for a retry is taken out."""
    await by_index(db)
    await db.execute(_MOVE, site, *[[getattr(move, name) for move in moves] for name in Move.__dataclass_fields__])


# of what comes to its end an attempt more, so that who looks sees what was said, by whom and when
_MOVE = """
WITH m AS MATERIALIZED (
  SELECT * FROM unnest($2::uuid[], $3::smallint[], $4::text[], $5::text[], $6::smallint[], $7::text[], $8::text[], $9::text[],
                       $10::text[]) AS t (email_id, n, state, last_event, code, enhanced_code, reply, category, category_rule)
), gone AS (
  DELETE FROM queue q USING m WHERE q.email_id = m.email_id AND q.n = m.n AND q.worker IS NULL AND m.state IS NOT NULL
), noted AS (
  INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, site, code, enhanced_code, reply, rule, category, category_rule)
  SELECT m.email_id, m.n,
         (SELECT coalesce(max(a.attempt), 0) + 1 FROM attempts a WHERE a.email_id = m.email_id AND a.n = m.n),
         d.org_id, now(), m.state, $1, m.code, m.enhanced_code, m.reply, 'report', m.category, m.category_rule
  FROM m JOIN deliveries d ON d.email_id = m.email_id AND d.n = m.n
  WHERE m.state IS NOT NULL
)
UPDATE deliveries d
SET state = coalesce(m.state, d.state),
    last_event = CASE WHEN d.last_event IN ('opened', 'clicked') AND m.last_event IN ('delivered', 'delivery_delayed')
                      THEN d.last_event ELSE m.last_event END,
    last_event_at = now()
FROM m WHERE d.email_id = m.email_id AND d.n = m.n
"""


@dataclass(frozen=True, slots=True)
class Unclear:
    """A report that may be about this delivery."""

    email_id: UUID
    n: int
    words: str


async def note(db: Connection, site: str, said: Sequence[Unclear]) -> None:
    """An attempt for each, so that who looks sees what was said; nothing else changes. Of mail that waits for a retry none: the
    number is that attempt's."""
    await by_index(db)
    await db.execute(_NOTE, site, *[[getattr(each, name) for each in said] for name in Unclear.__dataclass_fields__])


# of two about one delivery in a post the numbers follow each other
_NOTE = """
INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, site, reply, rule)
SELECT d.email_id, d.n,
       (SELECT coalesce(max(a.attempt), 0) FROM attempts a WHERE a.email_id = d.email_id AND a.n = d.n)
       + row_number() OVER (PARTITION BY d.email_id, d.n ORDER BY t.place),
       d.org_id, now(), d.state, $1, t.words, 'report-unclear'
FROM unnest($2::uuid[], $3::smallint[], $4::text[]) WITH ORDINALITY AS t (email_id, n, words, place)
JOIN deliveries d ON d.email_id = t.email_id AND d.n = t.n
WHERE NOT EXISTS (SELECT FROM queue q WHERE q.email_id = d.email_id AND q.n = d.n)
"""


# ---- what is never reported ------------------------------------------------------------------------------------------

SILENT_BATCH = 5_000
"""Attempts of one step."""


async def silent(db: Connection, before: datetime, words: str, batch: int = SILENT_BATCH) -> tuple[int, dict[str, int]]:
    """One step through what providers took before that time: of each that is `relayed` still, an attempt that says so. Nothing else
    changes: nobody knows what became of it, and a report that comes all the same is welcome.

    Returns the attempts it went past, `batch` or more when there may be further ones, and how many were silent by site. Each
    is come to once.
    """
    await by_index(db)
    rows = await db.fetch(_SILENT, before, batch, words)
    return (rows[0]["passed"] if rows else 0), {row["site"]: row["silent"] for row in rows if row["silent"]}


# those of one moment are never parted; who reports just now has the delivery's lock, and then it is relayed no more
_SILENT = """
WITH mark AS MATERIALIZED (SELECT at FROM relayed_mark FOR UPDATE), ahead AS MATERIALIZED (
  SELECT a.email_id, a.n, a.org_id, a.at, a.site FROM attempts a, mark
  WHERE a.outcome = 'relayed' AND a.rule IS NULL AND a.at > mark.at AND a.at < $1
  ORDER BY a.at FETCH FIRST $2 ROWS WITH TIES
), open AS MATERIALIZED (
  SELECT ahead.email_id, ahead.n, ahead.org_id, ahead.site
  FROM ahead JOIN deliveries d ON d.email_id = ahead.email_id AND d.n = ahead.n
  WHERE d.state = 'relayed'
  ORDER BY ahead.email_id, ahead.n FOR UPDATE OF d
), noted AS (
  INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, site, reply, rule)
  SELECT open.email_id, open.n,
         (SELECT max(a.attempt) + 1 FROM attempts a WHERE a.email_id = open.email_id AND a.n = open.n),
         open.org_id, now(), 'relayed', open.site, $3, 'no-report'
  FROM open
), moved AS (
  UPDATE relayed_mark SET at = (SELECT max(at) FROM ahead) WHERE EXISTS (SELECT FROM ahead)
)
SELECT site, (SELECT count(*) FROM ahead) AS passed,
       (SELECT count(*) FROM open WHERE open.site = ahead.site) AS silent
FROM ahead GROUP BY site
"""
