"""Addresses that an organization sends nothing to. Written for tenants by the API and in settle's transaction; read by the door
and by claims, each in a statement of its own (`store.emails`, `store.deliveries`).

An address counts as it is written after `folded`: `user@x` and `user+tag@x` are two, for only the host of x knows whether they
are one mailbox (RFC 5321 §2.3.11).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from mailcore.kit.ids import uuid7
from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection

ORIGINS = ("bounce", "complaint", "manual")


@dataclass(frozen=True, slots=True)
class NewSuppression:
    org_id: UUID
    email: str
    """Of `folded`."""
    origin: str
    source_id: UUID | None = None
    """The email that bounced or was complained about."""


@dataclass(frozen=True, slots=True)
class Suppression:
    id: UUID
    org_id: UUID
    email: str
    origin: str
    source_id: UUID | None
    created_at: datetime


def folded(address: str) -> str:
    """An address whose domain is in normal form, as it is compared: ASCII letters in lower case, others as they are.

    The same as `lower(… COLLATE "C")` in SQL, whatever the server's locale.
    """
    return address.encode().lower().decode()


async def add(db: Connection, new: Sequence[NewSuppression]) -> list[Suppression]:
    """Those that were not there yet; what was there keeps its origin. Role app or worker."""
    ordered = sorted({(each.org_id, each.email): each for each in new}.values(), key=lambda n: (n.org_id.int, n.email))
    rows = await db.fetch(
        _ADD,
        [uuid7() for _ in ordered],
        [each.org_id for each in ordered],
        [each.email for each in ordered],
        [each.origin for each in ordered],
        [each.source_id for each in ordered],
    )
    return [Suppression(*row) for row in rows]


async def ids(db: Connection, emails: Sequence[str]) -> dict[str, UUID]:
    """Role app."""
    rows = await db.fetch("SELECT email, id FROM suppressions WHERE email = ANY ($1::text[])", emails)
    return {row["email"]: row["id"] for row in rows}


async def find(db: Connection, key: UUID | str) -> asyncpg.Record | None:
    """By id or by folded address; role app."""
    column = "id" if isinstance(key, UUID) else "email"
    return await db.fetchrow(f"SELECT {_COLUMNS} FROM suppressions WHERE {column} = $1", key)


async def page(db: Connection, page: Page, origin: str | None = None) -> Slice:
    select = f"SELECT {_COLUMNS} FROM suppressions WHERE org_id = (SELECT current_org())"
    if origin is None:
        return await fetch(db, select, [], page)
    return await fetch(db, f"{select} AND origin = $1", [origin], page)


async def remove(db: Connection, ids: Sequence[UUID] = (), emails: Sequence[str] = ()) -> list[Suppression]:
    """Those that were there; role app."""
    rows = await db.fetch(
        f"DELETE FROM suppressions WHERE id = ANY ($1::uuid[]) OR email = ANY ($2::text[]) RETURNING {_COLUMNS}",
        ids,
        emails,
    )
    return [Suppression(*row) for row in rows]


_COLUMNS = "id, org_id, email, origin, source_id, created_at"
# one order for all: no deadlock
_ADD = f"""
INSERT INTO suppressions (id, org_id, email, origin, source_id)
SELECT id, org_id, email, origin, source_id
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::uuid[]) WITH ORDINALITY
  AS t (id, org_id, email, origin, source_id, place)
ORDER BY place
ON CONFLICT (org_id, email) DO NOTHING
RETURNING {_COLUMNS}
"""
