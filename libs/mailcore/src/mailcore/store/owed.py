"""Delivery reports owed to who handed mail in by SMTP: one row a recipient and action, from the settlement that made it due to the
email that is the report (flow.owed).

Role worker, and role door for `owe_unsent`: which tenant it is stands in the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mailcore.store.session import Connection

KEPT_DAYS = 30
"""A row that has its report, or will have none, is kept so long: it says what was told, and that it was told once."""


@dataclass(frozen=True, slots=True)
class NewOwed:
    email_id: UUID
    n: int
    action: str
    """failed, delayed, relayed."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """A recipient to whom nothing is sent, of a sender who wants to know."""

    email_id: UUID
    n: int
    org_id: UUID


@dataclass(frozen=True, slots=True)
class Taken:
    """A claimed row, with what there is to say."""

    n: int
    action: str
    tries: int
    recipient: str
    state: str
    last_attempt_at: datetime | None
    mx_host: str | None
    code: int | None
    enhanced_code: str | None
    reply: str | None
    rule: str | None
    """Of ours; None: the reply is a peer's."""


@dataclass(frozen=True, slots=True)
class Original:
    """The mail that the report is about."""

    id: UUID
    org_id: UUID
    domain: str | None
    """Its sender's; None: it is gone."""
    dsn: dict[str, Any]
    message_id: str
    arrived_at: datetime
    raw: bytes | None
    raw_blob: str | None
    requiretls: bool


async def owe(db: Connection, owed: Sequence[NewOwed]) -> list[UUID]:
    """Those whose sender asked for it (dsn.wishes), each once. Returns the emails that have a new one.

    `store.deliveries.by_index` is the caller's.
    """
    ordered = sorted(owed, key=lambda each: (each.email_id.int, each.n, each.action))
    rows = await db.fetch(
        _OWE, [each.email_id for each in ordered], [each.n for each in ordered], [each.action for each in ordered]
    )
    return list(dict.fromkeys(row["email_id"] for row in rows))


# RFC 3461 §4.1: without NOTIFY a failure is told
_OWE = """
INSERT INTO reports_owed (email_id, n, action, org_id)
SELECT t.email_id, t.n, t.action, e.org_id
FROM unnest($1::uuid[], $2::smallint[], $3::text[]) AS t (email_id, n, action)
JOIN emails e ON e.id = t.email_id
WHERE e.dsn->>'from' <> ''
  AND position(CASE t.action WHEN 'failed' THEN 'FAILURE' WHEN 'delayed' THEN 'DELAY' ELSE 'SUCCESS' END
               IN coalesce(e.dsn->'notify'->>t.n::integer, 'FAILURE')) > 0
ON CONFLICT DO NOTHING
RETURNING email_id
"""


async def owe_unsent(db: Connection, unsent: Sequence[Unsent]) -> None:
    """Of emails that are stored in this transaction."""
    if unsent:
        await db.execute(
            "INSERT INTO reports_owed (email_id, n, action, org_id) "
            "SELECT email_id, n, 'failed', org_id FROM unnest($1::uuid[], $2::smallint[], $3::uuid[]) AS t (email_id, n, org_id)",
            [each.email_id for each in unsent],
            [each.n for each in unsent],
            [each.org_id for each in unsent],
        )


async def due(db: Connection, most: int = 100) -> list[UUID]:
    """Emails with a report to write, those that waited longest first."""
    rows = await db.fetch(
        "SELECT email_id FROM reports_owed WHERE report_id IS NULL AND given_up IS NULL AND due_at <= now() "
        "GROUP BY email_id ORDER BY min(due_at) LIMIT $1",
        most,
    )
    return [row["email_id"] for row in rows]


async def take(db: Connection, email_id: UUID, *, pause: float) -> list[Taken]:
    """Claims what is due of that email: the next try is written first, `pause` seconds after the first and twice that each time."""
    rows = await db.fetch(_TAKE, email_id, pause)
    return [Taken(*row) for row in rows]


_TAKE = """
WITH taken AS (
  UPDATE reports_owed SET tries = tries + 1, due_at = now() + make_interval(secs => $2::float8 * 2 ^ least(tries, 10))
  WHERE email_id = $1 AND report_id IS NULL AND given_up IS NULL AND due_at <= now()
  RETURNING email_id, n, action, tries
)
SELECT t.n, t.action, t.tries, d.recipient, d.state, a.at, a.mx_host, a.code, a.enhanced_code, a.reply, a.rule
FROM taken t
JOIN deliveries d ON d.email_id = t.email_id AND d.n = t.n
LEFT JOIN LATERAL (
  SELECT at, mx_host, code, enhanced_code, reply, rule FROM attempts
  WHERE email_id = t.email_id AND n = t.n ORDER BY attempt DESC LIMIT 1
) a ON true
ORDER BY t.n
"""


async def original(db: Connection, email_id: UUID) -> Original | None:
    row = await db.fetchrow(_ORIGINAL, email_id)
    return None if row is None else Original(*row)


_ORIGINAL = """
SELECT e.id, e.org_id, d.name, e.dsn, e.message_id, e.created_at, e.raw, e.raw_blob, coalesce(e.requiretls, false)
FROM emails e LEFT JOIN domains d ON d.id = e.domain_id
WHERE e.id = $1 AND e.dsn IS NOT NULL
"""


async def told(db: Connection, email_id: UUID, action: str, ns: Sequence[int], report_id: UUID) -> bool:
    """These have that report. False: some have another by now, and nothing was written."""
    mine: int = await db.fetchval(_LOCK, email_id, action, ns)
    if mine < len(ns):
        return False
    await db.execute(
        "UPDATE reports_owed SET report_id = $4 WHERE email_id = $1 AND action = $2 AND n = ANY ($3::smallint[])",
        email_id,
        action,
        ns,
        report_id,
    )
    return True


_LOCK = """
SELECT count(*) FROM (
  SELECT FROM reports_owed
  WHERE email_id = $1 AND action = $2 AND n = ANY ($3::smallint[]) AND report_id IS NULL AND given_up IS NULL
  ORDER BY n FOR UPDATE
) AS locked
"""


async def give_up(db: Connection, email_id: UUID, ns: Sequence[int], why: str) -> None:
    await db.execute(
        "UPDATE reports_owed SET given_up = $3 WHERE email_id = $1 AND n = ANY ($2::smallint[]) AND report_id IS NULL",
        email_id,
        ns,
        why[:500],
    )


async def forget(db: Connection) -> int:
    gone: int = await db.fetchval(
        "WITH gone AS (DELETE FROM reports_owed WHERE created_at < now() - make_interval(days => $1) "
        "AND (report_id IS NOT NULL OR given_up IS NOT NULL) RETURNING 1) SELECT count(*) FROM gone",
        KEPT_DAYS,
    )
    return gone
