"""Messages: a mail in a mailbox. Those that routing puts there are written here, mirrored ones in store.accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import asyncpg
import orjson

from mailcore.store import pages, threads
from mailcore.store.pages import Page, Slice
from mailcore.store.session import Connection

SEEN, FLAGGED, JUNK = "\\Seen", "\\Flagged", "$Junk"
"""RFC 9051 §2.3.2."""


@dataclass(frozen=True, slots=True)
class Related:
    """By what a message finds its thread: digests of ids (flow.threads)."""

    message_id: UUID | None = None
    in_reply_to: tuple[UUID, ...] = ()
    references: tuple[UUID, ...] = ()
    """The newest first."""
    provider: UUID | None = None
    subject: UUID | None = None
    base_subject: str = ""
    is_reply: bool = False
    sender: str | None = None
    people: tuple[str, ...] = ()
    """Of From, To and Cc, in lower case."""


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
    reply_to: list[str] = field(default_factory=list)
    attachments: int = 0
    """Those that are not shown within its text."""
    snippet: str | None = None
    flags: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    words: str = ""
    """As Postgres reads a tsvector; each with its mark (flow.words)."""
    related: Related = Related()
    thread_id: UUID | None = None
    thread_by: str | None = None
    """What led to it: new, in_reply_to, references, message_id, provider, subject."""


async def insert(db: Connection, new: Sequence[RoutedMessage]) -> None:
    """With the words they are found by. Idempotent on (mailbox, arrival). Role worker."""
    await db.execute(
        _INSERT,
        [one.id for one in new],
        [one.org_id for one in new],
        [one.mailbox_id for one in new],
        [one.arrival_id for one in new],
        [one.message_id for one in new],
        [one.from_ for one in new],
        [_list(one.to) for one in new],
        [_list(one.cc) for one in new],
        [one.subject for one in new],
        [one.date for one in new],
        [one.size for one in new],
        [one.received_at for one in new],
        [_list(one.reply_to) for one in new],
        [one.attachments for one in new],
        [one.snippet for one in new],
        [_list(one.flags) for one in new],
        [one.thread_id for one in new],
        [one.thread_by for one in new],
        [one.words for one in new],
        [_list(one.doubts) for one in new],
    )


@dataclass(frozen=True, slots=True)
class Filter:
    """None: whatever it is."""

    mailbox_ids: Sequence[UUID] | None = None
    account_id: UUID | None = None
    thread_id: UUID | None = None
    seen: bool | None = None
    flagged: bool | None = None
    junk: bool | None = None
    attachments: bool | None = None
    since: datetime | None = None
    """Received then or later."""
    before: datetime | None = None


async def page(db: Connection, asked: Page, narrow: Filter) -> Slice:
    """Newest first by the time they came. Role app."""
    select, args = _SELECT + "WHERE true", []

    def also(clause: str, value: object) -> None:
        nonlocal select
        if value is not None:
            args.append(value)
            select += f" AND {clause.format(f'${len(args)}')}"

    boxes = narrow.mailbox_ids
    if boxes is not None and len(boxes) == 1:
        also("m.mailbox_id = {}", boxes[0])  # one list is in order already
    else:
        also("m.mailbox_id = ANY ({}::uuid[])", boxes)
    also("b.account_id = {}", narrow.account_id)
    also("m.thread_id = {}", narrow.thread_id)
    also("m.received_at >= {}", narrow.since)
    also("m.received_at < {}", narrow.before)
    for column, wanted in (
        ("m.seen", narrow.seen),
        ("m.flagged", narrow.flagged),
        ("m.junk", narrow.junk),
        ("m.attachments > 0", narrow.attachments),
    ):
        if wanted is not None:  # spelled as the partial indexes are
            select += f" AND {'' if wanted else 'NOT '}({column})"
    return await pages.fetch_by_time(db, select, args, asked, table="messages", time="received_at", alias="m")


async def of_ids(db: Connection, ids: Sequence[UUID]) -> list[asyncpg.Record]:
    """In the order of `ids`, without those that are gone. Role app."""
    rows = {row["id"]: row for row in await db.fetch(_SELECT + "WHERE m.id = ANY ($1::uuid[])", list(ids))}
    return [rows[id_] for id_ in ids if id_ in rows]


async def find(db: Connection, message_id: UUID) -> asyncpg.Record | None:
    """Role app."""
    return await db.fetchrow(_SELECT + "WHERE m.id = $1", message_id)


async def flag(
    db: Connection,
    *,
    ids: Sequence[UUID] | None = None,
    thread_id: UUID | None = None,
    seen: bool | None = None,
    flagged: bool | None = None,
) -> list[UUID]:
    """Sets flags of messages, or of all of a thread; which changed or were so already. Role app."""
    rows = await db.fetch(_FLAG, ids and list(ids), thread_id, seen, flagged)
    return [row["id"] for row in rows]


async def delete(db: Connection, message_id: UUID) -> bool:
    """Out of its mailbox and its thread; the arrival with its raw form stays as long as arrivals do. Role app."""
    row = await db.fetchrow("DELETE FROM messages WHERE id = $1 RETURNING thread_id", message_id)
    if row is not None and row["thread_id"] is not None:
        await threads.shrink(db, row["thread_id"])
    return row is not None


def _list(texts: Sequence[str]) -> str:
    return orjson.dumps(list(texts)).decode()


_SELECT = """
SELECT m.id, m.org_id, m.mailbox_id, b.address, b.account_id, m.arrival_id, m.message_id, m.from_, m.to_, m.cc, m.reply_to,
       m.subject, m.date, m.size, m.flags, m.seen, m.flagged, m.junk, m.received_at, m.attachments, m.snippet, m.doubts,
       m.thread_id, m.thread_by
FROM messages m JOIN mailboxes b ON b.id = m.mailbox_id
"""

_INSERT = """
WITH given AS MATERIALIZED (
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
                       $10::timestamptz[], $11::bigint[], $12::timestamptz[], $13::text[], $14::integer[], $15::text[],
                       $16::text[], $17::uuid[], $18::text[], $19::text[], $20::text[])
    AS t (id, org_id, mailbox_id, arrival_id, message_id, from_, to_, cc, subject, date, size, received_at, reply_to, attachments,
          snippet, flags, thread_id, thread_by, words, doubts)
), made AS (
  INSERT INTO messages (id, org_id, mailbox_id, arrival_id, message_id, from_, to_, cc, subject, date, size, received_at, reply_to,
                        attachments, snippet, flags, thread_id, thread_by, doubts)
  SELECT id, org_id, mailbox_id, arrival_id, message_id, from_, ARRAY(SELECT jsonb_array_elements_text(to_::jsonb)),
         ARRAY(SELECT jsonb_array_elements_text(cc::jsonb)), subject, date, size, received_at,
         ARRAY(SELECT jsonb_array_elements_text(reply_to::jsonb)), attachments, snippet,
         ARRAY(SELECT jsonb_array_elements_text(flags::jsonb)), thread_id, thread_by,
         ARRAY(SELECT jsonb_array_elements_text(doubts::jsonb))
  FROM given
  ON CONFLICT (mailbox_id, arrival_id) WHERE arrival_id IS NOT NULL DO NOTHING
  RETURNING id
)
INSERT INTO message_words (message_id, org_id, mailbox_id, received_at, words)
SELECT id, org_id, mailbox_id, received_at, words::tsvector FROM given JOIN made USING (id) WHERE words <> ''
"""

_FLAG = """
UPDATE messages m SET flags =
  array_remove(array_remove(m.flags, CASE WHEN $3::boolean IS NOT NULL THEN '\\Seen' END),
               CASE WHEN $4::boolean IS NOT NULL THEN '\\Flagged' END)
  || CASE WHEN $3 THEN ARRAY['\\Seen'] ELSE '{}' END || CASE WHEN $4 THEN ARRAY['\\Flagged'] ELSE '{}' END
WHERE ($1::uuid[] IS NULL OR m.id = ANY ($1)) AND ($2::uuid IS NULL OR m.thread_id = $2) AND num_nonnulls($1, $2) > 0
RETURNING m.id
"""
