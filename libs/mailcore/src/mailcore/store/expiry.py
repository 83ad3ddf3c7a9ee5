"""Rows of `queue` that waited out their time without a possible attempt: a site that is down for days, a pool that cannot send.

1. `stuck`   where such rows are: lanes whose site is down, and what is waited for. One probe of an index for each lane and each
             thing waited for, however many rows they have
2. `expire`  of these places, a batch at a time; the next begins where the last one ended

What is held, or waits for the end of a pause, waits without an end, and may be millions of rows: nobody walks over them. When that
is over the mail has GRACE to leave before it can expire here. A rule's holds, which follow one another for as long as a peer says
the same, keep it for GRACE in all. Role worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mailcore.kit.ids import lower_bound
from mailcore.store.holds import GRACE
from mailcore.store.lanes import LANES_WITH_ROWS
from mailcore.store.plans import by_index
from mailcore.store.session import Connection
from mailcore.store.waiting import OTHERS_TURN, PAUSED_TURN, TRANSACTIONAL_TURN, YIELDED_TURN, why
from mailcore.store.ways import TAKEN

BATCH = 1_000
PLACES = 500
"""That one statement looks into."""
_NO_SORT = "SET LOCAL enable_sort = off"
"""Rows come in the order of the place's index. Where few are expected the planner would else sort all that is old, held or not."""
TOOK = "1 hour"
"""A site that has taken a mail within that is not down: what is due there has waited for us, and is attempted."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Mail expires that wanted to leave before that: by its class, and of broadcasts that wait for room."""

    transactional: datetime
    broadcasts: datetime
    waiting: datetime


@dataclass(frozen=True, slots=True)
class Expired:
    email_id: UUID
    n: int
    org_id: UUID
    recipient: str
    last_reply: str | None
    """Of its site."""
    why: str | None
    """What it waited for (store.waiting), an attempt says so; None: for its site."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """Whose site is down."""

    ids: Sequence[int]
    since: datetime | None = None
    """Of the first: rows that are due since then."""


@dataclass(frozen=True, slots=True)
class Waited:
    """For these, in these turns, by these organizations."""

    groups: Sequence[tuple[UUID, int, UUID]]
    since: UUID | None = None
    """Of the first: emails from this one on."""


@dataclass(frozen=True, slots=True)
class Suspects:
    """Of sites that are down. There are few: all are looked at."""


Place = Lanes | Waited | Suspects


# ---- 1. where --------------------------------------------------------------------------------------------------------

_HOLDS = f"""((h.until IS NULL OR h.until > now() - interval '{GRACE}')
      AND (h.origin = 'operator' OR h.created_at > now() - interval '{GRACE}'))"""
_NONE_FOR_ALL = f"""NOT EXISTS (
    SELECT FROM holds h WHERE h.site_id IS NULL AND (h.org_id = l.org_id OR h.org_id IS NULL) AND {_HOLDS})"""
_NOT_HELD = f"""NOT EXISTS (
    SELECT FROM holds h WHERE h.site_id = s.id AND (h.org_id = l.org_id OR h.org_id IS NULL) AND {_HOLDS})
  AND {_NONE_FOR_ALL}"""
_DOWN = f"(taken.off OR s.failures > 0 AND (s.heard_at IS NULL OR s.heard_at < now() - interval '{TOOK}'))"
_SITE = f"""JOIN recipient_domains r ON r.domain = l.domain
  {TAKEN}"""
_LANES = f"""
{LANES_WITH_ROWS}
SELECT l.id FROM step JOIN lanes l ON l.id = step.lane_id
  {_SITE}
WHERE step.due_at <= now() AND {_DOWN} AND {_NOT_HELD}
ORDER BY l.id
"""
# as LANES_WITH_ROWS: each step lands on the first row of the next
_WAITED_FOR = f"""
WITH RECURSIVE step AS (
  (SELECT waits_for, turn, org_id FROM queue WHERE waits_for IS NOT NULL AND worker IS NULL
   ORDER BY waits_for, turn, org_id LIMIT 1)
  UNION ALL
  SELECT following.waits_for, following.turn, following.org_id
  FROM step CROSS JOIN LATERAL (
    SELECT q.waits_for, q.turn, q.org_id FROM queue q
    WHERE (q.waits_for, q.turn, q.org_id) > (step.waits_for, step.turn, step.org_id)
      AND q.waits_for IS NOT NULL AND q.worker IS NULL
    ORDER BY q.waits_for, q.turn, q.org_id LIMIT 1
  ) following
)
SELECT l.waits_for, l.turn, l.org_id FROM step l WHERE l.turn <> $1::smallint AND {_NONE_FOR_ALL}
ORDER BY l.waits_for, l.turn, l.org_id
"""


async def stuck(db: Connection) -> list[Place]:
    """To be walked each to its end (`expire`)."""
    await by_index(db)
    lanes = [row["id"] for row in await db.fetch(_LANES)]
    groups = [tuple(row) for row in await db.fetch(_WAITED_FOR, PAUSED_TURN)]
    return [
        *(Lanes(lanes[at : at + PLACES]) for at in range(0, len(lanes), PLACES)),
        *(Waited(groups[at : at + PLACES]) for at in range(0, len(groups), PLACES)),
        Suspects(),
    ]


# ---- 2. expire -------------------------------------------------------------------------------------------------------


async def expire(db: Connection, place: Place, ends: Ends) -> tuple[list[Expired], Place | None]:
    """Up to BATCH free rows: state expired, no longer queued. And where to go on; None: nowhere.

    A row that is attempted expires by its schedule (`settle`); this is for those that never could be, their site being down, or put
    off again and again for want of a source.
    """
    await by_index(db)
    await db.execute(_NO_SORT)
    times = (BATCH, ends.transactional, ends.broadcasts, ends.waiting, OTHERS_TURN)
    old_broadcasts = max(ends.broadcasts, ends.waiting)
    by_class = [lower_bound(ends.transactional), lower_bound(old_broadcasts)]
    if isinstance(place, Lanes):
        rows = await db.fetch(_OF_LANES, *times, by_class, list(place.ids), place.since)
    elif isinstance(place, Waited):
        columns = [list(column) for column in zip(*place.groups, strict=True)]
        rows = await db.fetch(_OF_WAITED, *times, _by_turn(ends), *columns, place.since)
    else:
        rows = await db.fetch(_OF_SUSPECTS, *times, by_class)
    words = await why(db, [(row["waits_for"], row["turn"]) for row in rows if row["waits_for"] is not None])
    expired = [
        Expired(
            *(row["email_id"], row["n"], row["org_id"], row["recipient"], row["last_reply"]),
            words.get((row["waits_for"], row["turn"])),
        )
        for row in rows
    ]
    await db.executemany(
        _UNTRIED,
        [
            (row["email_id"], row["n"], row["attempt"] + 1, row["org_id"], each.why)
            for row, each in zip(rows, expired, strict=True)
            if each.why is not None
        ],
    )
    return expired, None if len(rows) < BATCH else _after(place, rows)


def _by_turn(ends: Ends) -> list[UUID]:
    """Which emails may be old enough: those before. What has yielded and what no source reaches waits for no room."""
    ids = [lower_bound(max(ends.transactional, ends.broadcasts))] * PAUSED_TURN
    ids[TRANSACTIONAL_TURN] = lower_bound(ends.transactional)
    ids[TRANSACTIONAL_TURN + 1 : YIELDED_TURN] = [lower_bound(ends.waiting)] * OTHERS_TURN
    return ids


def _after(place: Place, rows: Sequence[Any]) -> Place:
    at = max(row["place"] for row in rows)
    last = [row for row in rows if row["place"] == at]
    if isinstance(place, Lanes):
        return Lanes(place.ids[at - 1 :], max(row["due_at"] for row in last))
    if isinstance(place, Waited):
        return Waited(place.groups[at - 1 :], max(row["email_id"] for row in last))
    return place


# the ids of emails are in the order of time; only what was scheduled wanted to leave later
_AGED = """coalesce(e.scheduled_at, e.created_at)
        < CASE WHEN l.class = 0 THEN $2::timestamptz WHEN q.turn <= $5::smallint THEN $4::timestamptz ELSE $3::timestamptz END"""
_NOT_PAUSED = f"""NOT EXISTS (
      SELECT FROM domains d JOIN alarms a ON a.org_id = d.org_id AND a.domain = d.name
      WHERE d.id = e.domain_id AND a.action = 'paused' AND (a.ended_at IS NULL OR a.ended_at > now() - interval '{GRACE}'))"""


# a row that moved before it was locked has a ctid that the statement does not see: it is met by its key
def _expire(open_: str, old: str) -> str:
    return f"""
WITH open AS MATERIALIZED ({open_}
), ended AS MATERIALIZED ({old}
), gone AS (
  DELETE FROM queue q USING ended WHERE q.email_id = ended.email_id AND q.n = ended.n
  RETURNING ended.*
), moved AS (
  UPDATE deliveries d SET state = 'expired', last_event = 'bounced', last_event_at = now()
  FROM gone WHERE d.email_id = gone.email_id AND d.n = gone.n
  RETURNING gone.*, d.recipient
)
SELECT email_id, n, org_id, recipient, last_reply, waits_for, turn, attempt, due_at, place FROM moved
"""


_COLUMNS = "q.email_id, q.n, q.org_id, q.attempt, q.turn, q.due_at"
_OF_LANES = _expire(
    f"""
  SELECT lane.place, l.id, l.class, s.last_reply
  FROM unnest($7::bigint[]) WITH ORDINALITY AS lane (id, place) JOIN lanes l ON l.id = lane.id
  {_SITE}
  WHERE {_DOWN} AND {_NOT_HELD}
  ORDER BY lane.place""",
    f"""
  SELECT row.*, NULL::uuid AS waits_for, l.last_reply, l.place
  FROM open l CROSS JOIN LATERAL (
    SELECT {_COLUMNS} FROM queue q JOIN emails e ON e.id = q.email_id
    WHERE q.lane_id = l.id AND q.worker IS NULL AND q.crashes = 0 AND q.due_at <= now()
      AND q.due_at >= CASE WHEN l.place > 1 OR $8::timestamptz IS NULL THEN '-infinity' ELSE $8 END
      AND q.email_id < ($6::uuid[])[l.class + 1] AND {_AGED} AND {_NOT_PAUSED}
    ORDER BY q.lane_id, q.due_at LIMIT $1 FOR UPDATE OF q SKIP LOCKED
  ) row
  LIMIT $1""",
)
_OF_WAITED = _expire(
    f"""
  SELECT l.place, l.waits_for, l.turn, l.org_id
  FROM unnest($7::uuid[], $8::smallint[], $9::uuid[]) WITH ORDINALITY AS l (waits_for, turn, org_id, place)
  WHERE {_NONE_FOR_ALL}
  ORDER BY l.place""",
    f"""
  SELECT row.*, g.waits_for, g.place
  FROM open g CROSS JOIN LATERAL (
    SELECT {_COLUMNS}, s.last_reply FROM queue q JOIN emails e ON e.id = q.email_id JOIN lanes l ON l.id = q.lane_id
    {_SITE}
    WHERE q.waits_for = g.waits_for AND q.turn = g.turn AND q.org_id = g.org_id AND q.worker IS NULL AND q.due_at > now()
      AND q.email_id >= CASE WHEN g.place > 1 OR $10::uuid IS NULL THEN '00000000-0000-0000-0000-000000000000' ELSE $10 END
      AND q.email_id < ($6::uuid[])[g.turn + 1] AND {_AGED} AND {_NOT_PAUSED} AND {_NOT_HELD}
    ORDER BY q.waits_for, q.turn, q.org_id, q.email_id LIMIT $1 FOR UPDATE OF q SKIP LOCKED
  ) row
  LIMIT $1""",
)
_OF_SUSPECTS = _expire(
    " SELECT",
    f"""
  SELECT {_COLUMNS}, NULL::uuid AS waits_for, s.last_reply, 1::bigint AS place
  FROM queue q JOIN emails e ON e.id = q.email_id JOIN lanes l ON l.id = q.lane_id
  {_SITE}
  WHERE q.worker IS NULL AND q.crashes > 0 AND q.due_at <= now() AND {_DOWN} AND {_NOT_HELD}
    AND q.email_id < ($6::uuid[])[l.class + 1] AND {_AGED} AND {_NOT_PAUSED}
  ORDER BY q.due_at LIMIT $1 FOR UPDATE OF q SKIP LOCKED""",
)
# so that who asks what became of it, and a delivery report, have the words
_UNTRIED = """
INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, code, enhanced_code, reply, rule)
VALUES ($1, $2, $3, $4, now(), 'expired', 451, '4.4.7', $5, 'no-source')
"""
