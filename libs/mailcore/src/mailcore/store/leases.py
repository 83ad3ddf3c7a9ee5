"""Rows of `queue` whose holder is gone, or that nobody could take: given back, put aside, expired.

1. `strays`     rows leased to a living worker that does not know of them
2. `take_back`  the leases of dead workers, in the transaction that buries them
3. `expire`     rows that waited out their time without a possible attempt: a site that is down for days, a pool that cannot send

What a death makes of the rows that are left, and who is blamed for it: see `store.deliveries`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from mailcore.kit.ids import lower_bound
from mailcore.store.deliveries import Key
from mailcore.store.due import NOT_HELD
from mailcore.store.plans import by_index
from mailcore.store.session import Connection
from mailcore.store.waiting import OTHERS_TURN, PAUSED_TURN, why
from mailcore.store.ways import TAKEN

MAX_CRASHES = 3
"""Attempts that ended with their worker's death before a row is put aside."""
EXPIRE_BATCH = 1_000


# ---- 1. strays -------------------------------------------------------------------------------------------------------


async def strays(db: Connection, worker: int, held: Container[Key], *, older_than: float) -> int:
    """Gives back rows leased to this worker that it does not hold: an answer of the database was lost with the connection.

    `older_than`: seconds; younger leases may be a claim whose answer is on its way. Returns how many.
    """
    await by_index(db)
    rows = await db.fetch(
        "SELECT email_id, n, leased_at FROM queue WHERE worker = $1 "
        "AND leased_at < clock_timestamp() - make_interval(secs => $2)",
        worker,
        older_than,
    )
    lost = [row for row in rows if (row["email_id"], row["n"]) not in held]
    if not lost:
        return 0
    found: int = await db.fetchval(
        _STRAYS,
        [row["email_id"] for row in lost],
        [row["n"] for row in lost],
        [row["leased_at"] for row in lost],
        worker,
    )
    return found


# nobody here knows what became of one that was marked: its retry may be a second copy
_STRAYS = """
WITH released AS (
  UPDATE queue q SET worker = NULL, leased_at = NULL, dot_sent = false, due_at = now(),
                     possible_duplicate = q.possible_duplicate OR q.dot_sent
  FROM unnest($1::uuid[], $2::smallint[], $3::timestamptz[]) AS t (email_id, n, leased_at)
  WHERE q.email_id = t.email_id AND q.n = t.n AND q.worker = $4 AND q.leased_at = t.leased_at
  RETURNING q.email_id, q.n, q.possible_duplicate
), marked AS (
  UPDATE deliveries d SET possible_duplicate = true
  FROM released WHERE released.possible_duplicate AND d.email_id = released.email_id AND d.n = released.n
)
SELECT count(*) FROM released
"""


# ---- 2. take back ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TakenBack:
    email_id: UUID
    n: int
    org_id: UUID
    crashes: int
    possible_duplicate: bool

    @property
    def quarantined(self) -> bool:
        return self.crashes >= MAX_CRASHES


async def take_back(db: Connection, dead: Sequence[int]) -> list[TakenBack]:
    """The rows of dead workers (`workers.bury`, same transaction): due again now, or quarantined after their third crash.

    Before the final dot a row is plainly queued again. After it, or when the lease is older than the server's start (the mark may
    have been lost with it), it is queued with possible_duplicate. Either way an attempt `lost` says so.
    """
    await by_index(db)
    rows = await db.fetch(_TAKE_BACK, list(dead), MAX_CRASHES)
    return [TakenBack(*row) for row in rows]


# pg_stat_bgwriter.stats_reset: set anew by a crash recovery under a postmaster that goes on, which its start time does not show
_TAKE_BACK = """
WITH began AS MATERIALIZED (
  SELECT greatest(pg_postmaster_start_time(), (SELECT stats_reset FROM pg_stat_bgwriter)) AS at
), leased AS MATERIALIZED (
  SELECT q.ctid, q.email_id, q.n, q.org_id, q.attempt, q.worker, q.crashes, q.dot_sent,
         q.dot_sent OR q.leased_at < began.at AS unsure, q.possible_duplicate AS before
  FROM queue q CROSS JOIN began WHERE q.worker = ANY ($1::bigint[])
  FOR UPDATE OF q
), held AS MATERIALIZED (
  SELECT ctid, email_id, n, org_id, attempt, unsure, before,
         CASE WHEN crashes > 0 AND dot_sent AND bool_or(crashes > 0 AND NOT dot_sent) OVER (PARTITION BY worker) THEN crashes
              ELSE crashes + 1 END AS crashes
  FROM leased
), gone AS (
  DELETE FROM queue q USING held WHERE q.ctid = held.ctid AND held.crashes >= $2
), again AS (
  UPDATE queue q SET worker = NULL, leased_at = NULL, dot_sent = false, due_at = now(), crashes = held.crashes,
                     possible_duplicate = held.before OR held.unsure
  FROM held WHERE q.ctid = held.ctid AND held.crashes < $2
), moved AS (
  UPDATE deliveries d
  SET possible_duplicate = d.possible_duplicate OR held.unsure,
      state = CASE WHEN held.crashes >= $2 THEN 'quarantined' ELSE d.state END
  FROM held
  WHERE d.email_id = held.email_id AND d.n = held.n AND (held.unsure OR held.crashes >= $2)
), noted AS (
  INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, reply, rule, possible_duplicate)
  SELECT email_id, n, attempt, org_id, now(), 'lost',
         CASE WHEN unsure THEN 'its worker died and the final dot may have left' ELSE 'its worker died before the final dot' END,
         'worker-died', before
  FROM held
)
SELECT email_id, n, org_id, crashes, before OR unsure FROM held
"""


# ---- 3. expire -------------------------------------------------------------------------------------------------------


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


async def expire(
    db: Connection, before: datetime, broadcasts_before: datetime, waiting_before: datetime
) -> list[Expired]:
    """Up to EXPIRE_BATCH free rows of mail that wanted to leave before that: state expired, no longer queued. `waiting_before`: of
    broadcasts that wait for room.

    A row that is attempted expires by its schedule (`settle`); this is for those that never could be, their site being down, or put
    off again and again for want of a source. One whose site takes mail has waited for us: it is attempted, however long we were
    away. What is held, and mail of a paused domain, waits without an end.
    """
    await by_index(db)
    youngest = lower_bound(max(before, broadcasts_before, waiting_before))
    rows = await db.fetch(
        _EXPIRE, youngest, before, EXPIRE_BATCH, broadcasts_before, waiting_before, OTHERS_TURN, PAUSED_TURN
    )
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
    return expired


_EXPIRE = f"""
WITH old AS MATERIALIZED (
  SELECT q.ctid, q.email_id, q.n, q.org_id, q.attempt, q.turn, s.last_reply,
         CASE WHEN q.due_at > now() THEN q.waits_for END AS waits_for
  FROM queue q JOIN emails e ON e.id = q.email_id
  JOIN lanes l ON l.id = q.lane_id
  JOIN recipient_domains r ON r.domain = l.domain
  {TAKEN}
  WHERE q.email_id < $1 AND q.worker IS NULL AND (q.turn = $7::smallint) IS NOT TRUE
    AND CASE WHEN q.due_at > now() THEN q.waits_for IS NOT NULL ELSE s.failures > 0 OR taken.off END
    AND coalesce(e.scheduled_at, e.created_at)
        < CASE WHEN l.class = 0 THEN $2::timestamptz WHEN q.turn <= $6::smallint THEN $5::timestamptz ELSE $4::timestamptz END
    AND {NOT_HELD}
  ORDER BY q.email_id, q.n LIMIT $3 FOR UPDATE OF q SKIP LOCKED
), gone AS (
  DELETE FROM queue q USING old WHERE q.ctid = old.ctid
), moved AS (
  UPDATE deliveries d SET state = 'expired', last_event = 'bounced', last_event_at = now()
  FROM old WHERE d.email_id = old.email_id AND d.n = old.n
  RETURNING d.email_id, d.n, d.recipient
)
SELECT old.email_id, old.n, old.org_id, moved.recipient, old.last_reply, old.waits_for, old.turn, old.attempt
FROM old JOIN moved ON moved.email_id = old.email_id AND moved.n = old.n
"""
# so that who asks what became of it, and a delivery report, have the words
_UNTRIED = """
INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, code, enhanced_code, reply, rule)
VALUES ($1, $2, $3, $4, now(), 'expired', 451, '4.4.7', $5, 'no-source')
"""
