"""What readers did with an email: one row each, and the delivery's last event. Role worker.

1. `open_`   the rows of some emails, made where they are missing, locked until the end of the transaction
2. `write`   what became of them
3. `move`    last events forward: delivered, then opened, then clicked; a bounce or complaint stays
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from mailcore.store.session import Connection


@dataclass(slots=True)
class Engagement:
    email_id: UUID
    org_id: UUID
    opened_at: datetime | None
    """First by a person."""
    clicked_at: datetime | None
    last_click: datetime | None
    """Of anybody."""
    last_link: bytes | None
    """8 octets of its digest."""
    hour: datetime | None
    in_hour: int
    """Events stored in that hour."""
    left_out: int
    """Hits that were counted and not stored, in all."""
    recipients: int
    """How many the email has."""
    recipient: str | None
    """The first of them."""
    delivered_at: datetime | None
    """Of the first delivery; while there is none, of the last attempt; None before the first one ended."""


async def open_(db: Connection, emails: Sequence[tuple[UUID, UUID]]) -> dict[UUID, Engagement]:
    """By email, for `(email, organization)`; an email that is no more, or another organization's, has none."""
    ids, orgs = [email for email, _ in emails], [org for _, org in emails]
    await db.execute(_MAKE, ids, orgs)
    return {row["email_id"]: Engagement(*row) for row in await db.fetch(_OPEN, ids)}


# in one order, so that two processes with the same emails wait for each other and do not deadlock
_MAKE = """
INSERT INTO engagements (email_id, org_id)
SELECT t.email_id, t.org_id FROM unnest($1::uuid[], $2::uuid[]) AS t (email_id, org_id)
WHERE EXISTS (SELECT FROM emails e WHERE e.id = t.email_id AND e.org_id = t.org_id)
ORDER BY t.email_id
ON CONFLICT DO NOTHING
"""
_OPEN = """
SELECT g.email_id, g.org_id, g.opened_at, g.clicked_at, g.last_click, g.last_link, g.hour, g.in_hour, g.left_out,
       d.recipients, d.recipient, a.delivered_at
FROM engagements g
CROSS JOIN LATERAL (SELECT count(*) AS recipients, min(recipient) AS recipient FROM deliveries WHERE email_id = g.email_id) d
CROSS JOIN LATERAL (SELECT coalesce(min(at) FILTER (WHERE outcome = 'delivered'), max(at)) AS delivered_at
                    FROM attempts WHERE email_id = g.email_id) a
WHERE g.email_id = ANY ($1::uuid[])
ORDER BY g.email_id FOR UPDATE OF g
"""


async def write(db: Connection, rows: Sequence[Engagement]) -> None:
    await db.execute(_WRITE, *([getattr(row, name) for row in rows] for name in _WRITTEN))


_WRITTEN = tuple(field.name for field in fields(Engagement))[:-3]
_WRITE = """
UPDATE engagements g
SET opened_at = t.opened_at, clicked_at = t.clicked_at, last_click = t.last_click, last_link = t.last_link, hour = t.hour,
    in_hour = t.in_hour, left_out = t.left_out
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::bytea[], $7::timestamptz[],
            $8::smallint[], $9::bigint[])
  AS t (email_id, org_id, opened_at, clicked_at, last_click, last_link, hour, in_hour, left_out)
WHERE g.email_id = t.email_id
"""


async def move(db: Connection, opened: Sequence[UUID], clicked: Sequence[UUID]) -> None:
    """An email to one recipient was read by that one, whatever we know of its delivery; of several, those who have it."""
    if opened:
        await db.execute(_MOVE, list(opened), "opened", ["queued", "sent", "delivery_delayed", "delivered"])
    if clicked:
        await db.execute(_MOVE, list(clicked), "clicked", ["queued", "sent", "delivery_delayed", "delivered", "opened"])


_MOVE = """
UPDATE deliveries d SET last_event = $2, last_event_at = now()
WHERE d.email_id = ANY ($1::uuid[]) AND d.last_event = ANY ($3::text[])
  AND (d.state = 'delivered'
       OR NOT EXISTS (SELECT FROM deliveries other WHERE other.email_id = d.email_id AND other.n <> d.n))
"""
