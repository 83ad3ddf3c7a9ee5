"""Senders that an organization, or one of its mailboxes, wants no mail of. Read by routing with its routes (store.routes.load)."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from mailcore.kit.ids import uuid7
from mailcore.store import pages
from mailcore.store.pages import Page, Slice
from mailcore.store.session import Connection

MAX_BLOCKED = 1_000
"""Of one organization: all of them are tried with each mail."""


async def page(db: Connection, asked: Page, mailbox_id: UUID | None) -> Slice:
    """Newest first; of one mailbox only, where one is named. Role app."""
    if mailbox_id is None:
        return await pages.fetch(db, _SELECT + "WHERE true", [], asked, column="b.id")
    return await pages.fetch(db, _SELECT + "WHERE b.mailbox_id = $1", [mailbox_id], asked, column="b.id")


async def find(db: Connection, id_: UUID) -> asyncpg.Record | None:
    """Role app."""
    return await db.fetchrow(_SELECT + "WHERE b.id = $1", id_)


async def add(db: Connection, org_id: UUID, sender: str, mailbox_id: UUID | None) -> UUID | None:
    """Its id, also where it is there already; None: there are MAX_BLOCKED. Role app."""
    await db.execute("SELECT pg_advisory_xact_lock(hashtext('postroom.blocked'), hashtext(current_org()::text))")
    known: UUID | None = await db.fetchval(
        "SELECT id FROM blocked_senders WHERE sender = $1 AND mailbox_id IS NOT DISTINCT FROM $2", sender, mailbox_id
    )
    if known is not None:
        return known
    if await db.fetchval("SELECT count(*) FROM blocked_senders") >= MAX_BLOCKED:
        return None
    id_ = uuid7()
    await db.execute(
        "INSERT INTO blocked_senders (id, org_id, mailbox_id, sender) VALUES ($1, $2, $3, $4)",
        *(id_, org_id, mailbox_id, sender),
    )
    return id_


async def delete(db: Connection, id_: UUID) -> bool:
    """False: there is none. Role app."""
    return bool(await db.fetchval("DELETE FROM blocked_senders WHERE id = $1 RETURNING true", id_))


_SELECT = """
SELECT b.id, b.sender, b.mailbox_id, m.address AS mailbox, b.created_at
FROM blocked_senders b LEFT JOIN mailboxes m ON m.id = b.mailbox_id
"""
