"""Rows of `queue` whose holder is gone: given back, put aside.

1. `strays`     rows leased to a living worker that does not know of them
2. `take_back`  the leases of dead workers, in the transaction that buries them

What a death makes of the rows that are left, and who is blamed for it: see `store.deliveries`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from uuid import UUID

from mailcore.store.deliveries import Key
from mailcore.store.plans import by_index
from mailcore.store.session import Connection

MAX_CRASHES = 3
"""Attempts that ended with their worker's death before a row is put aside."""


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


# A row that moved before it was locked, as a mark came late, has a ctid that this statement does not see: it is met by its key.
# pg_stat_bgwriter.stats_reset: set anew by a crash recovery under a postmaster that goes on, which its start time does not show
_TAKE_BACK = """
WITH began AS MATERIALIZED (
  SELECT greatest(pg_postmaster_start_time(), (SELECT stats_reset FROM pg_stat_bgwriter)) AS at
), leased AS MATERIALIZED (
  SELECT q.email_id, q.n, q.org_id, q.attempt, q.worker, q.crashes, q.dot_sent,
         q.dot_sent OR q.leased_at < began.at AS unsure, q.possible_duplicate AS before
  FROM queue q CROSS JOIN began WHERE q.worker = ANY ($1::bigint[])
  FOR UPDATE OF q
), held AS MATERIALIZED (
  SELECT email_id, n, org_id, attempt, unsure, before,
         CASE WHEN crashes > 0 AND dot_sent AND bool_or(crashes > 0 AND NOT dot_sent) OVER (PARTITION BY worker) THEN crashes
              ELSE crashes + 1 END AS crashes
  FROM leased
), gone AS (
  DELETE FROM queue q USING held WHERE q.email_id = held.email_id AND q.n = held.n AND held.crashes >= $2
), again AS (
  UPDATE queue q SET worker = NULL, leased_at = NULL, dot_sent = false, due_at = now(), crashes = held.crashes,
                     possible_duplicate = held.before OR held.unsure
  FROM held WHERE q.email_id = held.email_id AND q.n = held.n AND held.crashes < $2
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
