"""Rows of `queue` for which no source has room today: put off, called when there is room. Role worker.

1. `readers`              whose mail goes first
2. `put_off`              a leased row waits, for a pool's room or a sending domain's (`queue.waits_for`), with its turn
3. `overflow`             or it takes the route that the pool names for what has no room
4. `waited_for`, `call`   as many as there is room for are due again, of every organization its part
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from mailcore.kit.ids import lower_bound
from mailcore.store.deliveries import HELD, Key, Leased, in_order
from mailcore.store.plans import by_index
from mailcore.store.session import Connection

READER_DAYS = 90
"""Who opened or clicked since then reads."""


async def readers(db: Connection, rows: Sequence[Leased], now: datetime) -> set[Key]:
    """Keys of those whose recipient opened or clicked a mail of the same organization within READER_DAYS."""
    await by_index(db)
    found = await db.fetch(
        _READERS,
        [row.email_id for row in rows],
        [row.n for row in rows],
        [row.org_id for row in rows],
        [row.recipient for row in rows],
        lower_bound(now - timedelta(days=READER_DAYS)),
    )
    return {(row["email_id"], row["n"]) for row in found}


# by the index that searches use (deliveries_recipient), then one probe of engagements a mail
_READERS = """
SELECT t.email_id, t.n FROM unnest($1::uuid[], $2::smallint[], $3::uuid[], $4::text[]) AS t (email_id, n, org_id, recipient)
WHERE EXISTS (
  SELECT FROM deliveries d JOIN engagements g ON g.email_id = d.email_id AND g.org_id = d.org_id
  WHERE hashtext(d.org_id::text || lower(d.recipient)) = hashtext(t.org_id::text || lower(t.recipient))
    AND d.org_id = t.org_id AND lower(d.recipient) = lower(t.recipient) AND d.email_id >= $5 AND g.email_id >= $5
    AND (g.opened_at IS NOT NULL OR g.clicked_at IS NOT NULL)
)
"""


@dataclass(frozen=True, slots=True)
class Wait:
    row: Leased
    waits_for: UUID
    """The pool, or the warm-up of a sending domain."""
    turn: int
    seconds: float
    """Until it is due by itself, when nobody calls it earlier."""


async def put_off(db: Connection, waits: Sequence[Wait]) -> int:
    """Leased rows that were not begun wait: their attempt does not count. Only where the lease is still mine; returns how many."""
    await by_index(db)
    waits = sorted(waits, key=lambda wait: wait.row.key)  # as deliveries.in_order
    put: int = await db.fetchval(
        _PUT_OFF,
        [wait.row.email_id for wait in waits],
        [wait.row.n for wait in waits],
        [wait.row.attempt for wait in waits],
        [wait.row.worker for wait in waits],
        [wait.row.leased_at for wait in waits],
        [wait.waits_for for wait in waits],
        [wait.turn for wait in waits],
        [wait.seconds for wait in waits],
    )
    return put


_PUT_OFF = f"""
WITH put AS (
  UPDATE queue q SET worker = NULL, leased_at = NULL, dot_sent = false, attempt = q.attempt - 1,
                     due_at = now() + make_interval(secs => t.seconds), waits_for = t.waits_for, turn = t.turn
  FROM unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::bigint[], $5::timestamptz[], $6::uuid[], $7::smallint[], $8::float8[])
    AS t (email_id, n, attempt, worker, leased_at, waits_for, turn, seconds)
  WHERE q.email_id = t.email_id AND q.n = t.n AND {HELD}
  RETURNING 1
)
SELECT count(*) FROM put
"""


async def overflow(db: Connection, rows: Sequence[Leased], route: int) -> set[Key]:
    """Leased rows that were not begun take that route, due at once and without an attempt. Only where the lease is still mine, and
    not those that came by this route already; returns the keys of those that do."""
    await by_index(db)
    rows = in_order(rows)
    await db.execute(_LANES, list({row.lane_id for row in rows}), route)
    moved = await db.fetch(
        _OVERFLOW,
        [row.email_id for row in rows],
        [row.n for row in rows],
        [row.attempt for row in rows],
        [row.worker for row in rows],
        [row.leased_at for row in rows],
        route,
    )
    return {(row["email_id"], row["n"]) for row in moved}


_LANES = """
INSERT INTO lanes (org_id, domain, class, route_id)
SELECT DISTINCT org_id, domain, class, $2::bigint FROM lanes WHERE id = ANY ($1::bigint[]) AND route_id <> $2
ORDER BY org_id, domain, class
ON CONFLICT DO NOTHING
"""
_OVERFLOW = f"""
UPDATE queue q SET worker = NULL, leased_at = NULL, dot_sent = false, attempt = q.attempt - 1, due_at = now(), lane_id = there.id
FROM unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::bigint[], $5::timestamptz[])
    AS t (email_id, n, attempt, worker, leased_at),
  lanes here, lanes there
WHERE q.email_id = t.email_id AND q.n = t.n AND {HELD}
  AND here.id = q.lane_id AND here.route_id <> $6
  AND there.org_id = here.org_id AND there.domain = here.domain AND there.class = here.class AND there.route_id = $6
RETURNING q.email_id, q.n
"""


async def waited_for(db: Connection, ids: Collection[UUID]) -> set[UUID]:
    """Those of these pools and warm-ups for whose room somebody waits, and is to be called: one probe of the index each."""
    await by_index(db)
    rows = await db.fetch(
        "SELECT id FROM unnest($1::uuid[]) AS t (id) WHERE EXISTS "
        "(SELECT FROM queue q WHERE q.waits_for = t.id AND q.worker IS NULL AND q.turn < 3)",
        list(ids),
    )
    return {row["id"] for row in rows}


async def call(db: Connection, id_: UUID, turn: int, most: int) -> int:
    """Makes up to `most` rows due that wait for it and have that turn: as many of each organization, its oldest first; returns how
    many. Where one has fewer, the others get no more: the next call does."""
    await by_index(db)
    called: int = await db.fetchval(_CALL, id_, turn, most)
    return called


# one probe of the index an organization, however many rows it has; where there is less room than organizations, chance decides
_CALL = """
WITH RECURSIVE org (id) AS (
  (SELECT org_id FROM queue WHERE waits_for = $1 AND turn = $2 AND worker IS NULL ORDER BY org_id LIMIT 1)
  UNION ALL
  SELECT (SELECT q.org_id FROM queue q
          WHERE q.waits_for = $1 AND q.turn = $2 AND q.worker IS NULL AND q.org_id > org.id ORDER BY q.org_id LIMIT 1)
  FROM org WHERE org.id IS NOT NULL
), turns AS MATERIALIZED (
  SELECT id, ceil($3::float8 / count(*) OVER ())::bigint AS part FROM org WHERE id IS NOT NULL ORDER BY random()
), picked AS MATERIALIZED (
  SELECT row.ctid FROM turns CROSS JOIN LATERAL (
    SELECT q.ctid FROM queue q
    WHERE q.waits_for = $1 AND q.turn = $2 AND q.org_id = turns.id AND q.worker IS NULL
    ORDER BY q.email_id LIMIT turns.part FOR UPDATE SKIP LOCKED
  ) row
  LIMIT $3
), called AS (
  UPDATE queue q SET due_at = now(), waits_for = NULL, turn = NULL FROM picked WHERE q.ctid = picked.ctid RETURNING 1
)
SELECT count(*) FROM called
"""


async def let_go(db: Connection, id_: UUID) -> None:
    """All that wait for it are due: it is there no more."""
    await by_index(db)
    await db.execute(
        "UPDATE queue SET due_at = now(), waits_for = NULL, turn = NULL WHERE waits_for = $1 AND worker IS NULL", id_
    )
