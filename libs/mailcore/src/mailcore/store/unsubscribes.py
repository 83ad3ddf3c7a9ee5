"""Who wants no more broadcast mail: of an organization, or of one of its lists. Transactional mail is not asked about it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from mailcore.store.session import Connection


async def add(db: Connection, org_id: UUID, recipient: str, list_id: UUID, email_id: UUID) -> bool:
    """Role app. `recipient` in lower case. False: was already there, which is as good."""
    return bool(await db.fetchval(_ADD, org_id, recipient, list_id, email_id))


_ADD = """
INSERT INTO unsubscribes (org_id, recipient, list_id, email_id) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING true
"""


async def unsubscribed(db: Connection, asked: Sequence[tuple[UUID, str, UUID]]) -> set[tuple[UUID, str, UUID]]:
    """Of `(organization, recipient in lower case, list)` those who must not be sent to: they left the list, or all of them.

    Role app, door or worker. To ask before broadcast-class mail is stored. The list `mime.tracking.ALL` (the nil UUID) is that of
    mail without one, and who left it gets no broadcast mail at all.
    """
    rows = await db.fetch(
        _UNSUBSCRIBED,
        [org_id for org_id, _, _ in asked],
        [recipient for _, recipient, _ in asked],
        [list_id for _, _, list_id in asked],
    )
    return {(row[0], row[1], row[2]) for row in rows}


_UNSUBSCRIBED = """
SELECT t.org_id, t.recipient, t.list_id
FROM unnest($1::uuid[], $2::text[], $3::uuid[]) AS t (org_id, recipient, list_id)
WHERE EXISTS (SELECT FROM unsubscribes u WHERE u.org_id = t.org_id AND u.recipient = t.recipient COLLATE "C"
              AND u.list_id IN (t.list_id, '00000000-0000-0000-0000-000000000000'))
"""


async def remove(db: Connection, recipient: str, list_id: UUID) -> bool:
    """Somebody subscribed again. Role app. False: was not there."""
    return bool(
        await db.fetchval(
            "DELETE FROM unsubscribes WHERE recipient = $1 AND list_id = $2 RETURNING true", recipient, list_id
        )
    )
