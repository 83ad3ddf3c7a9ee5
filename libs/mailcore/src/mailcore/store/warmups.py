"""Warm-up of sources and of sending domains: how much each may send today, what became of it, and what was decided. Role worker.

1. `lease`, `report`   what processes that send ask and tell: shares of today's caps, many mails at a time
2. `due`, `open_`      whether there is something to decide, and all that a decision reads, locked
3. `write`             what was decided (`flow.warmup` decides)
4. add, change, remove and reading for the operator
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.kit.errors import Conflict, NotFound
from mailcore.kit.ids import lower_bound, uuid7
from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection

KEEP_DAYS = 400
"""Of the history."""


async def clock(db: Connection) -> datetime:
    """The database's, by which all days begin: a process whose own is wrong gains nothing."""
    now: datetime = await db.fetchval("SELECT clock_timestamp()")
    return now


# ---- 1. processes that send ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    warmup_id: UUID
    want: int
    part: float
    """Of the day's cap that may be handed out by now: 0 to 1."""


async def lease(db: Connection, day: date, asks: Sequence[Ask]) -> dict[UUID, int]:
    """Mails of each cap that are the caller's from now on: as many as it wants, or as there are left. None: no such day."""
    rows = await db.fetch(
        _LEASE, day, [ask.warmup_id for ask in asks], [ask.want for ask in asks], [ask.part for ask in asks]
    )
    return {row["warmup_id"]: row["granted"] for row in rows}


# locked in one order, so that two processes wait for each other and do not deadlock; what is granted is reckoned from the row
# as it is once it is locked
_LEASE = """
WITH room AS MATERIALIZED (
  SELECT d.warmup_id, least(t.want, greatest(0, ceil(d.cap * t.part)::integer - d.leased)) AS granted
  FROM warmup_days d JOIN unnest($2::uuid[], $3::integer[], $4::float8[]) AS t (id, want, part) ON t.id = d.warmup_id
  WHERE d.day = $1 AND d.cap IS NOT NULL
  ORDER BY d.warmup_id FOR UPDATE OF d
)
UPDATE warmup_days d SET leased = d.leased + room.granted
FROM room WHERE d.warmup_id = room.warmup_id AND d.day = $1
RETURNING d.warmup_id, room.granted
"""


@dataclass(slots=True)
class Count:
    """Of one warm-up on one day: what a process saw since it last told."""

    attempts: int = 0
    delivered: int = 0
    deferred: int = 0
    blocked: int = 0
    bounced: int = 0
    returned: int = 0
    """Of what was leased and not used."""
    last_words: str | None = None

    def add(self, other: Count) -> None:
        for name in _COUNTED[:-1]:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.last_words = self.last_words or other.last_words


async def report(db: Connection, counts: Sequence[tuple[UUID, date, Count]]) -> None:
    ordered = sorted(counts, key=lambda each: (each[0].int, each[1]))
    await db.execute(
        _REPORT,
        [id_ for id_, _, _ in ordered],
        [day for _, day, _ in ordered],
        *([getattr(count, name) for _, _, count in ordered] for name in _COUNTED),
    )


_COUNTED = ("attempts", "delivered", "deferred", "blocked", "bounced", "returned", "last_words")
_REPORT = """
WITH told AS MATERIALIZED (
  SELECT t.* FROM warmup_days d
  JOIN unnest($1::uuid[], $2::date[], $3::integer[], $4::integer[], $5::integer[], $6::integer[], $7::integer[], $8::integer[],
              $9::text[])
    AS t (id, on_day, attempts, delivered, deferred, blocked, bounced, returned, words)
    ON t.id = d.warmup_id AND t.on_day = d.day
  ORDER BY d.warmup_id, d.day FOR UPDATE OF d
)
UPDATE warmup_days d
SET attempts = d.attempts + t.attempts, delivered = d.delivered + t.delivered, deferred = d.deferred + t.deferred,
    blocked = d.blocked + t.blocked, bounced = d.bounced + t.bounced, leased = greatest(0, d.leased - t.returned),
    last_words = coalesce(t.words, d.last_words)
FROM told t WHERE d.warmup_id = t.id AND d.day = t.on_day
"""


# ---- 2. what a decision reads ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Day:
    day: date
    cap: int | None
    leased: int
    attempts: int
    delivered: int
    deferred: int
    blocked: int
    bounced: int
    complaints: int
    last_words: str | None
    excused: dict[str, int]
    """Counts that are not judged: from before it was resumed within the day."""


@dataclass(frozen=True, slots=True)
class Warmup:
    id: UUID
    source_id: UUID | None
    domain: str | None
    state: str
    schedule: list[int]
    step: int
    day: date | None
    pauses: int
    paused_at: datetime | None
    paused_until: datetime | None
    why: str


async def due(db: Connection, today: date, now: datetime) -> bool:
    """Whether there is something to decide: a day that has not begun, a pause that ends, a bad sign today."""
    found: bool = await db.fetchval(
        "SELECT EXISTS (SELECT FROM warmups w WHERE w.day IS NULL OR w.day < $1 "
        "OR (w.state = 'paused' AND w.paused_until <= $2)) "
        "OR EXISTS (SELECT FROM warmup_days d JOIN warmups w ON w.id = d.warmup_id WHERE d.day = $1 AND w.state = 'warming' "
        "AND d.deferred + d.blocked + d.bounced + d.complaints > 0)",
        today,
        now,
    )
    return found


async def open_(db: Connection) -> list[tuple[Warmup, Day | None, Day | None]]:
    """All, locked: with the last day they began, and the one before that. Waits for whoever decides at the moment."""
    ids = [row["id"] for row in await db.fetch("SELECT id FROM warmups ORDER BY id FOR UPDATE")]
    rows = await db.fetch(f"SELECT {_WARMUP} FROM warmups WHERE id = ANY ($1::uuid[]) ORDER BY id", ids)
    days: dict[UUID, list[Day]] = {}
    for row in await db.fetch(_LAST_DAYS, ids):
        days.setdefault(row["warmup_id"], []).append(_day(row))
    found: list[tuple[Warmup, Day | None, Day | None]] = []
    for row in rows:
        last, before, *_ = *days.get(row["id"], []), None, None
        found.append((_warmup(row), last, before))
    return found


_WARMUP = "id, source_id, domain, state, schedule, step, day, pauses, paused_at, paused_until, why"
_DAY = "day, cap, leased, attempts, delivered, deferred, blocked, bounced, complaints, last_words, excused"
_LAST_DAYS = f"""
SELECT w.id AS warmup_id, d.* FROM unnest($1::uuid[]) AS w (id)
CROSS JOIN LATERAL (SELECT {_DAY} FROM warmup_days WHERE warmup_id = w.id ORDER BY day DESC LIMIT 2) d
ORDER BY w.id, d.day DESC
"""


def _warmup(row: asyncpg.Record) -> Warmup:
    return Warmup(*(row[name] for name in _WARMUP.split(", ")))


def _day(row: asyncpg.Record) -> Day:
    return Day(*(row[name] for name in _DAY.split(", ")))


async def count_complaints(db: Connection, day: datetime) -> None:
    """Sets today's complaints of every warm-up to what came in since `day` (0:00 UTC): the same twice as once."""
    rows = await db.fetch(_COMPLAINTS, lower_bound(day))
    await db.execute(
        _SET_COMPLAINTS,
        day.date(),
        [row["source_ip"] for row in rows],
        [row["domain"] for row in rows],
        [row["n"] for row in rows],
    )


_COMPLAINTS = """
SELECT a.source_ip, o.name AS domain, count(*)::integer AS n
FROM events e
JOIN emails m ON m.id = e.object_id
JOIN deliveries d ON d.email_id = e.object_id AND d.recipient = ANY (e.recipients)
CROSS JOIN LATERAL (
  SELECT source_ip FROM attempts t
  WHERE t.email_id = d.email_id AND t.n = d.n AND t.outcome = 'delivered' AND t.rule IS DISTINCT FROM 'test-complaint'
  ORDER BY t.attempt DESC LIMIT 1
) a
LEFT JOIN domains o ON o.id = m.domain_id
WHERE e.type = 'email.complained' AND e.id >= $1
GROUP BY 1, 2
"""
_SET_COMPLAINTS = """
WITH told AS (
  SELECT * FROM unnest($2::text[], $3::text[], $4::integer[]) AS t (source_ip, domain, n)
), counted AS (
  SELECT w.id, coalesce(sum(t.n), 0)::integer AS n
  FROM warmups w
  LEFT JOIN sources s ON s.id = w.source_id
  LEFT JOIN told t ON t.domain = w.domain
                   OR t.source_ip IN (host(coalesce(s.local_ipv4, s.ipv4)), host(coalesce(s.local_ipv6, s.ipv6)))
  GROUP BY w.id
), other AS MATERIALIZED (
  SELECT d.warmup_id, c.n FROM warmup_days d JOIN counted c ON c.id = d.warmup_id
  WHERE d.day = $1 AND d.complaints <> c.n ORDER BY d.warmup_id FOR UPDATE OF d
)
UPDATE warmup_days d SET complaints = other.n FROM other WHERE d.warmup_id = other.warmup_id AND d.day = $1
"""


# ---- 3. what was decided ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decision:
    """What a warm-up is from now on."""

    id: UUID
    what: str | None
    """Of `warmup_decisions`; None: nothing to tell, a day began."""
    state: str
    step: int
    day: date
    cap: int | None
    pauses: int
    paused_at: datetime | None
    paused_until: datetime | None
    why: str
    excuse: bool = False
    """What was counted today is not judged again."""


async def write(db: Connection, decisions: Sequence[Decision]) -> None:
    for each in decisions:
        await db.execute(
            "UPDATE warmups SET state = $2, step = $3, day = $4, pauses = $5, paused_at = $6, paused_until = $7, why = $8 "
            "WHERE id = $1",
            *(each.id, each.state, each.step, each.day, each.pauses, each.paused_at, each.paused_until, each.why),
        )
        await db.execute(_WRITE_DAY, each.id, each.day, each.cap, each.excuse)
        if each.what is not None:
            await note(db, each.id, each.what, each.step, each.why)


_WRITE_DAY = """
INSERT INTO warmup_days (warmup_id, day, cap) VALUES ($1, $2, $3)
ON CONFLICT (warmup_id, day) DO UPDATE
SET cap = EXCLUDED.cap,
    excused = CASE WHEN $4 THEN jsonb_build_object(
        'attempts', warmup_days.attempts, 'delivered', warmup_days.delivered, 'deferred', warmup_days.deferred,
        'blocked', warmup_days.blocked, 'bounced', warmup_days.bounced, 'complaints', warmup_days.complaints)
      ELSE warmup_days.excused END
"""


async def note(db: Connection, id_: UUID, what: str, step: int, why: str) -> None:
    await db.execute(
        "INSERT INTO warmup_decisions (warmup_id, id, what, step, why) VALUES ($1, $2, $3, $4, $5)",
        *(id_, uuid7(), what, step, why),
    )


async def claim_call(db: Connection, id_: UUID, now: datetime, seconds: float) -> bool:
    """Whether rows that wait for this pool or warm-up may be called now: others did not within the last so many seconds."""
    for table in ("pools", "warmups"):
        if await db.fetchval(
            f"UPDATE {table} SET recalled_at = $2 WHERE id = $1 AND (recalled_at IS NULL OR recalled_at <= $3 "
            "OR recalled_at > $2) RETURNING id",
            id_,
            now,
            now - timedelta(seconds=seconds),
        ):
            return True
    return False


async def forget(db: Connection, today: date) -> int:
    """Deletes days and decisions that are older than KEEP_DAYS."""
    before = today - timedelta(days=KEEP_DAYS)
    bound = lower_bound(datetime.fromisoformat(f"{before.isoformat()}T00:00:00+00:00"))
    await db.execute("DELETE FROM warmup_decisions WHERE id < $1", bound)
    gone: str = await db.execute("DELETE FROM warmup_days WHERE day < $1", before)
    return int(gone.rpartition(" ")[2])


# ---- 4. the operator's -----------------------------------------------------------------------------------------------


async def add(
    db: Connection, *, source_id: UUID | None = None, domain: str | None = None, schedule: Sequence[int], warm: bool
) -> UUID:
    """Raises Conflict: the domain has one already. `warm`: it may send what it likes."""
    id_ = uuid7()
    what, why = ("warm", "It is warm already.") if warm else ("began", "Its warm-up begins.")
    made = await db.fetchval(
        "INSERT INTO warmups (id, source_id, domain, state, schedule, why) VALUES ($1, $2, $3, $4, $5, $6) "
        "ON CONFLICT (domain) DO NOTHING RETURNING id",
        *(id_, source_id, domain, "warm" if warm else "warming", list(schedule), why),
    )
    if made is None:
        raise Conflict(f"{domain} is being warmed up already.")
    await note(db, id_, what, 0, why)
    return id_


async def lock(db: Connection, id_: UUID) -> Warmup:
    """Raises NotFound."""
    row = await db.fetchrow(f"SELECT {_WARMUP} FROM warmups WHERE id = $1 FOR UPDATE", id_)
    if row is None:
        raise NotFound("Warm-up not found")
    return _warmup(row)


async def set_schedule(db: Connection, id_: UUID, schedule: Sequence[int]) -> None:
    await db.execute("UPDATE warmups SET schedule = $2 WHERE id = $1", id_, list(schedule))


async def remove(db: Connection, id_: UUID) -> None:
    """A sending domain's: from then on it has no limit of its own. Raises NotFound, also for a source's."""
    if await db.fetchval("DELETE FROM warmups WHERE id = $1 AND domain IS NOT NULL RETURNING id", id_) is None:
        raise NotFound("Warm-up not found")


async def of(db: Connection, ids: Sequence[UUID], today: date) -> dict[UUID, tuple[Warmup, Day | None]]:
    """By their ids, with today."""
    rows = await db.fetch(f"SELECT {_WARMUP} FROM warmups WHERE id = ANY ($1::uuid[])", list(ids))
    days = {
        row["warmup_id"]: _day(row)
        for row in await db.fetch(
            f"SELECT warmup_id, {_DAY} FROM warmup_days WHERE warmup_id = ANY ($1::uuid[]) AND day = $2",
            list(ids),
            today,
        )
    }
    return {row["id"]: (_warmup(row), days.get(row["id"])) for row in rows}


async def of_domains(db: Connection, page: Page) -> Slice:
    return await fetch(db, f"SELECT {_WARMUP} FROM warmups WHERE domain IS NOT NULL", [], page)


async def history(db: Connection, id_: UUID, days: int = 30, decisions: int = 50) -> tuple[list[Day], list[Any]]:
    """The last ones, the newest first."""
    of_days = await db.fetch(
        f"SELECT {_DAY} FROM warmup_days WHERE warmup_id = $1 ORDER BY day DESC LIMIT $2", id_, days
    )
    decided = await db.fetch(
        "SELECT id, what, step, why FROM warmup_decisions WHERE warmup_id = $1 ORDER BY id DESC LIMIT $2",
        id_,
        decisions,
    )
    return [_day(row) for row in of_days], decided
