"""Rows of webhook_queue that nobody will post as they are: those of dead workers, those of endpoints that are off. Role worker.

1. `take_back`  what dead workers held is queued again, in the transaction that buries them
2. `forget`     what waits for endpoints that are off or gone is failed
3. `waiting`    how much waits, for the metrics
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from mailcore.kit.ids import uuid7
from mailcore.store.session import Connection
from mailcore.store.webhook_queue import WALK

MAX_CRASHES = 3
"""Of workers that posted an event alone; the crash that came before, in company, may have been another's fault."""


# ---- 1. take back ----------------------------------------------------------------------------------------------------


async def take_back(db: Connection) -> tuple[int, list[tuple[UUID, UUID]]]:
    """Frees what is leased to workers that are no more; after workers.bury, in the same transaction.

    Also what a living worker does not know it has (the answer to its claim was lost): there the hold is over. An attempt that was
    cut off does not count: whether it was made is not known, and killing workers must not use up an event's attempts. Its crash
    counts: of a dead worker's suspects the one that it took last, for the others were waiting for their endpoints; and each row
    that is not yet a suspect. After MAX_CRASHES alone it is failed, with an attempt that says why.

    Returns how many are queued again, and which events of which endpoints were failed.
    """
    rows = await db.fetch(_TAKE_BACK)
    lost = [row for row in rows if row["crashes"] > MAX_CRASHES]
    if lost:
        await db.execute(
            _QUARANTINE,
            [row["event_id"] for row in lost],
            [row["webhook_id"] for row in lost],
            [uuid7() for _ in lost],
            [
                f"Not posted again: the process that posted it died each time, {row['crashes']} times. Replay it when the "
                "cause is known."
                for row in lost
            ],
        )
    return len(rows) - len(lost), [(row["event_id"], row["webhook_id"]) for row in lost]


_TAKE_BACK = """
WITH stray AS MATERIALIZED (
  SELECT q.event_id, q.webhook_id, q.worker, q.crashes, q.leased_at,
         NOT EXISTS (SELECT FROM workers w WHERE w.id = q.worker) AS died
  FROM webhook_queue q
  WHERE q.worker IS NOT NULL
    AND (q.due_at <= clock_timestamp() OR NOT EXISTS (SELECT FROM workers w WHERE w.id = q.worker))
  ORDER BY q.event_id, q.webhook_id FOR UPDATE OF q
), blamed AS (
  SELECT event_id, webhook_id,
         died AND (crashes = 0 OR leased_at = max(leased_at) FILTER (WHERE crashes > 0) OVER (PARTITION BY worker)) AS guilty
  FROM stray
)
UPDATE webhook_queue q SET worker = NULL, leased_at = NULL, attempt = q.attempt - 1, due_at = clock_timestamp(),
       crashes = q.crashes + blamed.guilty::int
FROM blamed WHERE q.event_id = blamed.event_id AND q.webhook_id = blamed.webhook_id
RETURNING q.event_id, q.webhook_id, q.crashes
"""

_QUARANTINE = """
WITH lost AS (
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[]) AS t (event_id, webhook_id, id, response)
), gone AS (
  DELETE FROM webhook_queue q USING lost WHERE q.event_id = lost.event_id AND q.webhook_id = lost.webhook_id
  RETURNING q.event_id, q.webhook_id, q.org_id, q.attempt + 1 AS attempt, lost.id, lost.response
), attempts AS (
  INSERT INTO webhook_attempts (event_id, webhook_id, attempt, org_id, id, at, response)
  SELECT event_id, webhook_id, attempt, org_id, id, clock_timestamp(), response FROM gone
  ON CONFLICT (event_id, webhook_id, attempt) DO NOTHING
)
UPDATE webhook_deliveries d SET state = 'failed', updated_at = clock_timestamp()
FROM gone WHERE d.event_id = gone.event_id AND d.webhook_id = gone.webhook_id
"""


# ---- 2. forget -------------------------------------------------------------------------------------------------------


async def forget(db: Connection, limit: int) -> int:
    """Takes away up to `limit` rows whose endpoint was removed or switched off; returns how many."""
    forgotten: int = await db.fetchval(_FORGET, limit)
    return forgotten


_FORGET = f"""
WITH RECURSIVE {WALK.format(after="'00000000-0000-0000-0000-000000000000'")}, gone AS (
  SELECT due.event_id, due.webhook_id
  FROM walk CROSS JOIN LATERAL (
    SELECT q.event_id, q.webhook_id FROM webhook_queue q
    WHERE q.webhook_id = walk.webhook_id AND q.worker IS NULL
      AND NOT EXISTS (SELECT FROM webhooks w WHERE w.id = walk.webhook_id AND w.status = 'enabled')
    LIMIT $1 FOR UPDATE OF q SKIP LOCKED
  ) due
  LIMIT $1
), removed AS (
  DELETE FROM webhook_queue q USING gone WHERE q.event_id = gone.event_id AND q.webhook_id = gone.webhook_id
  RETURNING q.event_id, q.webhook_id
), states AS (
  UPDATE webhook_deliveries d SET state = 'failed', updated_at = clock_timestamp()
  FROM removed WHERE d.event_id = removed.event_id AND d.webhook_id = removed.webhook_id
)
SELECT count(*) FROM removed
"""


# ---- 3. what waits --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    rows: int
    """About: by the statistics' counter, not by counting."""
    age_seconds: float
    """Since the longest-due row was due."""


async def waiting(db: Connection) -> Waiting:
    row = await db.fetchrow(_WAITING)
    return Waiting(int(row["rows"] or 0), float(row["age"] or 0.0))


_WAITING = f"""
WITH RECURSIVE {WALK.format(after="'00000000-0000-0000-0000-000000000000'")}
SELECT (SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = 'webhook_queue'::regclass) AS rows,
       greatest(0, extract(epoch FROM clock_timestamp() - min(due.at))) AS age
FROM walk CROSS JOIN LATERAL (SELECT min(q.due_at) AS at FROM webhook_queue q WHERE q.webhook_id = walk.webhook_id) due
"""
