"""API keys: found by the SHA-256 of their token, which is never stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection, Store


@dataclass(frozen=True, slots=True)
class Key:
    id: UUID
    org_id: UUID
    permission: str
    """`full_access` or `sending_access`."""
    domain_ids: frozenset[UUID] | None
    """What it sends from; None: all of the organization's domains. Ids of deleted domains stay."""
    status: str
    """`active`, `inactive`, `suspended`."""
    expires_at: datetime | None
    rate_limit: int | None
    """The organization's own, requests a second; 0: none; None: the setting."""


@dataclass(frozen=True, slots=True)
class NewKey:
    id: UUID
    org_id: UUID
    name: str
    digest: bytes
    """SHA-256 of the token."""
    permission: str
    domain_ids: Sequence[UUID] | None
    expires_at: datetime | None


async def find(store: Store, digest: bytes) -> Key | None:
    rows = await store.lookup(_LOOKUP, digest)
    if not rows:
        return None
    row = rows[0]
    return Key(
        *(row["id"], row["org_id"], row["permission"]),
        None if row["domain_ids"] is None else frozenset(row["domain_ids"]),
        *(row["status"], row["expires_at"], row["rate_limit"]),
    )


async def insert(db: Connection, key: NewKey) -> None:
    await db.execute(
        "INSERT INTO api_keys (id, org_id, name, token_hash, permission, domain_ids, expires_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        *(key.id, key.org_id, key.name, key.digest, key.permission, key.domain_ids, key.expires_at),
    )


async def page(db: Connection, page: Page) -> Slice:
    return await fetch(db, f"SELECT {_COLUMNS} FROM api_keys WHERE true", [], page)


async def get(db: Connection, id_: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(f"SELECT {_COLUMNS} FROM api_keys WHERE id = $1 FOR UPDATE", id_)


async def update(
    db: Connection, id_: UUID, *, name: str, status: str, domain_ids: Sequence[UUID] | None, expires_at: datetime | None
) -> None:
    await db.execute(
        "UPDATE api_keys SET name = $2, status = $3, domain_ids = $4, expires_at = $5 WHERE id = $1",
        *(id_, name, status, domain_ids, expires_at),
    )


async def delete(db: Connection, id_: UUID) -> bool:
    return bool(await db.fetchval("DELETE FROM api_keys WHERE id = $1 RETURNING true", id_))


async def note_use(db: Connection, ids: Sequence[UUID]) -> None:
    await db.execute("UPDATE api_keys SET last_used_at = now() WHERE id = ANY ($1::uuid[])", list(ids))


_COLUMNS = "id, name, permission, domain_ids, status, expires_at, created_at, last_used_at"
_LOOKUP = "SELECT id, org_id, permission, domain_ids, status, expires_at, rate_limit FROM lookup_api_key($1)"
