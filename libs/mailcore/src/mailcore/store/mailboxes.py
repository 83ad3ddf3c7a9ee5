"""Mailboxes: where received mail lies. One an address of a receiving domain, made when its first mail comes. Role worker."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from mailcore.kit.ids import uuid7
from mailcore.store.session import Connection

Key = tuple[UUID, str]
"""Organization, address in lower case."""


async def ensure(db: Connection, wanted: Collection[Key]) -> dict[Key, UUID]:
    """Found, or made: safe with several routers at once. An organization that is gone gets none."""
    ordered = sorted(wanted)  # several at once lock in one order
    args = [key[0] for key in ordered], [key[1] for key in ordered]
    found = {(row["org_id"], row["address"]): row["id"] for row in await db.fetch(_FIND, *args)}
    if len(found) == len(ordered):
        return found
    await db.execute(_MAKE, *args, [uuid7() for _ in ordered])
    # asked again: of two that made it at once, one waited and finds the other's
    return {(row["org_id"], row["address"]): row["id"] for row in await db.fetch(_FIND, *args)}


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
