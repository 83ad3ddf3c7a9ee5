"""Mailboxes: where received mail lies. One an address of a receiving domain, made when its first mail comes or by hand; and one an
account that is mirrored. Role app, except `ensure`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

import asyncpg

from mailcore.kit.ids import uuid7
from mailcore.store import pages
from mailcore.store.pages import Page, Slice
from mailcore.store.session import Connection

Key = tuple[UUID, str]
"""Organization, address in lower case."""
MAX_COUNTED = 10_000
"""Unread messages of a mailbox are counted up to here."""
DELETED_AT_ONCE = 2_000


async def ensure(db: Connection, wanted: Collection[Key], *, made: set[Key] | None = None) -> dict[Key, UUID]:
    """Found, or made: safe with several routers at once. An organization that is gone gets none. Role worker.

    `made`: into it goes what was not there before.
    """
    ordered = sorted(wanted)  # several at once lock in one order
    args = [key[0] for key in ordered], [key[1] for key in ordered]
    found = {(row["org_id"], row["address"]): row["id"] for row in await db.fetch(_FIND, *args)}
    if len(found) == len(ordered):
        return found
    if made is not None:
        made.update(key for key in ordered if key not in found)
    await db.execute(_MAKE, *args, [uuid7() for _ in ordered])
    # asked again: of two that made it at once, one waited and finds the other's
    return {(row["org_id"], row["address"]): row["id"] for row in await db.fetch(_FIND, *args)}


async def page(db: Connection, asked: Page, *, domain_id: UUID | None = None) -> Slice:
    if domain_id is None:
        return await pages.fetch(db, _SELECT + "WHERE true", [], asked, column="b.id")
    return await pages.fetch(db, _SELECT + "WHERE b.domain_id = $1", [domain_id], asked, column="b.id")


async def find(db: Connection, mailbox_id: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(_SELECT + "WHERE b.id = $1", mailbox_id)


async def create(db: Connection, org_id: UUID, address: str, display_name: str | None) -> UUID | None:
    """None: there is one with this address. Raises LookupError when its domain is none of the organization's."""
    domain_id = await db.fetchval("SELECT id FROM domains WHERE name = substring($1 from '[^@]*$')", address)
    if domain_id is None:
        raise LookupError(address)
    made: UUID | None = await db.fetchval(
        "INSERT INTO mailboxes (id, org_id, address, domain_id, display_name) VALUES ($1, $2, $3, $4, $5) "
        "ON CONFLICT (org_id, address) WHERE account_id IS NULL DO NOTHING RETURNING id",
        uuid7(),
        org_id,
        address,
        domain_id,
        display_name,
    )
    return made


async def rename(db: Connection, mailbox_id: UUID, display_name: str | None) -> bool:
    done = await db.fetchval(
        "UPDATE mailboxes SET display_name = $2 WHERE id = $1 RETURNING true", mailbox_id, display_name
    )
    return bool(done)


async def empty(db: Connection, mailbox_id: UUID) -> int:
    """Deletes some of its messages; fewer than DELETED_AT_ONCE: there are no more."""
    rows = await db.fetch(
        "DELETE FROM messages WHERE id = ANY (ARRAY(SELECT id FROM messages WHERE mailbox_id = $1 LIMIT $2)) RETURNING id",
        mailbox_id,
        DELETED_AT_ONCE,
    )
    return len(rows)


async def delete(db: Connection, mailbox_id: UUID) -> bool:
    """With what is still in it: `empty` it before."""
    return bool(await db.fetchval("DELETE FROM mailboxes WHERE id = $1 RETURNING true", mailbox_id))


async def ids_of(db: Connection, addresses: Sequence[str]) -> list[UUID]:
    rows = await db.fetch("SELECT id FROM mailboxes WHERE address = ANY ($1::text[])", list(addresses))
    return [row["id"] for row in rows]


_SELECT = f"""
SELECT b.id, b.address, b.display_name, b.domain_id, b.account_id, b.created_at,
       (SELECT count(*) FROM (SELECT FROM messages g WHERE g.mailbox_id = b.id AND NOT g.seen LIMIT {MAX_COUNTED}) u) AS unread,
       (SELECT max(g.received_at) FROM messages g WHERE g.mailbox_id = b.id) AS last_received_at
FROM mailboxes b
"""

_FIND = """
SELECT m.id, m.org_id, m.address FROM unnest($1::uuid[], $2::text[]) AS w (org_id, address)
JOIN mailboxes m ON m.org_id = w.org_id AND m.address = w.address AND m.account_id IS NULL
"""

_MAKE = """
INSERT INTO mailboxes (id, org_id, address, domain_id)
SELECT w.id, w.org_id, w.address, d.id
FROM unnest($1::uuid[], $2::text[], $3::uuid[]) WITH ORDINALITY AS w (org_id, address, id, n)
JOIN organizations o ON o.id = w.org_id
LEFT JOIN domains d ON d.org_id = w.org_id AND d.name = substring(w.address from '[^@]*$')
ORDER BY w.n
ON CONFLICT (org_id, address) WHERE account_id IS NULL DO NOTHING
"""
