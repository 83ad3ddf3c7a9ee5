"""Domains of an organization and their DKIM keys. Role app."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class NewDomain:
    id: UUID
    org_id: UUID
    name: str
    region: str
    sending: bool
    receiving: bool
    custom_return_path: str
    open_tracking: bool
    click_tracking: bool
    tracking_subdomain: str | None
    tls: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewKey:
    id: UUID
    selector: str
    algorithm: str
    private_sealed: bytes
    public_txt: str


async def insert(db: Connection, domain: NewDomain, keys: Sequence[NewKey]) -> bool:
    """False when the organization has this domain already."""
    made = await db.fetchval(
        "INSERT INTO domains (id, org_id, name, region, sending, receiving, custom_return_path, open_tracking, "
        "click_tracking, tracking_subdomain, tls, created_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (org_id, name) DO NOTHING RETURNING true",
        *(domain.id, domain.org_id, domain.name, domain.region, domain.sending, domain.receiving),
        *(domain.custom_return_path, domain.open_tracking, domain.click_tracking, domain.tracking_subdomain),
        *(domain.tls, domain.created_at),
    )
    if not made:
        return False
    await db.executemany(
        "INSERT INTO dkim_keys (id, org_id, domain_id, selector, algorithm, private_sealed, public_txt) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        [
            (key.id, domain.org_id, domain.id, key.selector, key.algorithm, key.private_sealed, key.public_txt)
            for key in keys
        ],
    )
    return True


async def taken(db: Connection, name: str, org_id: UUID) -> bool:
    """Whether another organization has verified it."""
    return bool(await db.fetchval("SELECT lookup_domain_taken($1, $2)", name, org_id))


async def find(db: Connection, id_: UUID) -> asyncpg.Record | None:
    """With its active DKIM keys as `dkim`: `[{selector, public_txt}]`."""
    return await db.fetchrow(
        f"SELECT {_COLUMNS}, {_DKIM} FROM domains d WHERE id = $1",
        id_,
    )


async def page(db: Connection, page: Page) -> Slice:
    return await fetch(db, f"SELECT {_COLUMNS} FROM domains d WHERE true", [], page)


async def sending_id(db: Connection, name: str) -> UUID | None:
    """The verified sending domain of exactly this name: a verified subdomain does not cover its parent, nor the reverse."""
    found: UUID | None = await db.fetchval(
        "SELECT id FROM domains WHERE name = $1 AND status = 'verified' AND sending", name
    )
    return found


async def begin_verification(db: Connection, id_: UUID) -> dict[str, Any] | None:
    """Status `pending`, unless it is verified: such a domain goes on sending while it is checked again. None: no such domain."""
    row = await db.fetchrow(
        "UPDATE domains SET status = CASE WHEN status = 'verified' THEN status ELSE 'pending' END WHERE id = $1 "
        "RETURNING id, status",
        id_,
    )
    return None if row is None else dict(row)


async def delete(db: Connection, id_: UUID) -> bool:
    return bool(await db.fetchval("DELETE FROM domains WHERE id = $1 RETURNING true", id_))


_COLUMNS = (
    "id, name, status, region, sending, receiving, custom_return_path, open_tracking, click_tracking, tracking_subdomain, "
    "tls, record_status, created_at"
)
_DKIM = (
    "(SELECT coalesce(jsonb_agg(jsonb_build_object('selector', k.selector, 'public_txt', k.public_txt) "
    "ORDER BY k.algorithm DESC), '[]') FROM dkim_keys k WHERE k.domain_id = d.id AND k.active) AS dkim"
)
