"""What the operator orders of waiting mail: which rows it is about, what was done to them, and the record of it. Role worker.

An order is about rows that nobody has leased. Those under way end as they end; a row that saw its worker die is left to
store.deliveries and store.leases. Rows are found lane by lane and by index, a batch a transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg

from mailcore.kit.ids import lower_bound, uuid7
from mailcore.store.lanes import LANES_WITH_ROWS
from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection
from mailcore.store.ways import TAKEN, add_route, known

BATCH = 500
SURVEY_ROWS = 10_000
"""Rows that a survey counts at most."""
BY_ORDER = "postroom:order"
"""Tag of routes that mail takes by order only: a tag's name has no colon."""
NAMED = 20
SAMPLE = 5

Verb = Literal["hold", "resume", "flush", "reroute", "bounce", "purge"]


@dataclass(frozen=True, slots=True)
class Query:
    """Which waiting mail; what is None does not matter."""

    site_id: int | None = None
    org_id: UUID | None = None
    domain: str | None = None
    """Of the recipient."""
    class_: int | None = None
    """0 transactional, 1 broadcast."""
    from_domain: str | None = None
    recipient: str | None = None
    email_id: UUID | None = None
    before: datetime | None = None
    """Submitted before that."""
    scheduled: bool = False
    """Mail that waits for its time, too."""
    requiretls: bool = True
    """Mail with REQUIRETLS, too; False: without that, which no provider's API can promise (RFC 8689 §4.2.1)."""


@dataclass(frozen=True, slots=True)
class Order:
    id: UUID
    verb: Verb
    query: dict[str, Any]
    detail: dict[str, Any]
    reason: str
    ordered_by: str
    state: str
    """waiting, done, failed."""
    touched: int
    """Deliveries, so far."""
    error: str | None
    created_at: datetime
    done_at: datetime | None


@dataclass(frozen=True, slots=True)
class Touches:
    """What an order is about."""

    deliveries: int
    at_least: bool
    """There are more than were counted."""
    lanes: int
    sites: list[str]
    """Keys, NAMED at most."""
    organizations: list[UUID]
    sample: list[asyncpg.Record]
    """SAMPLE rows: email_id, n, recipient, due_at."""
    left: int = 0
    """Deliveries that the query means and the order leaves where they are: mail with REQUIRETLS; SURVEY_ROWS at most."""


_COLUMNS = "id, verb, query, detail, reason, ordered_by, state, touched, error, created_at, done_at"


async def insert(
    db: Connection,
    id_: UUID,
    verb: Verb,
    query: dict[str, Any],
    *,
    detail: dict[str, Any],
    reason: str,
    ordered_by: str,
    done: bool,
    touched: int = 0,
) -> Order:
    """`done`: it was carried out in this transaction."""
    row = await db.fetchrow(
        "INSERT INTO queue_orders (id, verb, query, detail, reason, ordered_by, state, touched, done_at) "
        f"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, CASE WHEN $7 = 'done' THEN now() END) RETURNING {_COLUMNS}",
        *(id_, verb, query, detail, reason, ordered_by, "done" if done else "waiting", touched),
    )
    assert row is not None
    return Order(*row)


async def get(db: Connection, id_: UUID) -> Order | None:
    row = await db.fetchrow(f"SELECT {_COLUMNS} FROM queue_orders WHERE id = $1", id_)
    return Order(*row) if row else None


async def lock(db: Connection, id_: UUID) -> None:
    """Two that carry out one order take turns: they would pass over each other's rows, and call it done before it is."""
    await db.execute("SELECT FROM queue_orders WHERE id = $1 FOR NO KEY UPDATE", id_)


async def waiting(db: Connection) -> list[UUID]:
    rows = await db.fetch("SELECT id FROM queue_orders WHERE state = 'waiting' ORDER BY created_at LIMIT 100")
    return [row["id"] for row in rows]


async def progress(db: Connection, id_: UUID, touched: int) -> bool:
    """False: it is not waiting any more."""
    return bool(
        await db.fetchval(
            "UPDATE queue_orders SET touched = touched + $2 WHERE id = $1 AND state = 'waiting' RETURNING true",
            id_,
            touched,
        )
    )


async def finish(db: Connection, id_: UUID, error: str | None = None) -> None:
    await db.execute(
        "UPDATE queue_orders SET state = CASE WHEN $2::text IS NULL THEN 'done' ELSE 'failed' END, error = $2, done_at = now() "
        "WHERE id = $1 AND state = 'waiting'",
        id_,
        error,
    )


# ---- which rows ------------------------------------------------------------------------------------------------------


async def lanes(db: Connection, query: Query) -> list[int]:
    """Those with waiting rows that may be meant. After `site_list.bounded` or `deliveries.by_index`."""
    if query.email_id is not None:
        rows = await db.fetch(_LANES_OF_EMAIL, query.site_id, query.org_id, query.domain, query.class_, query.email_id)
    else:
        rows = await db.fetch(_LANES, query.site_id, query.org_id, query.domain, query.class_)
    return [row["lane_id"] for row in rows]


_MEANT = f"""
JOIN lanes l ON l.id = step.lane_id
JOIN recipient_domains r ON r.domain = l.domain
{TAKEN}
WHERE ($1::bigint IS NULL OR s.id = $1) AND ($2::uuid IS NULL OR l.org_id = $2) AND ($3::text IS NULL OR l.domain = $3)
  AND ($4::smallint IS NULL OR l.class = $4)
ORDER BY 1
"""
_LANES = f"{LANES_WITH_ROWS} SELECT step.lane_id FROM step {_MEANT}"
_LANES_OF_EMAIL = f"SELECT DISTINCT step.lane_id FROM (SELECT lane_id FROM queue WHERE email_id = $5) step {_MEANT}"

# $2 submitted before (as an id), $3 sender's domain, $4 recipient, $5 email, $6 scheduled mail too.
# Mail that waits for its time is due in the future and was never begun; nothing else is both, but for what waits for room.
# What is locked is met again by its key: a row that moved before it was locked has a ctid that the statement does not see.
_ROWS = """
SELECT q.email_id, q.n, q.org_id, q.attempt, q.due_at, q.lane_id FROM queue q
WHERE q.lane_id = {lane} AND q.worker IS NULL AND q.crashes = 0
  AND ($2::uuid IS NULL OR q.email_id < $2)
  AND ($5::uuid IS NULL OR q.email_id = $5)
  AND ($6 OR q.attempt > 0 OR q.due_at <= now() OR q.waits_for IS NOT NULL)
  AND ($4::text IS NULL OR EXISTS (
    SELECT FROM deliveries d WHERE d.email_id = q.email_id AND d.n = q.n AND lower(d.recipient COLLATE "C") = $4))
  AND ($3::text IS NULL OR EXISTS (
    SELECT FROM emails e JOIN domains o ON o.id = e.domain_id WHERE e.id = q.email_id AND o.name = $3))
"""
_STRICT = "EXISTS (SELECT FROM emails e WHERE e.id = q.email_id AND e.requiretls)"
_LAX_ROWS = f"{_ROWS}  AND NOT {_STRICT}\n"
_STRICT_ROWS = f"{_ROWS}  AND {_STRICT}\n"


def _arguments(query: Query) -> list[Any]:
    return [
        None if query.before is None else lower_bound(query.before),
        query.from_domain,
        query.recipient,
        query.email_id,
        query.scheduled,
    ]


async def survey(db: Connection, query: Query) -> Touches:
    """What an order would touch, counted up to SURVEY_ROWS. After `site_list.bounded`."""
    found = await lanes(db, query)
    rows = _ROWS if query.requiretls else _LAX_ROWS
    row = await db.fetchrow(_survey(rows), found, *_arguments(query), SURVEY_ROWS, NAMED)
    sample = await db.fetch(_sample(rows), found, *_arguments(query), SAMPLE)
    assert row is not None
    left = 0
    if not query.requiretls:
        left = await db.fetchval(_count(_STRICT_ROWS), found, *_arguments(query), SURVEY_ROWS)
    count = row["deliveries"]
    return Touches(
        *(min(count, SURVEY_ROWS), count > SURVEY_ROWS, row["lanes"], row["sites"], row["organizations"], list(sample)),
        left=min(left, SURVEY_ROWS),
    )


def _meant_rows(rows: str) -> str:
    return f"unnest($1::bigint[]) AS lane (id) CROSS JOIN LATERAL ({rows.format(lane='lane.id')} LIMIT $7 + 1) meant"


def _survey(rows: str) -> str:
    return f"""
WITH meant AS MATERIALIZED (SELECT meant.lane_id, meant.org_id FROM {_meant_rows(rows)} LIMIT $7 + 1)
SELECT count(*) AS deliveries, count(DISTINCT lane_id) AS lanes,
       ARRAY(SELECT DISTINCT s.key FROM (SELECT DISTINCT lane_id FROM meant) m JOIN lanes l ON l.id = m.lane_id
             JOIN recipient_domains r ON r.domain = l.domain {TAKEN} ORDER BY 1 LIMIT $8) AS sites,
       ARRAY(SELECT DISTINCT org_id FROM meant ORDER BY 1 LIMIT $8) AS organizations
FROM meant
"""


def _sample(rows: str) -> str:
    return f"""
SELECT found.email_id, found.n, d.recipient, found.due_at
FROM (SELECT meant.email_id, meant.n, meant.due_at FROM {_meant_rows(rows)} ORDER BY meant.due_at LIMIT $7) found
JOIN deliveries d ON d.email_id = found.email_id AND d.n = found.n
"""


def _count(rows: str) -> str:
    return f"SELECT count(*) FROM (SELECT FROM {_meant_rows(rows)} LIMIT $7 + 1) counted"


# ---- what is done to them: a batch of one lane each, in the caller's transaction ---------------------------------------


@dataclass(frozen=True, slots=True)
class Ended:
    email_id: UUID
    n: int
    org_id: UUID
    recipient: str


async def flush(db: Connection, lane: int, query: Query) -> int:
    """Due now. Returns how many; fewer than BATCH: that was all."""
    count: int = await db.fetchval(_FLUSH, lane, *_arguments(query), BATCH)
    return count


_FLUSH = f"""
WITH picked AS MATERIALIZED ({_ROWS.format(lane="$1::bigint")} AND q.due_at > now() LIMIT $7 FOR UPDATE OF q SKIP LOCKED),
moved AS (UPDATE queue q SET due_at = now(), waits_for = NULL, turn = NULL FROM picked
  WHERE q.email_id = picked.email_id AND q.n = picked.n RETURNING 1)
SELECT count(*) FROM moved
"""


async def end(db: Connection, lane: int, query: Query, *, verb: Literal["bounce", "purge"], words: str) -> list[Ended]:
    """No longer queued: bounced with these words, or cancelled; each with an attempt that tells it. Fewer than BATCH: all."""
    bounced = verb == "bounce"
    rows = await db.fetch(
        _END,
        *(lane, *_arguments(query), BATCH),
        "bounced" if bounced else "cancelled",
        "bounced" if bounced else "canceled",
        "bounced" if bounced else "purged",
        words,
    )
    return [Ended(*row) for row in rows]


_END = f"""
WITH picked AS MATERIALIZED ({_ROWS.format(lane="$1::bigint")} LIMIT $7 FOR UPDATE OF q SKIP LOCKED),
gone AS (DELETE FROM queue q USING picked WHERE q.email_id = picked.email_id AND q.n = picked.n),
moved AS (
  UPDATE deliveries d SET state = $8, last_event = $9, last_event_at = now()
  FROM picked WHERE d.email_id = picked.email_id AND d.n = picked.n
  RETURNING d.email_id, d.n, d.org_id, d.recipient
), noted AS (
  INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, code, enhanced_code, reply, rule)
  SELECT email_id, n, attempt + 1, org_id, now(), $10, CASE WHEN $10 = 'bounced' THEN 554 END,
         CASE WHEN $10 = 'bounced' THEN '5.7.0' END, $11, 'operator'
  FROM picked
)
SELECT email_id, n, org_id, recipient FROM moved
"""


async def lane_route(db: Connection, way_id: UUID) -> int | None:
    """What lanes name that way of the installation by, for mail that is sent by it by order; None: there is no such way.

    It is a route of the installation as others are, by a tag that no mail can bear: the operator sees it in the list, and what
    waits in its lanes goes the default way again once it is removed.
    """
    if not await known(db, None, [way_id]):
        return None
    tag = {"tag_name": BY_ORDER, "tag_value": str(way_id)}
    await add_route(db, route_id=uuid7(), org_id=None, for_org=None, domain_id=None, ways=[way_id], **tag)
    found: int = await db.fetchval(
        "SELECT lane_route FROM routes_out WHERE org_id IS NULL AND tag_name = $1 AND tag_value = $2",
        BY_ORDER,
        str(way_id),
    )
    return found


async def reroute(db: Connection, lane: int, query: Query, route: int) -> int:
    """To the lane of that route (0: the domain's own site), and due now. Returns how many; fewer than BATCH: that was all."""
    await db.execute(
        "INSERT INTO lanes (org_id, domain, class, route_id) SELECT org_id, domain, class, $2 FROM lanes "
        "WHERE id = $1 AND route_id <> $2 ON CONFLICT (org_id, domain, class, route_id) DO NOTHING",
        *(lane, route),
    )
    rows = _ROWS if query.requiretls else _LAX_ROWS
    count: int = await db.fetchval(_reroute(rows), lane, *_arguments(query), BATCH, route)
    return count


def _reroute(rows: str) -> str:
    return f"""
WITH target AS MATERIALIZED (
  SELECT there.id FROM lanes here
  JOIN lanes there ON there.org_id = here.org_id AND there.domain = here.domain AND there.class = here.class
  WHERE here.id = $1 AND here.route_id <> $8 AND there.route_id = $8
), picked AS MATERIALIZED (
  {rows.format(lane="$1::bigint")} AND EXISTS (SELECT FROM target) LIMIT $7 FOR UPDATE OF q SKIP LOCKED
), moved AS (
  UPDATE queue q
  SET lane_id = target.id, due_at = CASE WHEN q.attempt > 0 OR q.waits_for IS NOT NULL THEN now() ELSE q.due_at END,
      waits_for = NULL, turn = NULL
  FROM picked, target WHERE q.email_id = picked.email_id AND q.n = picked.n RETURNING 1
)
SELECT count(*) FROM moved
"""


async def leave(db: Connection, lane: int, query: Query, order: Order, words: str) -> int:
    """Mail with REQUIRETLS stays where it is, and its attempts say so, numbered below 0. Once an order. Fewer than BATCH: all."""
    count: int = await db.fetchval(_LEAVE, lane, *_arguments(query), BATCH, order.created_at, words)
    return count


_LEAVE = f"""
WITH picked AS MATERIALIZED (
  {_STRICT_ROWS.format(lane="$1::bigint")}
  AND NOT EXISTS (SELECT FROM attempts a
                  WHERE a.email_id = q.email_id AND a.n = q.n AND a.attempt < 0 AND a.at >= $8) LIMIT $7
  FOR UPDATE OF q SKIP LOCKED
), noted AS (
  INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, reply, rule)
  SELECT email_id, n,
         (SELECT least(min(a.attempt), 0) - 1 FROM attempts a WHERE a.email_id = picked.email_id AND a.n = picked.n),
         org_id, clock_timestamp(), 'left', $9, 'operator'
  FROM picked RETURNING 1
)
SELECT count(*) FROM noted
"""


async def left(db: Connection, id_: UUID, count: int) -> None:
    """So many more that the order left where they are."""
    await db.execute(
        "UPDATE queue_orders SET detail = detail || jsonb_build_object('left', coalesce((detail->>'left')::int, 0) + $2::int) "
        "WHERE id = $1 AND state = 'waiting'",
        *(id_, count),
    )


async def page(db: Connection, asked: Page) -> Slice:
    """Orders, the latest first."""
    found = await fetch(db, f"SELECT {_COLUMNS} FROM queue_orders WHERE true", [], asked)
    return Slice([Order(*row) for row in found.rows], found.has_more)
