"""Threads: which messages of a mailbox belong together, and by what that is known. Role worker, except where said."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg
import orjson

from mailcore.store import pages
from mailcore.store.pages import Page, Slice
from mailcore.store.session import Connection

Key = tuple[UUID, UUID]
"""Mailbox, and the digest of what leads to a thread there."""
MAX_PARTICIPANTS = 100


@dataclass(frozen=True, slots=True)
class Known:
    """A thread that a key leads to."""

    id: UUID
    subject: str | None
    participants: frozenset[str]
    messages: int
    """0: it is gone."""
    last_at: datetime | None


@dataclass(frozen=True, slots=True)
class Grown:
    """What is added to a thread, or a new one."""

    id: UUID
    org_id: UUID
    mailbox_id: UUID
    subject: str | None
    participants: list[str]
    messages: int
    first_at: datetime
    last_at: datetime


async def known(db: Connection, keys: Collection[Key]) -> dict[Key, Known]:
    rows = await db.fetch(_KNOWN, [key[0] for key in keys], [key[1] for key in keys])
    return {
        (row["mailbox_id"], row["key"]): Known(
            row["thread_id"],
            row["subject"],
            frozenset(row["participants"] or ()),
            row["messages"] or 0,
            row["last_at"],
        )
        for row in rows
    }


async def lead(
    db: Connection, wanted: Mapping[Key, UUID], orgs: Mapping[UUID, UUID], instead_of: Collection[UUID]
) -> dict[Key, UUID]:
    """Makes keys lead to threads; where each leads now. One that already leads elsewhere keeps its thread, unless that is in
    `instead_of`: whoever made it at the same time was first. `orgs`: organization of each mailbox."""
    ordered = sorted(wanted)  # several routers at once lock in one order
    rows = await db.fetch(
        _LEAD,
        [orgs[key[0]] for key in ordered],
        [key[0] for key in ordered],
        [key[1] for key in ordered],
        [wanted[key] for key in ordered],
        list(instead_of),
    )
    return {(row["mailbox_id"], row["key"]): row["thread_id"] for row in rows}


async def grow(db: Connection, grown: Sequence[Grown]) -> None:
    ordered = sorted(grown, key=lambda one: one.id)
    await db.execute(
        _GROW,
        [one.id for one in ordered],
        [one.org_id for one in ordered],
        [one.mailbox_id for one in ordered],
        [one.subject for one in ordered],
        [orjson.dumps(one.participants).decode() for one in ordered],
        [one.messages for one in ordered],
        [one.first_at for one in ordered],
        [one.last_at for one in ordered],
        MAX_PARTICIPANTS,
    )


async def shrink(db: Connection, thread_id: UUID) -> None:
    """It lost a message; without one it is gone. Role app."""
    await db.execute("UPDATE threads SET messages = messages - 1 WHERE id = $1 AND messages > 0", thread_id)
    await db.execute("DELETE FROM threads WHERE id = $1 AND messages = 0", thread_id)


async def lost(db: Connection, thread_ids: Sequence[UUID]) -> None:
    """Each as often as it lost a message. One without messages is no longer listed; it comes back with its next one."""
    await db.execute(
        "UPDATE threads t SET messages = greatest(0, t.messages - g.n) "
        "FROM (SELECT id, count(*)::integer AS n FROM unnest($1::uuid[]) AS u (id) GROUP BY id ORDER BY id) g WHERE t.id = g.id",
        list(thread_ids),
    )


async def page(db: Connection, asked: Page, *, mailbox_id: UUID | None = None, unread: bool | None = None) -> Slice:
    """The one with the newest message first. Role app."""
    select, args = _SELECT, []
    if mailbox_id is not None:
        args.append(mailbox_id)
        select += f" AND t.mailbox_id = ${len(args)}"
    if unread is not None:
        select += (
            f" AND {'' if unread else 'NOT '}EXISTS (SELECT FROM messages g WHERE g.thread_id = t.id AND NOT g.seen)"
        )
    return await pages.fetch_by_time(db, select, args, asked, table="threads", time="last_at", alias="t")


async def find(db: Connection, thread_id: UUID) -> asyncpg.Record | None:
    """Role app."""
    return await db.fetchrow(_SELECT + " AND t.id = $1", thread_id)


_SELECT = """
SELECT t.id, t.mailbox_id, b.address, b.account_id, t.subject, t.participants, t.messages, t.first_at, t.last_at,
       (SELECT count(*) FROM messages g WHERE g.thread_id = t.id AND NOT g.seen) AS unread, g.snippet, g.from_
FROM threads t JOIN mailboxes b ON b.id = t.mailbox_id
LEFT JOIN LATERAL (SELECT snippet, from_ FROM messages WHERE thread_id = t.id ORDER BY received_at DESC, id DESC LIMIT 1) g ON true
WHERE t.messages > 0
"""

_KNOWN = """
SELECT k.mailbox_id, k.key, k.thread_id, t.subject, t.participants, t.messages, t.last_at
FROM unnest($1::uuid[], $2::uuid[]) AS w (mailbox_id, key)
JOIN thread_keys k ON k.mailbox_id = w.mailbox_id AND k.key = w.key
LEFT JOIN threads t ON t.id = k.thread_id
"""

_LEAD = """
INSERT INTO thread_keys (org_id, mailbox_id, key, thread_id)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[])
ON CONFLICT (mailbox_id, key) DO UPDATE
SET thread_id = CASE WHEN thread_keys.thread_id = ANY ($5) THEN excluded.thread_id ELSE thread_keys.thread_id END
RETURNING mailbox_id, key, thread_id
"""

_GROW = """
INSERT INTO threads (id, org_id, mailbox_id, subject, participants, messages, first_at, last_at)
SELECT id, org_id, mailbox_id, subject, ARRAY(SELECT jsonb_array_elements_text(participants::jsonb)), messages, first_at, last_at
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::integer[], $7::timestamptz[], $8::timestamptz[])
  AS t (id, org_id, mailbox_id, subject, participants, messages, first_at, last_at)
ON CONFLICT (id) DO UPDATE SET
  messages = threads.messages + excluded.messages,
  first_at = least(threads.first_at, excluded.first_at),
  last_at = greatest(threads.last_at, excluded.last_at),
  participants = threads.participants
    || (ARRAY(SELECT p FROM unnest(excluded.participants) p WHERE p <> ALL (threads.participants)))
         [1:greatest(0, $9::integer - cardinality(threads.participants))]
"""
