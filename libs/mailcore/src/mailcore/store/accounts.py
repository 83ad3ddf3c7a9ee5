"""IMAP accounts, their folders, and the mirrored messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mailcore.store import threads
from mailcore.store.messages import Related
from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class Account:
    id: UUID
    org_id: UUID
    host: str
    port: int
    security: str
    username: str
    password_sealed: bytes
    failures: int


@dataclass(frozen=True, slots=True)
class Folder:
    id: UUID
    uidvalidity: int
    watermark: int
    mailbox_id: UUID


@dataclass(frozen=True, slots=True)
class MirroredMessage:
    id: UUID
    org_id: UUID
    mailbox_id: UUID
    uid: int
    message_id: str | None
    from_: str | None
    to: list[str]
    cc: list[str]
    subject: str | None
    date: datetime | None
    size: int
    flags: list[str]
    received_at: datetime
    reply_to: list[str]
    doubts: list[str]
    words: str
    """As store.messages has them."""
    related: Related
    thread_id: UUID | None = None
    thread_by: str | None = None


# ---- for the api, as the tenant --------------------------------------------------------------------------------------

COLUMNS = "id, host, port, security, username, state, error, synced_at, created_at"


async def add(
    db: Connection,
    *,
    account_id: UUID,
    mailbox_id: UUID,
    org_id: UUID,
    host: str,
    port: int,
    security: str,
    username: str,
    password_sealed: bytes,
) -> Any | None:
    """The new account's row with its mailbox; None when this login is connected already."""
    row = await db.fetchrow(
        "INSERT INTO accounts (id, org_id, host, port, security, username, password_sealed) VALUES ($1, $2, $3, $4, $5, $6, $7) "
        f"ON CONFLICT (org_id, host, port, username) DO NOTHING RETURNING {COLUMNS}",
        account_id,
        org_id,
        host,
        port,
        security,
        username,
        password_sealed,
    )
    if row is not None:
        await db.execute(
            "INSERT INTO mailboxes (id, org_id, address, account_id) VALUES ($1, $2, $3, $4)",
            mailbox_id,
            org_id,
            username.lower(),
            account_id,
        )
    return row


async def get(db: Connection, org_id: UUID, account_id: UUID) -> Any | None:
    return await db.fetchrow(f"SELECT {COLUMNS} FROM accounts WHERE org_id = $1 AND id = $2", org_id, account_id)


async def remove(db: Connection, org_id: UUID, account_id: UUID) -> bool:
    """With its mailbox, folders and mirrored messages; the mail on the server stays."""
    return bool(
        await db.fetchval("DELETE FROM accounts WHERE org_id = $1 AND id = $2 RETURNING true", org_id, account_id)
    )


# ---- for imap-sync, as the worker ------------------------------------------------------------------------------------


async def claim(db: Connection, worker: int, limit: int, poll_seconds: float) -> list[Account]:
    """Accounts that are due; the next due time is written first, so a crash costs one round."""
    rows = await db.fetch(_CLAIM, worker, limit, poll_seconds)
    return [Account(*row.values()) for row in rows]


_CLAIM = """
UPDATE accounts SET worker = $1, leased_at = clock_timestamp(), due_at = clock_timestamp() + make_interval(secs => $3)
WHERE id IN (
  SELECT id FROM accounts WHERE due_at <= clock_timestamp() AND worker IS NULL AND state <> 'disabled'
  ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING id, org_id, host, port, security, username, password_sealed, failures
"""


async def take_back(db: Connection, workers: Sequence[int]) -> int:
    """Accounts of dead workers become due at once. Same transaction as workers.bury."""
    rows = await db.fetch(
        "UPDATE accounts SET worker = NULL, due_at = clock_timestamp() WHERE worker = ANY ($1) RETURNING id",
        list(workers),
    )
    return len(rows)


async def strays(db: Connection, worker: int, held: Collection[UUID], *, older_than: float) -> int:
    """Accounts leased to this worker that it does not have in hand become due: an answer of the database was lost.

    `older_than`: seconds; a younger lease may be a claim whose answer is on its way.
    """
    rows = await db.fetch(
        "UPDATE accounts SET worker = NULL, due_at = clock_timestamp() WHERE worker = $1 AND id <> ALL ($2::uuid[]) "
        "AND leased_at < clock_timestamp() - make_interval(secs => $3) RETURNING id",
        worker,
        list(held),
        older_than,
    )
    return len(rows)


async def settle(
    db: Connection, account_id: UUID, worker: int, *, error: str | None = None, retry_seconds: float | None = None
) -> bool:
    """Ends the lease: in step, or with what went wrong. False: the lease is no longer ours, nothing was written."""
    return bool(
        await db.fetchval(
            "UPDATE accounts SET worker = NULL, state = CASE WHEN $3::text IS NULL THEN 'ok' ELSE 'error' END, error = $3, "
            "failures = CASE WHEN $3 IS NULL THEN 0 ELSE failures + 1 END, "
            "synced_at = CASE WHEN $3 IS NULL THEN clock_timestamp() ELSE synced_at END, "
            "due_at = CASE WHEN $4::float8 IS NULL THEN due_at ELSE clock_timestamp() + make_interval(secs => $4) END "
            "WHERE id = $1 AND worker = $2 RETURNING true",
            account_id,
            worker,
            error,
            retry_seconds,
        )
    )


async def lag_seconds(db: Connection) -> float:
    """Seconds since the account in trouble or late the longest was in step."""
    lag = await db.fetchval(
        "SELECT extract(epoch FROM max(clock_timestamp() - coalesce(synced_at, created_at))) FROM accounts "
        "WHERE state <> 'disabled'"
    )
    return float(lag or 0)


async def open_folder(db: Connection, account: Account, folder_id: UUID, name: str, uidvalidity: int) -> Folder:
    """The folder as mirrored so far. A new UIDVALIDITY (RFC 3501 §2.3.1.1) voids its UIDs: the mirror starts again."""
    row = await db.fetchrow(
        "INSERT INTO folders (id, org_id, account_id, name, uidvalidity) VALUES ($1, $2, $3, $4, $5) "
        "ON CONFLICT (account_id, name) DO UPDATE SET name = excluded.name "
        "RETURNING id, uidvalidity, watermark, (SELECT b.id FROM mailboxes b WHERE b.account_id = $3) AS mailbox_id",
        folder_id,
        account.org_id,
        account.id,
        name,
        uidvalidity,
    )
    if row["uidvalidity"] == uidvalidity:
        return Folder(row["id"], uidvalidity, row["watermark"], row["mailbox_id"])
    gone = await db.fetch("DELETE FROM messages WHERE folder_id = $1 RETURNING thread_id", row["id"])
    await threads.lost(db, [one["thread_id"] for one in gone if one["thread_id"] is not None])
    await db.execute("UPDATE folders SET uidvalidity = $2, watermark = 0 WHERE id = $1", row["id"], uidvalidity)
    return Folder(row["id"], uidvalidity, 0, row["mailbox_id"])


async def hold(db: Connection, account: Account, worker: int) -> bool:
    """Whether the lease is ours, and until the transaction ends nobody else's."""
    return bool(
        await db.fetchval("SELECT true FROM accounts WHERE id = $1 AND worker = $2 FOR UPDATE", account.id, worker)
    )


async def not_yet(db: Connection, folder: Folder, uids: Collection[int]) -> set[int]:
    """Those of `uids` that are not here."""
    rows = await db.fetch(
        "SELECT uid FROM messages WHERE folder_id = $1 AND uidvalidity = $2 AND uid = ANY ($3::bigint[])",
        folder.id,
        folder.uidvalidity,
        list(uids),
    )
    return set(uids) - {row["uid"] for row in rows}


async def mirror(db: Connection, folder: Folder, messages: Sequence[MirroredMessage], watermark: int) -> None:
    """Stores messages and moves the watermark, together. `hold` the account before, and ask what is `not_yet` here."""
    await db.executemany(
        _MIRROR,
        [
            (
                message.id,
                message.org_id,
                message.mailbox_id,
                folder.id,
                folder.uidvalidity,
                message.uid,
                message.message_id,
                message.from_,
                message.to,
                message.cc,
                message.subject,
                message.date,
                message.size,
                message.flags,
                message.received_at,
                message.reply_to,
                message.doubts,
                message.thread_id,
                message.thread_by,
                message.words,
            )
            for message in messages
        ],
    )
    await db.execute(
        "UPDATE folders SET watermark = $3 WHERE id = $1 AND uidvalidity = $2 AND watermark < $3",
        folder.id,
        folder.uidvalidity,
        watermark,
    )


_MIRROR = """
WITH made AS (
  INSERT INTO messages (id, org_id, mailbox_id, folder_id, uidvalidity, uid, message_id, from_, to_, cc, subject, date, size, flags,
                        received_at, reply_to, doubts, thread_id, thread_by)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
  ON CONFLICT DO NOTHING RETURNING id, org_id, mailbox_id, received_at
)
INSERT INTO message_words (message_id, org_id, mailbox_id, received_at, words)
SELECT id, org_id, mailbox_id, received_at, $20::text::tsvector FROM made
"""
