"""The tenants, as the installation sees them. Role worker."""

from __future__ import annotations

from uuid import UUID

from mailcore.store.session import Connection


async def first(db: Connection) -> UUID | None:
    """The one that operates the installation: the oldest. None: there is none yet."""
    found: UUID | None = await db.fetchval("SELECT id FROM organizations ORDER BY created_at, id LIMIT 1")
    return found
