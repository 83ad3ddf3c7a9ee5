"""Messages: a mail in a mailbox. Here those that routing puts there; mirrored ones are in store.accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg
import orjson

from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class RoutedMessage:
    id: UUID
    org_id: UUID
    mailbox_id: UUID
    arrival_id: UUID
    message_id: str | None
    from_: str | None
    to: list[str]
    cc: list[str]
    subject: str | None
    date: datetime | None
    size: int
    received_at: datetime


async def insert(db: Connection, new: Sequence[RoutedMessage]) -> None:
    """Idempotent on (mailbox, arrival). Role worker."""
    await db.execute(
        _INSERT,
        [one.id for one in new],
        [one.org_id for one in new],
        [one.mailbox_id for one in new],
        [one.arrival_id for one in new],
        [one.message_id for one in new],
        [one.from_ for one in new],
        [orjson.dumps(one.to).decode() for one in new],
        [orjson.dumps(one.cc).decode() for one in new],
        [one.subject for one in new],
        [one.date for one in new],
        [one.size for one in new],
        [one.received_at for one in new],
    )


async def of_arrival(db: Connection, arrival_id: UUID, addresses: Sequence[str]) -> list[asyncpg.Record]:
    """The messages that routing made of an arrival, in the mailboxes of these addresses. Role app."""
    rows: list[asyncpg.Record] = await db.fetch(
        "SELECT g.id, g.mailbox_id, b.address FROM mailboxes b JOIN messages g ON g.mailbox_id = b.id AND g.arrival_id = $1 "
        "WHERE b.address = ANY ($2) AND b.account_id IS NULL ORDER BY g.id",
        arrival_id,
        addresses,
    )
    return rows


_INSERT = """
INSERT INTO messages (id, org_id, mailbox_id, arrival_id, message_id, from_, to_, cc, subject, date, size, received_at)
SELECT id, org_id, mailbox_id, arrival_id, message_id, from_, ARRAY(SELECT jsonb_array_elements_text(to_::jsonb)),
       ARRAY(SELECT jsonb_array_elements_text(cc::jsonb)), subject, date, size, received_at
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::timestamptz[], $11::bigint[], $12::timestamptz[])
  AS t (id, org_id, mailbox_id, arrival_id, message_id, from_, to_, cc, subject, date, size, received_at)
ON CONFLICT (mailbox_id, arrival_id) WHERE arrival_id IS NOT NULL DO NOTHING
"""
