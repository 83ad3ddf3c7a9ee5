"""Running workers and their heartbeats, by the database's clock."""

from __future__ import annotations

from typing import Literal

from mailcore.store.session import Connection


async def register(db: Connection, service: str, host: str, pid: int) -> int:
    worker: int = await db.fetchval(
        "INSERT INTO workers (service, host, pid) VALUES ($1, $2, $3) RETURNING id", service, host, pid
    )
    return worker


async def renew(db: Connection, worker: int) -> bool:
    """False: the row is gone, this worker was declared dead and its leases taken back."""
    return bool(
        await db.fetchval("UPDATE workers SET heartbeat_at = clock_timestamp() WHERE id = $1 RETURNING true", worker)
    )


async def bury(db: Connection, service: str, lease_seconds: float) -> list[int]:
    """Removes the service's workers without a heartbeat for `lease_seconds`; their ids, whose leases are to be taken back.

    The rows stay locked until the transaction ends: take the leases back in the same one, or a crash between leaves them for ever.
    """
    rows = await db.fetch(
        "DELETE FROM workers WHERE id IN (SELECT id FROM workers WHERE service = $1 "
        "AND heartbeat_at < clock_timestamp() - make_interval(secs => $2) FOR UPDATE SKIP LOCKED) RETURNING id",
        service,
        lease_seconds,
    )
    return [row["id"] for row in rows]


async def ownerless(db: Connection, table: Literal["queue", "arrival_queue", "accounts"]) -> list[int]:
    """Workers that hold rows of `table` and have no row here: to be taken back like those of the buried, and with them.

    They come about when a worker that was paused claims after its burial, or when a drain ends without having given back. A
    worker's row is committed before its first lease and goes before its last, so that who has none never comes back.
    """
    await db.execute("SET LOCAL enable_seqscan = off")
    rows = await db.fetch(_OWNERLESS.format(table=table))
    return [row["worker"] for row in rows]


# one probe of the index on worker for each that holds rows, however many they hold
_OWNERLESS = """
WITH RECURSIVE holder (worker) AS (
  (SELECT worker FROM {table} WHERE worker IS NOT NULL ORDER BY worker LIMIT 1)
  UNION ALL
  SELECT (SELECT q.worker FROM {table} q WHERE q.worker > holder.worker ORDER BY q.worker LIMIT 1)
  FROM holder WHERE holder.worker IS NOT NULL
)
SELECT worker FROM holder
WHERE worker IS NOT NULL AND NOT EXISTS (SELECT FROM workers w WHERE w.id = holder.worker)
"""


async def leave(db: Connection, worker: int) -> None:
    """At the end of a drain. What the worker still holds is found by `ownerless`."""
    await db.execute("DELETE FROM workers WHERE id = $1", worker)
