"""Claims of domains that another organization has verified. Role app, but for what says worker."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class NewClaim:
    id: UUID
    org_id: UUID
    domain_id: UUID
    name: str
    region: str
    asked: dict[str, Any]
    token: str
    created_at: datetime
    expires_at: datetime


async def open_of(db: Connection, name: str) -> asyncpg.Record | None:
    """The organization's claim of that name that has not ended."""
    return await db.fetchrow(f"{_SELECT} WHERE name = $1 AND status IN {_OPEN} FOR UPDATE", name)


async def latest(db: Connection, domain_id: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(f"{_SELECT} WHERE domain_id = $1 ORDER BY id DESC LIMIT 1", domain_id)


async def insert(db: Connection, claim: NewClaim) -> None:
    """It comes up when it expires, or when somebody asks for a look."""
    await db.execute(
        "INSERT INTO domain_claims (id, org_id, domain_id, name, region, asked, token, created_at, expires_at, check_due_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
        *(claim.id, claim.org_id, claim.domain_id, claim.name, claim.region, claim.asked, claim.token),
        *(claim.created_at, claim.expires_at),
    )


async def supersede(db: Connection, id_: UUID) -> None:
    await db.execute("UPDATE domain_claims SET status = 'superseded', check_due_at = NULL WHERE id = $1", id_)


async def cancel(db: Connection, domain_id: UUID) -> None:
    """Those of a placeholder domain that is removed."""
    await db.execute(
        f"UPDATE domain_claims SET status = 'canceled', check_due_at = NULL WHERE domain_id = $1 AND status IN {_OPEN}",
        domain_id,
    )


async def ask(db: Connection, id_: UUID) -> None:
    """A look at its TXT record is due now, where it has not ended."""
    await db.execute(
        f"UPDATE domain_claims SET asked_at = now(), check_due_at = now() WHERE id = $1 AND status IN {_OPEN}", id_
    )


# ---- role worker -----------------------------------------------------------------------------------------------------


async def claim_due(db: Connection, limit: int) -> list[UUID]:
    """Claims that are due; the next time is written first, for whoever dies on the way."""
    rows = await db.fetch(_CLAIM_DUE, limit)
    return [row["id"] for row in rows]


_CLAIM_DUE = """
UPDATE domain_claims SET check_due_at = now() + interval '5 minutes'
WHERE id IN (SELECT id FROM domain_claims WHERE check_due_at <= now() ORDER BY check_due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING id
"""


async def claim_one(db: Connection, id_: UUID) -> bool:
    """As `claim_due`, of this one. False: it is not due."""
    return bool(
        await db.fetchval(
            "UPDATE domain_claims SET check_due_at = now() + interval '5 minutes' WHERE id = $1 AND check_due_at <= now() "
            "RETURNING true",
            id_,
        )
    )


async def find(db: Connection, id_: UUID) -> asyncpg.Record | None:
    """One that has not ended."""
    return await db.fetchrow(f"{_SELECT} WHERE id = $1 AND status IN {_OPEN}", id_)


async def find_locked(db: Connection, id_: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(f"{_SELECT} WHERE id = $1 AND status IN {_OPEN} FOR UPDATE", id_)


async def write(
    db: Connection, id_: UUID, status: str, *, blocked: str | None = None, due_at: datetime | None = None
) -> None:
    """`due_at` None: it has ended. One that is due again was asked for meanwhile."""
    await db.execute(
        "UPDATE domain_claims SET status = $2, blocked_reason = $3, "
        "check_due_at = CASE WHEN $4::timestamptz IS NOT NULL AND check_due_at <= now() THEN check_due_at ELSE $4 END "
        "WHERE id = $1",
        *(id_, status, blocked, due_at),
    )


async def supersede_others(db: Connection, name: str, completed: UUID) -> None:
    """The domain has changed hands: who still wants it claims it from its new owner."""
    await db.execute(
        "UPDATE domain_claims SET status = 'superseded', blocked_reason = NULL, check_due_at = NULL "
        f"WHERE name = $1 AND id <> $2 AND status IN {_OPEN}",
        *(name, completed),
    )


async def sent_since(db: Connection, org_id: UUID, domain_id: UUID, lowest: UUID) -> bool:
    """Whether the domain has sent anything with an id from `lowest` on."""
    return bool(
        await db.fetchval(
            "SELECT EXISTS (SELECT FROM emails WHERE org_id = $1 AND id >= $2 AND domain_id = $3)",
            *(org_id, lowest, domain_id),
        )
    )


async def has_waiting(db: Connection, org_id: UUID, domain_id: UUID) -> bool:
    """Whether mail of the domain waits, for its time or for another attempt."""
    return bool(await db.fetchval(_WAITING, org_id, domain_id))


_WAITING = """
SELECT EXISTS (SELECT FROM lanes l JOIN queue q ON q.lane_id = l.id JOIN emails e ON e.id = q.email_id
               WHERE l.org_id = $1 AND e.domain_id = $2)
"""
_OPEN = "('pending', 'verified', 'blocked')"
_SELECT = (
    "SELECT id, org_id, domain_id, name, region, asked, token, status, blocked_reason, failure_reason, asked_at, check_due_at, "
    "created_at, expires_at FROM domain_claims"
)
