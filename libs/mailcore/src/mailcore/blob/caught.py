"""Caught mail: what the catcher took instead of the world, kept for reading back. One writer, many readers.

One SQLite file (WAL, synchronous=FULL) in the folder: a batch is one transaction and one fsync, SQLite syncs the folder when it
makes a file, a crash leaves whole batches only, and lists by recipient come from an index. Ids are UUIDv7 that rise
with the order of writing, so a reader that asks for what came after an id misses nothing.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from pathlib import Path
from uuid import UUID

from mailcore.kit.ids import lower_bound, uuid7

_FILE = "caught.sqlite3"
_WAIT_SECONDS = 30.0
_SUBJECT = re.compile(rb"^subject:[ \t]*(.*(?:\r?\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)
_HEAD_LIMIT = 256 * 1024
_SUBJECT_LIMIT = 2000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS caught (
  n            INTEGER PRIMARY KEY,
  id           BLOB NOT NULL UNIQUE,
  mail_from    TEXT NOT NULL,
  rcpt_to      TEXT NOT NULL,
  subject      TEXT NOT NULL,
  size         INTEGER NOT NULL,
  received_at  TEXT NOT NULL,
  peer         TEXT NOT NULL,
  raw          BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS recipients (address TEXT NOT NULL, id BLOB NOT NULL, PRIMARY KEY (address, id)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Caught:
    """A caught mail without its bytes. `peer` is the sender's `host:port`, `size` the number of bytes after DATA."""

    id: UUID
    mail_from: str
    rcpt_to: tuple[str, ...]
    subject: str
    size: int
    received_at: datetime
    peer: str


@dataclass(frozen=True, slots=True)
class NewMail:
    """What the catcher hands over. `raw` is exactly what came after DATA, dots unstuffed (RFC 5321 §4.5.2)."""

    mail_from: str
    rcpt_to: tuple[str, ...]
    raw: bytes
    peer: str
    received_at: datetime


class CaughtWriter:
    """The one writer of a folder: keeps the file open. Not to be shared between threads at the same time."""

    def __init__(self, folder: str | Path) -> None:
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._last = 0
        self._db = sqlite3.connect(
            Path(folder) / _FILE, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA wal_autocheckpoint=4000")
        self._db.executescript(_SCHEMA)

    def write_batch(self, mails: Sequence[NewMail]) -> list[UUID]:
        """All of them or none, on disk when it returns; the ids in the same order."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            ids = self._next_ids(len(mails))
            self._db.executemany(
                "INSERT INTO caught (id, mail_from, rcpt_to, subject, size, received_at, peer, raw)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        *(id_.bytes, mail.mail_from, json.dumps(mail.rcpt_to), subject_of(mail.raw), len(mail.raw)),
                        *(mail.received_at.isoformat(timespec="milliseconds"), mail.peer, mail.raw),
                    )
                    for id_, mail in zip(ids, mails, strict=True)
                ),
            )
            self._db.executemany(
                "INSERT OR IGNORE INTO recipients (address, id) VALUES (?, ?)",
                ((to.lower(), id_.bytes) for id_, mail in zip(ids, mails, strict=True) for to in mail.rcpt_to),
            )
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        return ids

    def close(self) -> None:
        self._db.close()

    def _next_ids(self, count: int) -> list[UUID]:
        row = self._db.execute("SELECT id FROM caught ORDER BY n DESC LIMIT 1").fetchone()
        self._last = max(self._last, int.from_bytes(row[0], "big") if row else 0)
        ids = []
        for _ in range(count):
            self._last = max(self._last + 1, uuid7().int)
            ids.append(UUID(int=self._last))
        return ids


def write_batch(folder: str | Path, mails: Sequence[NewMail]) -> list[UUID]:
    """One batch by a writer of its own, for those who write seldom."""
    writer = CaughtWriter(folder)
    try:
        return writer.write_batch(mails)
    finally:
        writer.close()


def list_caught(
    folder: str | Path, to: str | None = None, after: UUID | datetime | None = None, limit: int | None = None
) -> list[Caught]:
    """Caught mails in the order in which they came, oldest first.

    `to` keeps those that went to this address (letter case ignored), `after` those that came after an id or a moment,
    `limit` the first so many.
    """
    since = after if isinstance(after, UUID) else lower_bound(after) if after else UUID(int=0)
    columns = "c.id, c.mail_from, c.rcpt_to, c.subject, c.size, c.received_at, c.peer"
    with _reading(folder) as db:
        if db is None:
            return []
        if to is None:
            rows = db.execute(
                f"SELECT {columns} FROM caught c WHERE c.id > ? ORDER BY c.id LIMIT ?",
                (since.bytes, -1 if limit is None else limit),
            )
        else:
            rows = db.execute(
                f"SELECT {columns} FROM recipients r JOIN caught c ON c.id = r.id"
                " WHERE r.address = ? AND r.id > ? ORDER BY r.id LIMIT ?",
                (to.lower(), since.bytes, -1 if limit is None else limit),
            )
        return [
            Caught(
                UUID(bytes=id_), mail_from, tuple(json.loads(rcpt_to)), subject, size, datetime.fromisoformat(at), peer
            )
            for id_, mail_from, rcpt_to, subject, size, at, peer in rows
        ]


def read_raw(folder: str | Path, id_: UUID) -> bytes | None:
    """The exact bytes of a caught mail; None when it is not there."""
    with _reading(folder) as db:
        row = db.execute("SELECT raw FROM caught WHERE id = ?", (id_.bytes,)).fetchone() if db else None
        return None if row is None else bytes(row[0])


def delete_all(folder: str | Path) -> int:
    """Deletes everything caught so far; how many there were."""
    path = Path(folder) / _FILE
    if not path.exists():
        return 0
    db = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
    try:
        db.execute("BEGIN IMMEDIATE")
        count = int(db.execute("SELECT count(*) FROM caught").fetchone()[0])
        db.execute("DELETE FROM caught")
        db.execute("DELETE FROM recipients")
        db.execute("COMMIT")
    finally:
        db.close()
    return count


@contextmanager
def _reading(folder: str | Path) -> Iterator[sqlite3.Connection | None]:
    path = Path(folder) / _FILE
    if not path.exists():
        yield None
        return
    db = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
    try:
        yield db
    finally:
        db.close()


def subject_of(raw: bytes) -> str:
    """The Subject as a reader sees it (RFC 2047 decoded, unfolded); empty when there is none."""
    if raw.startswith((b"\r\n", b"\n")):
        return ""
    head = raw[:_HEAD_LIMIT].partition(b"\r\n\r\n")[0].partition(b"\n\n")[0]
    found = _SUBJECT.search(head)
    if found is None:
        return ""
    text = re.sub(rb"\r?\n(?=[ \t])", b"", found[1])[:_SUBJECT_LIMIT].decode("utf-8", "replace").strip()
    if "=?" not in text:
        return text
    try:
        return str(make_header(decode_header(text)))
    except (HeaderParseError, LookupError, ValueError):
        return text
