"""API keys: found by the SHA-256 of their token, which is never stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection, Store


@dataclass(frozen=True, slots=True)
class Key:
    id: UUID
    org_id: UUID
    permission: str
    domain_id: UUID | None


async def find(store: Store, digest: bytes) -> Key | None:
    rows = await store.lookup("SELECT id, org_id, permission, domain_id FROM lookup_api_key($1)", digest)
    return Key(rows[0]["id"], rows[0]["org_id"], rows[0]["permission"], rows[0]["domain_id"]) if rows else None


async def insert(
    db: Connection, *, id_: UUID, org_id: UUID, name: str, digest: bytes, permission: str, domain_id: UUID | None
) -> None:
    await db.execute(
        "INSERT INTO api_keys (id, org_id, name, token_hash, permission, domain_id) VALUES ($1, $2, $3, $4, $5, $6)",
        id_,
        org_id,
        name,
        digest,
        permission,
        domain_id,
    )


async def page(db: Connection, page: Page) -> Slice:
    return await fetch(db, "SELECT id, name, created_at, last_used_at FROM api_keys WHERE true", [], page)


async def delete(db: Connection, id_: UUID) -> bool:
    return bool(await db.fetchval("DELETE FROM api_keys WHERE id = $1 RETURNING true", id_))


async def note_use(db: Connection, ids: Sequence[UUID]) -> None:
    await db.execute("UPDATE api_keys SET last_used_at = now() WHERE id = ANY ($1::uuid[])", list(ids))
