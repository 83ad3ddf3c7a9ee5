"""Counts of events for metrics: kept by the quarter of an hour, and the newest read from the events themselves.

An event knows the transaction that raised it (`events.xid`). What is older than `event_counts_mark.xid` is in `event_counts`, the
rest is not; both are read in one statement, of one snapshot. So an event counts exactly once, however late its transaction commits
and whatever clock its process has. Who counts moves the mark in the transaction that adds, and only to where no transaction is
under way.

Kinds: sent, delivered, delivery_delayed, bounced_permanent, bounced_transient, bounced_undetermined, complained, suppressed,
failed: by recipient. test_delivered, test_bounced_permanent, test_complained: those of them that were to test addresses, which
say nothing about a reputation. opened and clicked: every one but those of scanners. unique_opened and unique_clicked: a person's
first of an email, which no scanner made and no proxy that asks for every mail. received: by email. unsubscribed: by recipient and
list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from mailcore.kit.ids import lower_bound
from mailcore.store.sent import TooMuch
from mailcore.store.session import Connection

STEP = 20_000
"""Events of one transaction of `add_up`; one that raised more is one step."""
NO_DOMAIN = UUID(int=0)
READ_SECONDS = 5
"""The longest that metrics may be looked for."""

# `raised (org_id, type, object_id, recipients, detail, created_at)` → `kinds (org_id, object_id, created_at, recipients, kind, n)`
_KINDS = """
kinds AS (
  SELECT e.org_id, e.object_id, e.created_at, e.recipients, k.kind,
         CASE WHEN e.type = 'email.sent' AND e.recipients IS NULL
              THEN (SELECT count(*) FROM deliveries d WHERE d.email_id = e.object_id AND d.state <> 'suppressed')
              WHEN e.type IN ('email.opened', 'email.clicked', 'email.received') THEN 1
              ELSE coalesce(cardinality(e.recipients), 1) END AS n
  FROM raised e CROSS JOIN LATERAL (
    SELECT CASE
      WHEN e.type = 'email.bounced' THEN 'bounced_' || CASE lower(e.detail #>> '{bounce,type}')
        WHEN 'permanent' THEN 'permanent' WHEN 'transient' THEN 'transient' ELSE 'undetermined' END
      WHEN coalesce(e.detail #> '{open,scanner}', e.detail #> '{click,scanner}', 'false') = 'false'
        THEN substr(e.type, 7) END AS kind
    UNION ALL
    SELECT 'unique_' || substr(e.type, 7) WHERE e.detail->'first' = 'true' AND e.type IN ('email.opened', 'email.clicked')
    UNION ALL
    SELECT 'test_' || CASE e.type WHEN 'email.bounced' THEN 'bounced_permanent' ELSE substr(e.type, 7) END
    WHERE e.detail->'test' = 'true' AND e.type IN ('email.delivered', 'email.bounced', 'email.complained')
  ) k
  WHERE k.kind IS NOT NULL
), placed AS (
  SELECT k.org_id, k.object_id, k.kind, k.n, date_bin('15 minutes', k.created_at, '2000-01-01Z') AS at,
         coalesce(CASE WHEN k.kind = 'received'
                       THEN (SELECT d.id FROM domains d WHERE d.org_id = k.org_id
                             AND d.name = lower(split_part(k.recipients[1], '@', -1)))
                       ELSE (SELECT m.domain_id FROM emails m WHERE m.id = k.object_id) END,
                  '00000000-0000-0000-0000-000000000000') AS domain_id
  FROM kinds k
)
"""
_COUNTED = (
    "('email.sent', 'email.delivered', 'email.delivery_delayed', 'email.bounced', 'email.complained', 'email.suppressed', "
    "'email.failed', 'email.opened', 'email.clicked', 'email.received', 'email.unsubscribed')"
)


# ---- adding up: role worker ------------------------------------------------------------------------------------------


async def begin(db: Connection) -> int | None:
    """The mark, locked until the transaction ends; None: somebody else is adding up."""
    return await db.fetchval("SELECT xid FROM event_counts_mark FOR UPDATE SKIP LOCKED")  # type: ignore[no-any-return]


async def ended(db: Connection) -> int:
    """Every transaction below it has ended; those that are still to commit are not."""
    return await db.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")  # type: ignore[no-any-return]


async def add_up(db: Connection, mark: int, end: int) -> int:
    """One step from the mark towards `end`, as `ended` gave it; after `begin`. Returns the mark's new place.

    The same when there is nothing to add: moving it would be a transaction too, and the next look find it behind again.
    """
    ahead: list[asyncpg.Record] = await db.fetch(_AHEAD, mark, end, STEP)
    if not ahead:
        return (
            mark  # nor is it moved: that would be a transaction too, and the next look would find the mark behind again
        )
    if ahead[-1]["place"] > STEP:
        end = max(ahead[-1]["xid"], mark + 1)
    await db.execute(_ADD_UP, mark, end)
    await db.execute("UPDATE event_counts_mark SET xid = $1", end)
    return end


async def is_ahead(db: Connection, mark: int) -> bool:
    """The mark is past every transaction of this server: the database was restored into another one, whose xids began anew."""
    return await db.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint < $1", mark)  # type: ignore[no-any-return]


async def start_anew(db: Connection) -> None:
    """Everything is to be counted again."""
    await db.execute("DELETE FROM event_counts")
    await db.execute("UPDATE events SET xid = 1")
    await db.execute("UPDATE event_counts_mark SET xid = 0")


# the first event that is to be added, and the first that is one too many
_AHEAD = """
(SELECT xid, 1 AS place FROM events WHERE xid >= $1 AND xid < $2 ORDER BY xid LIMIT 1)
UNION ALL
(SELECT xid, $3 + 1 FROM events WHERE xid >= $1 AND xid < $2 ORDER BY xid OFFSET $3 LIMIT 1)
ORDER BY place
"""
_ADD_UP = f"""
WITH raised AS (
  SELECT org_id, type, object_id, recipients, detail, created_at FROM events
  WHERE xid >= $1 AND xid < $2 AND type IN {_COUNTED}
), {_KINDS}
INSERT INTO event_counts AS c (org_id, at, domain_id, kind, n)
SELECT org_id, at, domain_id, kind, sum(n) FROM placed GROUP BY org_id, at, domain_id, kind
ON CONFLICT (org_id, at, domain_id, kind) DO UPDATE SET n = c.n + excluded.n
"""


# ---- reading: role app -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    start: datetime
    end: datetime
    """Exclusive. Both are at a quarter of an hour."""
    zone: str
    granularity: str | None
    """`hour`, `day`, `week`, `month`: by period; None: the whole range."""
    by_domain: bool = False
    by_email: bool = False
    domain_ids: Sequence[UUID] | None = None
    email_ids: Sequence[UUID] | None = None


async def read(db: Connection, asked: Asked) -> list[asyncpg.Record]:
    """`(period, domain_id, email_id, kind, n)`; what is not asked for by is NULL. `period`: when it begins. Raises TooMuch."""
    await db.execute(f"SET LOCAL statement_timeout = '{READ_SECONDS}s'")
    try:
        return await _read(db, asked)
    except asyncpg.QueryCanceledError:
        raise TooMuch from None


async def _read(db: Connection, asked: Asked) -> list[asyncpg.Record]:
    args = [asked.zone, asked.granularity, asked.start, asked.end, asked.by_domain, asked.domain_ids]
    rows: list[asyncpg.Record]
    if asked.by_email or asked.email_ids is not None:
        rows = await db.fetch(
            _OF_EMAILS, *args, asked.by_email, asked.email_ids, lower_bound(asked.start), lower_bound(asked.end)
        )
    else:
        rows = await db.fetch(_OF_ALL, *args)
    return rows


_LEFT = f"""
left_lists AS (
  SELECT u.created_at AS at, coalesce((SELECT m.domain_id FROM emails m WHERE m.id = u.email_id), '{NO_DOMAIN}') AS domain_id,
         'unsubscribed' AS kind, 1::bigint AS n, u.email_id AS object_id
  FROM unsubscribes u WHERE u.org_id = (SELECT current_org()) AND u.created_at >= $3 AND u.created_at < $4
)
"""
_SUMMED = """
SELECT CASE WHEN $2::text IS NOT NULL THEN date_trunc($2, at, $1) END AS period,
       CASE WHEN $5 THEN domain_id END AS domain_id, {email} AS email_id, kind, sum(n)::bigint AS n
FROM ({rows}) AS t
WHERE at >= $3 AND at < $4 AND ($6::uuid[] IS NULL OR domain_id = ANY ($6))
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4 LIMIT 200000
"""
_OF_ALL = f"""
WITH raised AS (
  SELECT org_id, type, object_id, recipients, detail, created_at FROM events
  WHERE org_id = (SELECT current_org()) AND xid >= (SELECT xid FROM event_counts_mark) AND type IN {_COUNTED}
), {_KINDS}, {_LEFT}
{
    _SUMMED.format(
        email="NULL::uuid",
        rows="SELECT at, domain_id, kind, n FROM event_counts WHERE org_id = (SELECT current_org()) AND at >= $3 AND at < $4 "
        "UNION ALL SELECT at, domain_id, kind, n FROM placed "
        "UNION ALL SELECT at, domain_id, kind, n FROM left_lists",
    )
}
"""
# an email's events are found by it: those named, or those of the range. That of its submit is in no index, but follows from it
_OF_EMAILS = f"""
WITH wanted AS (
  SELECT id FROM emails WHERE org_id = (SELECT current_org()) AND id = ANY ($8::uuid[])
  UNION ALL
  SELECT id FROM emails WHERE $8::uuid[] IS NULL AND org_id = (SELECT current_org()) AND id >= $9 AND id < $10
), raised AS (
  SELECT e.org_id, e.type, e.object_id, e.recipients, e.detail, e.created_at
  FROM wanted w JOIN events e ON e.object_id = w.id
  WHERE e.type IN {_COUNTED} AND NOT (e.type IN ('email.sent', 'email.scheduled') AND e.recipients IS NULL)
  UNION ALL
  SELECT m.org_id, 'email.sent', m.id, NULL, NULL, m.created_at
  FROM wanted w JOIN emails m ON m.id = w.id WHERE m.scheduled_at IS NULL
), {_KINDS}, {_LEFT}
{
    _SUMMED.format(
        email="CASE WHEN $7 THEN object_id END",
        rows="SELECT at, domain_id, kind, n, object_id FROM placed "
        "UNION ALL SELECT l.at, l.domain_id, l.kind, l.n, l.object_id FROM left_lists l JOIN wanted w ON w.id = l.object_id",
    )
}
"""
