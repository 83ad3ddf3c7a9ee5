"""Rows of `queue` that may not leave now: no source has room today or reaches their site, or their domain is paused. Role worker.

1. `readers`              whose mail goes first
2. `put_off`              a leased row waits, for a pool, a warm-up or a sending domain (`queue.waits_for`), with its turn
3. `overflow`             or it takes the route that the pool names for what has no room
4. `waited_for`, `call`   as many as there is room for are due again, of every organization its part
5. `over`, `let_go`       what waits for nothing any more is due
6. `why`, `of_email`      what they wait for, in words: for who sent it, in its events and its delivery reports
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from mailcore.kit.ids import lower_bound
from mailcore.store.deliveries import HELD, Key, Leased, in_order
from mailcore.store.plans import by_index
from mailcore.store.session import Connection

TRANSACTIONAL_TURN, READERS_TURN, OTHERS_TURN, YIELDED_TURN, UNREACHED_TURN, PAUSED_TURN = range(6)
"""What waits, and in which order room is given to it: the first three are called. The others are due by themselves: what left its
room to readers, and what no source of its pool can bring to its site. Mail of a paused domain is let go."""
PLANNED = (READERS_TURN, OTHERS_TURN, YIELDED_TURN)
"""Of broadcasts: a warm-up spreads them over days."""

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
    """The pool, the warm-up of a sending domain, or the paused domain itself."""
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
        "(SELECT FROM queue q WHERE q.waits_for = t.id AND q.worker IS NULL AND q.turn <= $2)",
        list(ids),
        OTHERS_TURN,
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


async def over(db: Connection) -> list[UUID]:
    """What rows wait for in vain: a domain that is not paused any more, or that is gone, as pools and warm-ups may be. One probe of
    the index for each pool, warm-up and domain that is waited for."""
    await by_index(db)
    return [row["id"] for row in await db.fetch(_OVER)]


_OVER = """
WITH RECURSIVE each (id) AS (
  (SELECT waits_for FROM queue WHERE waits_for IS NOT NULL AND worker IS NULL ORDER BY waits_for LIMIT 1)
  UNION ALL
  SELECT (SELECT q.waits_for FROM queue q WHERE q.waits_for > each.id AND q.worker IS NULL ORDER BY q.waits_for LIMIT 1)
  FROM each WHERE each.id IS NOT NULL
)
SELECT id FROM each
WHERE id IS NOT NULL
  AND NOT EXISTS (SELECT FROM pools p WHERE p.id = each.id) AND NOT EXISTS (SELECT FROM warmups w WHERE w.id = each.id)
  AND NOT EXISTS (SELECT FROM domains d JOIN alarms a ON a.org_id = d.org_id AND a.domain = d.name
                  WHERE d.id = each.id AND a.action = 'paused' AND a.ended_at IS NULL)
"""


async def let_go(db: Connection, id_: UUID, most: int | None = None) -> int:
    """All that wait for it are due, or up to so many: it is there no more. Returns how many."""
    await by_index(db)
    count: int = await db.fetchval(_LET_GO, id_, most)
    return count


_LET_GO = """
WITH picked AS MATERIALIZED (
  SELECT q.ctid FROM queue q WHERE q.waits_for = $1 AND q.worker IS NULL LIMIT $2 FOR UPDATE SKIP LOCKED
), called AS (
  UPDATE queue q SET due_at = now(), waits_for = NULL, turn = NULL FROM picked WHERE q.ctid = picked.ctid RETURNING 1
)
SELECT count(*) FROM called
"""


async def of_email(db: Connection, org_id: UUID, email_id: UUID) -> dict[int, str]:
    """By recipient what its mail waits for, of those that wait (`why`)."""
    rows = await db.fetch(
        "SELECT n, waits_for, turn FROM queue "
        "WHERE email_id = $2 AND org_id = $1 AND worker IS NULL AND waits_for IS NOT NULL",
        org_id,
        email_id,
    )
    words = await why(db, [(row["waits_for"], row["turn"]) for row in rows])
    return {row["n"]: words[row["waits_for"], row["turn"]] for row in rows}


async def why(db: Connection, waits: Iterable[tuple[UUID, int]]) -> dict[tuple[UUID, int], str]:
    """By what is waited for and the turn; a clause without an end, in words that its sender may read."""
    waits = set(waits)
    if not waits:
        return {}
    rows = {row["id"]: row for row in await db.fetch(_WHY, [id_ for id_, _ in waits], ADDRESSES)}
    return {(id_, turn): _words(rows[id_], turn) for id_, turn in waits}


ADDRESSES = 3
"""Of a pool, that are named."""
_WHY = """
SELECT t.id, p.name AS pool, sources.named, sources.paused, w.domain, w.state = 'paused' AS rests,
       (SELECT a.text FROM domains d JOIN alarms a ON a.org_id = d.org_id AND a.domain = d.name
        WHERE d.id = t.id AND a.action = 'paused' AND a.ended_at IS NULL ORDER BY a.id LIMIT 1) AS alarm
FROM (SELECT DISTINCT unnest($1::uuid[]) AS id) t
LEFT JOIN pools p ON p.id = t.id
LEFT JOIN warmups w ON w.id = t.id AND w.domain IS NOT NULL
CROSS JOIN LATERAL (
  SELECT bool_and(s.paused_at IS NOT NULL OR own.state = 'paused') AS paused,
         array_to_string((array_agg(host(coalesce(s.ipv4, s.ipv6)) ORDER BY s.id))[:$2], ', ')
           || CASE WHEN count(*) > $2 THEN ' and others' ELSE '' END AS named
  FROM sources s JOIN warmups own ON own.source_id = s.id WHERE s.pool_id = t.id
) sources
"""


def _words(row: asyncpg.Record, turn: int) -> str:
    if row["pool"] is not None:
        of = f"of the pool `{row['pool']}`" + (f" ({row['named']})" if row["named"] else "")
        if turn == UNREACHED_TURN:
            return (
                f"no address {of} reaches its mail hosts: they are of another IP version, refuse the address, or no machine that "
                "sends has it"
            )
        if turn == YIELDED_TURN:
            return f"mail that its readers open goes first from the addresses {of}"
        if row["paused"]:
            return f"every address {of} is paused"
        return f"what the addresses {of} may send today is used up"
    if row["domain"] is not None:
        what = "is paused" if row["rests"] else "has no room left today"
        return f"the warm-up of {row['domain']} {what}"
    if row["alarm"] is not None:
        return f"the sending domain is paused: {row['alarm']}".rstrip(".")
    return "what it waited for is over, and it is due within a minute"
