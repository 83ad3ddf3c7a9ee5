"""DKIM keys of domains, and when something about them is due. Role app, but for what says worker.

state      what it means                                                   private half
pending    made or imported, its record not seen yet                       sealed
published  its record has been seen, and has not been there for long yet   sealed
active     it signs; one of each algorithm                                 sealed
retiring   it signs no more; its record stays until keep_until             sealed
retired    its record may go                                               gone
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from mailcore.store.domains import NewKey
from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection

PENDING, PUBLISHED, ACTIVE, RETIRING, RETIRED = "pending", "published", "active", "retiring", "retired"
NEXT = (PENDING, PUBLISHED)

_COLUMNS = (
    "k.id, k.domain_id, k.selector, k.algorithm, k.public_txt, k.state, k.origin, k.seen, k.seen_at, k.published_at, "
    "coalesce(k.active_since, CASE WHEN k.state = 'active' THEN k.created_at END) AS active_since, k.keep_until, k.retired_at, "
    "k.created_at"
)
_SHOWN = f"SELECT {_COLUMNS}, d.name, d.status, d.record_status FROM dkim_keys k JOIN domains d ON d.id = k.domain_id"


async def page(db: Connection, domain_id: UUID, page: Page) -> Slice:
    """With the domain's name, status and record_status."""
    return await fetch(db, f"{_SHOWN} WHERE k.domain_id = $1", [domain_id], page, column="k.id")


async def find(db: Connection, domain_id: UUID, id_: UUID) -> asyncpg.Record | None:
    """As `page` gives it."""
    return await db.fetchrow(f"{_SHOWN} WHERE k.domain_id = $1 AND k.id = $2", domain_id, id_)


async def of_domain(db: Connection, domain_id: UUID) -> list[asyncpg.Record]:
    """All of them, the first made first. Also role worker."""
    rows: list[asyncpg.Record] = await db.fetch(
        f"SELECT {_COLUMNS} FROM dkim_keys k WHERE k.domain_id = $1 ORDER BY k.id", domain_id
    )
    return rows


async def insert(
    db: Connection, org_id: UUID, domain_id: UUID, keys: Sequence[NewKey], *, origin: str = "made"
) -> None:
    """As pending. Also role worker. Raises UniqueViolationError: the selector is taken, or a key of that algorithm waits."""
    await db.executemany(
        "INSERT INTO dkim_keys (id, org_id, domain_id, selector, algorithm, private_sealed, public_txt, origin, state) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'pending')",
        [
            (key.id, org_id, domain_id, key.selector, key.algorithm, key.private_sealed, key.public_txt, origin)
            for key in keys
        ],
    )


async def write_seen(db: Connection, seen: Mapping[UUID, bool], at: datetime) -> None:
    """What looks for the records found. Also role worker."""
    await db.execute(
        "UPDATE dkim_keys k SET seen = s.seen, seen_at = $3 FROM unnest($1::uuid[], $2::boolean[]) AS s (id, seen) "
        "WHERE k.id = s.id",
        *(list(seen), list(seen.values()), at),
    )


async def move(db: Connection, id_: UUID, state: str, now: datetime, keep_until: datetime | None = None) -> None:
    """To another state. Also role worker. `keep_until` of one that is retiring; one that is retired loses its private half."""
    await db.execute(
        "UPDATE dkim_keys SET state = $2, published_at = CASE $2 WHEN 'published' THEN $3 WHEN 'pending' THEN NULL "
        "ELSE published_at END, active_since = CASE WHEN $2 = 'active' THEN $3 "
        "WHEN state = 'active' THEN coalesce(active_since, created_at) ELSE active_since END, "
        "keep_until = CASE $2 WHEN 'retiring' THEN $4 ELSE keep_until END, "
        "retired_at = CASE $2 WHEN 'retired' THEN $3 END, "
        "private_sealed = CASE $2 WHEN 'retired' THEN NULL ELSE private_sealed END WHERE id = $1",
        *(id_, state, now, keep_until),
    )


async def note_change(db: Connection, domain_id: UUID, *, gone: Collection[str], seen: Collection[str]) -> None:
    """Which records the domain requires has changed: names as `dns.required.dkim_key` gives them. Also role worker.

    A look at the domain that is under way asks for the old ones, and is not written. The record of a key that has begun to sign
    was seen just now. Where nothing is noted, nobody has looked yet, or all is as good as seen.
    """
    await db.execute(
        "UPDATE domains SET revision = revision + 1, record_status = CASE WHEN record_status = '{}' THEN record_status ELSE "
        "(record_status - $2::text[]) || "
        "(SELECT coalesce(jsonb_object_agg(name, 'verified'::text), '{}') FROM unnest($3::text[]) name) END WHERE id = $1",
        *(domain_id, list(gone), list(seen)),
    )


async def schedule(db: Connection, domain_id: UUID, days: int | None) -> None:
    await db.execute("UPDATE domains SET dkim_rotate_days = $2, dkim_due_at = now() WHERE id = $1", domain_id, days)


async def domain(db: Connection, domain_id: UUID) -> asyncpg.Record | None:
    """`id, org_id, name, status, verified_at, dkim_rotate_days, dkim_due_at`. Also role worker."""
    return await db.fetchrow(
        "SELECT id, org_id, name, status, verified_at, dkim_rotate_days, dkim_due_at FROM domains WHERE id = $1",
        domain_id,
    )


async def write_due(db: Connection, domain_id: UUID, due_in_seconds: float | None) -> None:
    """The next look, by the database's clock. Also role worker."""
    await db.execute(
        "UPDATE domains SET dkim_due_at = now() + make_interval(secs => $2) WHERE id = $1", domain_id, due_in_seconds
    )


# ---- role worker -----------------------------------------------------------------------------------------------------


async def claim_due(db: Connection, limit: int) -> list[UUID]:
    """Domains about whose keys something is due; the next look is written first, for whoever dies on the way."""
    rows = await db.fetch(_CLAIM_DUE, limit)
    return [row["id"] for row in rows]


_CLAIM_DUE = """
UPDATE domains SET dkim_due_at = now() + interval '5 minutes'
WHERE id IN (SELECT id FROM domains WHERE dkim_due_at <= now() ORDER BY dkim_due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING id
"""


async def claim_one(db: Connection, domain_id: UUID) -> bool:
    """As `claim_due`, of this one. False: nothing is due."""
    return bool(
        await db.fetchval(
            "UPDATE domains SET dkim_due_at = now() + interval '5 minutes' WHERE id = $1 AND dkim_due_at <= now() RETURNING true",
            domain_id,
        )
    )


async def forget(db: Connection, ids: Sequence[UUID]) -> None:
    await db.execute("DELETE FROM dkim_keys WHERE id = ANY ($1::uuid[]) AND state = 'retired'", ids)
