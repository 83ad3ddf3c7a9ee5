"""Arrivals: mail taken in, the queue of what is still to be routed, and the keys by which a repeat is known.

take                       role door, a transaction of its own (take_arrivals, migration 0029)
insert_read                role door
claim … settle_routed      role worker, the router
find, page                 role app
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection, Store

MAX_CRASHES = 3
"""Of workers that routed a mail alone; the crash that came before, in company, may have been another's fault."""

HELD_DAYS = 30
"""How long a decision holds a mail in quarantine; then it is deleted (flow.quarantine)."""
PENDING_ATTEMPTS = 4
"""Tries of a mail that waits for a scanner are counted up to these: its wait has no end, the column that counts has one."""
MAX_COUNT = 10_000
"""Arrivals are counted, and paged through by number, up to this many."""


class NewArrival(NamedTuple):
    id: UUID
    org_id: UUID
    door: str
    source: str
    source_id: str | None
    mail_from: str
    rcpt_to: tuple[str, ...]
    facts: dict[str, Any]
    size: int
    sha256: bytes
    raw: bytes | None
    raw_blob: str | None
    decisions: list[dict[str, Any]]
    created_at: datetime
    auth: dict[str, Any] | None = None
    """What authentication found, where that was asked before the reply (flow.authenticate) …"""
    findings: list[dict[str, Any]] | None = None
    """… and scanners (flow.scan)."""
    key: bytes = b""
    """By which a repeat is known: SHA-256 (flow.receive)."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A row of the queue that is leased to us."""

    arrival_id: UUID
    org_id: UUID
    attempt: int
    """Attempts begun, this one too."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What routing needs of an arrival."""

    id: UUID
    org_id: UUID
    door: str
    source: str
    mail_from: str
    rcpt_to: tuple[str, ...]
    facts: dict[str, Any]
    state: str
    size: int
    raw: bytes | None
    raw_blob: str | None
    auth: dict[str, Any] | None
    created_at: datetime
    released_at: datetime | None = None
    """Since when somebody has let it out of quarantine: nothing holds it again."""
    findings: list[dict[str, Any]] | None = None
    """What scanners said of it before."""
    pending: str | None = None
    """Scanners that it has been waiting for …"""
    pending_at: datetime | None = None
    """… and since when."""


@dataclass(frozen=True, slots=True)
class RoutedArrival:
    id: UUID
    summary: dict[str, Any]
    decisions: list[dict[str, Any]]
    auth: dict[str, Any] | None = None
    """None: as it was."""
    state: str = "routed"
    """Or `quarantined`, `dropped`, `refused`."""
    held_by: str | None = None
    """Of a quarantined one: the step that holds it …"""
    held_reason: str | None = None
    """… and why."""
    findings: list[dict[str, Any]] | None = None
    """What scanners found; None: none was asked."""


@dataclass(frozen=True, slots=True)
class Pending:
    """One that waits for a scanner."""

    id: UUID
    scanners: str
    findings: list[dict[str, Any]] | None
    decisions: list[dict[str, Any]]
    """New ones."""
    auth: dict[str, Any] | None


async def take(store: Store, new: Sequence[NewArrival], *, seconds: float | None) -> dict[bytes, UUID]:
    """Stores those whose key nobody has, each with its queue row, due at once, on disk when this returns. Of the others: key → the
    arrival that has it.

    `seconds`: a key older than that counts no more; None: it counts as long as upkeep keeps it. Waits for a transaction that is
    taking the same key. Keys must differ from each other. Raises Unavailable: they may be stored nevertheless, and asking for
    the same ones again finds them.
    """
    rows = []
    raws = []
    for one in new:
        row = one._asdict()
        row |= {"sha256": one.sha256.hex(), "key": one.key.hex(), "raw": None}
        if one.raw is not None:
            raws.append(one.raw)
            row["raw"] = len(raws)
        rows.append(row)
    # as one value: the driver looks at every element of an array. Its own UUIDs are none to orjson
    found = await store.call(
        "SELECT digest, arrival_id FROM take_arrivals($1::text::json, $2, $3)",
        orjson.dumps(rows, default=str).decode(),
        raws,
        seconds,
    )
    return {row["digest"]: row["arrival_id"] for row in found}


async def insert_read(db: Connection, new: NewArrival) -> None:
    """One that was read before it was answered, and of which nothing else is made: state routed, no summary, no queue row."""
    await db.execute(
        "INSERT INTO arrivals (id, org_id, door, source, mail_from, rcpt_to, facts, size, sha256, raw, state, decisions, "
        "created_at, routed_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'routed', $11, $12, $12)",
        *(
            new.id,
            new.org_id,
            new.door,
            new.source,
            new.mail_from,
            list(new.rcpt_to),
            new.facts,
            new.size,
            new.sha256,
            new.raw,
        ),
        *(new.decisions, new.created_at),
    )


async def note(db: Connection, arrival_id: UUID, decision: dict[str, Any]) -> None:
    await db.execute("UPDATE arrivals SET decisions = decisions || $2 WHERE id = $1", arrival_id, [decision])


# ---- the router ---------------------------------------------------------------------------------------------------------


async def claim(db: Connection, worker: int, limit: int, *, crashed: bool = False) -> list[Claimed]:
    """`crashed`: one that was in a worker's hands when it died; such a one is claimed alone."""
    rows = await db.fetch(_CLAIM_CRASHED if crashed else _CLAIM, worker, 1 if crashed else limit)
    return [Claimed(row["arrival_id"], row["org_id"], row["attempt"]) for row in rows]


async def release(db: Connection, worker: int) -> int:
    """Gives back everything leased to this worker, due at once, as if it had not been claimed."""
    rows = await db.fetch(
        "UPDATE arrival_queue SET worker = NULL, leased_at = NULL, attempt = attempt - 1 WHERE worker = $1 RETURNING 1",
        worker,
    )
    return len(rows)


async def take_back(db: Connection, dead: Sequence[int]) -> tuple[int, list[UUID]]:
    """What dead workers held, in the transaction that buried them: how many are queued again, which are quarantined."""
    rows = await db.fetch(
        "UPDATE arrival_queue SET worker = NULL, leased_at = NULL, crashes = crashes + 1 WHERE worker = ANY ($1) "
        "RETURNING arrival_id, crashes",
        dead,
    )
    lost = [row["arrival_id"] for row in rows if row["crashes"] > MAX_CRASHES]
    return len(rows) - len(lost), lost


async def defer(db: Connection, worker: int, arrival_id: UUID, seconds: float) -> None:
    await db.execute(
        "UPDATE arrival_queue SET worker = NULL, leased_at = NULL, due_at = now() + make_interval(secs => $3) "
        "WHERE arrival_id = $2 AND worker = $1",
        worker,
        arrival_id,
        seconds,
    )


async def quarantine(db: Connection, ids: Sequence[UUID], decision: dict[str, Any]) -> None:
    """Out of the queue, still here: state quarantined, with the reason."""
    await db.execute(
        "UPDATE arrivals SET state = 'quarantined', decisions = decisions || $2 WHERE id = ANY ($1) AND state = 'received'",
        ids,
        [decision],
    )
    await db.execute("DELETE FROM arrival_queue WHERE arrival_id = ANY ($1)", ids)


async def load(db: Connection, ids: Sequence[UUID]) -> list[Stored]:
    rows = await db.fetch(
        "SELECT id, org_id, door, source, mail_from, rcpt_to, facts, state, size, raw, raw_blob, auth, created_at, "
        "released_at, findings, pending, pending_at FROM arrivals "
        "WHERE id = ANY ($1)",
        ids,
    )
    return [Stored(**(dict(row) | {"rcpt_to": tuple(row["rcpt_to"])})) for row in rows]


async def finish(db: Connection, worker: int, ids: Sequence[UUID]) -> set[UUID]:
    """Takes them out of the queue. Only those whose lease is still ours, which is what it returns."""
    rows = await db.fetch(
        "DELETE FROM arrival_queue WHERE arrival_id = ANY ($2) AND worker = $1 RETURNING arrival_id",
        worker,
        sorted(ids),
    )
    return {row["arrival_id"] for row in rows}


async def settle_routed(db: Connection, routed: Sequence[RoutedArrival]) -> set[UUID]:
    """Their new state, for those that were not routed yet; their ids."""
    rows = await db.fetch(
        _ROUTED,
        [one.id for one in routed],
        [one.summary for one in routed],
        [_json(one.decisions) for one in routed],
        [one.auth for one in routed],
        [one.state for one in routed],
        [one.held_by for one in routed],
        [one.held_reason for one in routed],
        [HELD_DAYS] * len(routed),
        [one.findings and _json(one.findings) for one in routed],
    )
    return {row["id"] for row in rows}


async def pend(db: Connection, worker: int, waiting: Sequence[Pending], *, seconds: float) -> None:
    """They wait for scanners, and are due again: in so many seconds at first, up to eight times as many later. Only those whose
    lease is still ours. However long they wait, they have been tried PENDING_ATTEMPTS times at most: nothing of that was theirs."""
    await db.execute(
        _PEND,
        worker,
        [one.id for one in waiting],
        [one.scanners for one in waiting],
        [one.findings and _json(one.findings) for one in waiting],
        [_json(one.decisions) for one in waiting],
        [one.auth for one in waiting],
        seconds,
        PENDING_ATTEMPTS,
    )


async def depth(db: Connection) -> tuple[int, int, float]:
    """How many wait, how many of them for a scanner (at most a thousand are counted), and for how many seconds the longest has been
    due."""
    row = await db.fetchrow(
        "SELECT (SELECT count(*) FROM (SELECT FROM arrival_queue LIMIT 1000) first) AS waiting, "
        "(SELECT count(*) FROM (SELECT FROM arrivals WHERE pending IS NOT NULL LIMIT 1000) those) AS pending, "
        "extract(epoch FROM now() - (SELECT min(due_at) FROM arrival_queue WHERE due_at <= now())) AS age"
    )
    return int(row["waiting"]), int(row["pending"]), float(row["age"] or 0)


# ---- readers ------------------------------------------------------------------------------------------------------------


async def find(db: Connection, id_: UUID, *, raw: bool = False) -> asyncpg.Record | None:
    columns = _COLUMNS + (", raw, raw_blob" if raw else "")
    return await db.fetchrow(f"SELECT {columns} FROM arrivals WHERE id = $1", id_)


async def page(
    db: Connection, page: Page, *, door: str | None = None, pending: bool | None = None, routed: bool = False
) -> Slice:
    """`door` and `pending` narrow it; `routed` leaves out what is still to be routed, and reports of which no mail was made."""
    select, args = f"SELECT {_COLUMNS} FROM arrivals WHERE true", list[Any]()
    if routed:
        select += f" AND {_MAIL}"
    if pending is not None:
        select += f" AND pending IS {'NOT ' if pending else ''}NULL"
    if door is not None:
        args.append(door)
        select += f" AND door = ${len(args)}"
    return await fetch(db, select, args, page)


async def numbered(db: Connection, *, offset: int, limit: int) -> tuple[list[asyncpg.Record], int]:
    """Routed ones: `(rows, how many there are)`, counted up to MAX_COUNT."""
    total: int = await db.fetchval(
        f"SELECT count(*) FROM (SELECT FROM arrivals WHERE {_MAIL} LIMIT $1) AS bounded", MAX_COUNT
    )
    rows = await db.fetch(
        f"SELECT {_COLUMNS} FROM arrivals WHERE {_MAIL} ORDER BY id DESC OFFSET $1 LIMIT $2", offset, limit
    )
    return rows, total


async def queue_row(db: Connection, id_: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(
        "SELECT due_at, attempt, crashes, worker IS NOT NULL AS leased FROM arrival_queue WHERE arrival_id = $1", id_
    )


def _json(value: object) -> str:
    """Of a list: the driver would take a list of lists for an array of two dimensions."""
    return orjson.dumps(value).decode()


_MAIL = "state = 'routed' AND summary IS NOT NULL"

_COLUMNS = (
    "id, org_id, door, source, source_id, mail_from, rcpt_to, facts, size, sha256, state, created_at, routed_at, "
    "summary, decisions, auth, findings, pending, pending_at"
)

_CLAIM = """
UPDATE arrival_queue q SET worker = $1, leased_at = now(), attempt = attempt + 1
FROM (SELECT arrival_id FROM arrival_queue WHERE due_at <= now() AND worker IS NULL AND crashes = 0
      ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED) due
WHERE q.arrival_id = due.arrival_id
RETURNING q.arrival_id, q.org_id, q.attempt
"""
_CLAIM_CRASHED = _CLAIM.replace("crashes = 0", "crashes > 0")

_ROUTED = """
UPDATE arrivals a SET state = r.state, routed_at = CASE WHEN r.state <> 'quarantined' THEN now() END, summary = r.summary,
  decisions = a.decisions || r.decisions::jsonb, auth = coalesce(r.auth, a.auth), held_by = r.held_by, held_reason = r.held_reason,
  held_until = CASE r.state WHEN 'quarantined' THEN now() + make_interval(days => r.days) END,
  findings = coalesce(r.findings::jsonb, a.findings), pending = NULL, pending_at = NULL
FROM unnest($1::uuid[], $2::jsonb[], $3::text[], $4::jsonb[], $5::text[], $6::text[], $7::text[], $8::integer[], $9::text[])
  AS r (id, summary, decisions, auth, state, held_by, held_reason, days, findings)
WHERE a.id = r.id AND a.state = 'received'
RETURNING a.id
"""

_PEND = """
WITH given AS (
  SELECT * FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::jsonb[]) AS t (id, pending, findings, decisions, auth)
), mine AS (
  UPDATE arrival_queue q SET worker = NULL, leased_at = NULL, attempt = least(q.attempt, $8::smallint),
    due_at = now() + make_interval(secs => $7::float8 * 2 ^ (least(q.attempt, $8::smallint) - 1))
  FROM given WHERE q.arrival_id = given.id AND q.worker = $1 RETURNING q.arrival_id
)
UPDATE arrivals a SET pending = given.pending, pending_at = coalesce(a.pending_at, now()), findings = given.findings::jsonb,
  auth = coalesce(given.auth, a.auth), decisions = a.decisions || given.decisions::jsonb
FROM given JOIN mine ON mine.arrival_id = given.id
WHERE a.id = given.id AND a.state = 'received' AND a.released_at IS NULL
"""
