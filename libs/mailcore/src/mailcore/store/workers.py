"""Running workers and their heartbeats, by the database's clock."""

from __future__ import annotations

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


async def leave(db: Connection, worker: int) -> None:
    """At the end of a drain, when the worker holds no lease any more."""
    await db.execute("DELETE FROM workers WHERE id = $1", worker)
