"""What TLS came to: counts to be reported and reports sent (role worker), reports received about our own domains (role app)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection

MAX_ROWS = 2_000
"""Of one domain and day that a report is made of: the most frequent."""


@dataclass(frozen=True, slots=True)
class Counted:
    digest: bytes
    """Of all that follows but `sessions`."""
    day: date
    domain: str
    policy: str
    """JSON."""
    failure: str | None
    """JSON; None: sessions that were well."""
    sessions: int


async def add(db: Connection, counted: Sequence[Counted]) -> None:
    """Rows come in one order, so that two processes never wait for each other."""
    rows = sorted(counted, key=lambda each: each.digest)
    columns = list(zip(*((r.digest, r.day, r.domain, r.policy, r.failure, r.sessions) for r in rows), strict=True))
    if columns:
        await db.execute(_ADD, *map(list, columns))


_ADD = """
INSERT INTO tls_results (digest, day, domain, policy, failure, sessions)
SELECT digest, day, domain, policy::jsonb, failure::jsonb, sessions
FROM unnest($1::bytea[], $2::date[], $3::text[], $4::text[], $5::text[], $6::bigint[])
  AS t (digest, day, domain, policy, failure, sessions)
ON CONFLICT (digest) DO UPDATE SET sessions = tls_results.sessions + excluded.sessions
"""


# ---- what is to be sent ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DueReport:
    day: date
    domain: str
    attempt: int
    report_id: str | None
    done: Mapping[str, str]


async def plan(db: Connection, *, spread: float) -> None:
    """A row for each domain and past day that something was counted for; due within `spread` seconds (RFC 8460 §4.1)."""
    await db.execute(
        "INSERT INTO tls_reports (day, domain, due_at) "
        "SELECT DISTINCT day, domain, now() + random() * make_interval(secs => $1) FROM ("
        "  SELECT DISTINCT day, domain FROM tls_results WHERE day < (now() AT TIME ZONE 'UTC')::date) AS counted "
        "ON CONFLICT (day, domain) DO NOTHING",
        spread,
    )


async def claim(db: Connection, limit: int, *, again: float) -> list[DueReport]:
    """Reports that are due; the next try is written first, `again` seconds from now, for whoever dies on the way."""
    rows = await db.fetch(_CLAIM, limit, again)
    return [DueReport(*row) for row in rows]


_CLAIM = """
UPDATE tls_reports SET attempt = attempt + 1, due_at = now() + make_interval(secs => $2)
WHERE (day, domain) IN (SELECT day, domain FROM tls_reports WHERE state = 'due' AND due_at <= now()
                        ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING day, domain, attempt, report_id, done
"""


async def counted(db: Connection, day: date, domain: str) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await db.fetch(
        "SELECT policy, failure, sessions FROM tls_results WHERE day = $1 AND domain = $2 ORDER BY sessions DESC, digest LIMIT $3",
        *(day, domain, MAX_ROWS),
    )
    return rows


async def made(db: Connection, due: DueReport, report_id: str, report: dict[str, Any]) -> bool:
    """What is said stays as it is now, whoever sends it and how often. False: somebody has made it."""
    return bool(
        await db.fetchval(
            "UPDATE tls_reports SET report_id = $3, report = $4 WHERE day = $1 AND domain = $2 AND state = 'due' "
            "AND report_id IS NULL RETURNING true",
            *(due.day, due.domain, report_id, report),
        )
    )


async def stored(db: Connection, due: DueReport) -> asyncpg.Record | None:
    return await db.fetchrow(
        "SELECT report_id, report, done FROM tls_reports WHERE day = $1 AND domain = $2 AND state = 'due'",
        *(due.day, due.domain),
    )


async def went(db: Connection, due: DueReport, uri: str, what: str) -> bool:
    """It went there. False: it had gone there already."""
    return bool(
        await db.fetchval(
            "UPDATE tls_reports SET done = done || jsonb_build_object($3::text, $4::text) "
            "WHERE day = $1 AND domain = $2 AND NOT done ? $3 RETURNING true",
            *(due.day, due.domain, uri, what),
        )
    )


async def end(db: Connection, due: DueReport, state: str, error: str | None = None) -> None:
    """`state`: sent, unwanted, failed. What was counted is of no more use."""
    await db.execute(
        "UPDATE tls_reports SET state = $3, last_error = $4, sent_at = CASE WHEN $3 = 'sent' THEN now() END "
        "WHERE day = $1 AND domain = $2 AND state = 'due'",
        *(due.day, due.domain, state, error),
    )
    await db.execute("DELETE FROM tls_results WHERE day = $1 AND domain = $2", due.day, due.domain)


async def wait(db: Connection, due: DueReport, error: str) -> None:
    await db.execute(
        "UPDATE tls_reports SET last_error = $3 WHERE day = $1 AND domain = $2", due.day, due.domain, error
    )


async def forget_old(db: Connection, *, days: int, received_days: int) -> None:
    """Reports sent so long ago, counts that nobody came to report, and reports received."""
    await db.execute(
        "DELETE FROM tls_reports WHERE day < (now() AT TIME ZONE 'UTC')::date - $1::integer AND state <> 'due'", days
    )
    await db.execute("DELETE FROM tls_results WHERE day < (now() AT TIME ZONE 'UTC')::date - $1::integer", days)
    await db.execute(
        "DELETE FROM received_tls_reports WHERE ends_at < now() - make_interval(days => $1)", received_days
    )


async def sent(db: Connection, domain: str | None, limit: int) -> list[asyncpg.Record]:
    """The latest, for the operator. Role worker."""
    rows: list[asyncpg.Record] = await db.fetch(
        "SELECT day, domain, state, due_at, attempt, report_id, report, done, last_error, sent_at FROM tls_reports "
        "WHERE $1::text IS NULL OR domain = $1 ORDER BY day DESC, domain LIMIT $2",
        *(domain, limit),
    )
    return rows


# ---- what came about our own domains ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    id: UUID
    org_id: UUID
    domain_id: UUID
    door: str
    source: str
    organization: str
    report_id: str
    begins_at: datetime
    ends_at: datetime
    successful: int
    failed: int
    report: dict[str, Any]


async def receive(db: Connection, new: Received) -> bool:
    """False: it is here already. Raises ForeignKeyViolationError when the domain is gone."""
    return bool(
        await db.fetchval(
            "INSERT INTO received_tls_reports (id, org_id, domain_id, door, source, organization, report_id, begins_at, ends_at, "
            "successful, failed, report) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) "
            "ON CONFLICT (domain_id, organization, report_id) DO NOTHING RETURNING true",
            *(new.id, new.org_id, new.domain_id, new.door, new.source, new.organization, new.report_id, new.begins_at),
            *(new.ends_at, new.successful, new.failed, new.report),
        )
    )


async def count_since(db: Connection, domain_id: UUID, id_: UUID) -> int:
    """Reports of that domain that came after `id_` was made."""
    found: int = await db.fetchval(
        "SELECT count(*) FROM received_tls_reports WHERE domain_id = $1 AND id >= $2", domain_id, id_
    )
    return found


async def domain_name(db: Connection, domain_id: UUID) -> str | None:
    """Of the organization's own domain."""
    found: str | None = await db.fetchval("SELECT name FROM domains WHERE id = $1", domain_id)
    return found


async def domain_ids(db: Connection, names: Collection[str]) -> dict[str, UUID]:
    """Those of the names that are the organization's own."""
    rows = await db.fetch("SELECT name, id FROM domains WHERE name = ANY ($1::text[])", sorted(names))
    return {row["name"]: row["id"] for row in rows}


_COLUMNS = (
    "r.id, r.domain_id, d.name AS domain, r.door, r.source, r.organization, r.report_id, r.begins_at, r.ends_at, r.successful, "
    "r.failed"
)


async def page(db: Connection, page: Page, domain_id: UUID | None) -> Slice:
    where, args = ("r.domain_id = $1", [domain_id]) if domain_id else ("true", [])
    select = f"SELECT {_COLUMNS} FROM received_tls_reports r JOIN domains d ON d.id = r.domain_id WHERE {where}"
    return await fetch(db, select, args, page, column="r.id")


async def find(db: Connection, id_: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(
        f"SELECT {_COLUMNS}, r.report FROM received_tls_reports r JOIN domains d ON d.id = r.domain_id WHERE r.id = $1",
        id_,
    )
