"""Who has come with a mail before (flow.greylist)."""

from __future__ import annotations

from mailcore.store.session import Connection

DAYS = 36
"""Of what has not been seen for so long, nothing is known any more (RFC 6647 §3)."""


async def seen(db: Connection, network: bytes, triple: bytes, seconds: float) -> float | None:
    """None: the mail may be taken, as its network is known or the mail comes again. Else for how many seconds it has been known.
    Role door."""
    row = await db.fetchrow("SELECT digest FROM greylist WHERE digest = $1", network)
    if row is not None:
        await db.execute("UPDATE greylist SET seen_at = now() WHERE digest = $1", network)
        return None
    age: float = await db.fetchval(
        "INSERT INTO greylist (digest) VALUES ($1) ON CONFLICT (digest) DO UPDATE SET seen_at = now() "
        "RETURNING extract(epoch FROM now() - first_at)::float8",
        triple,
    )
    if age < seconds:
        return age
    await db.execute("INSERT INTO greylist (digest) VALUES ($1) ON CONFLICT (digest) DO NOTHING", network)
    return None


async def forget(db: Connection, *, limit: int) -> int:
    """Deletes what is old. How many; as many as `limit`: there may be more. Role worker."""
    rows = await db.fetch(
        "DELETE FROM greylist WHERE digest IN (SELECT digest FROM greylist WHERE seen_at < now() - make_interval(days => $1) "
        "ORDER BY seen_at LIMIT $2) RETURNING 1",
        DAYS,
        limit,
    )
    return len(rows)
