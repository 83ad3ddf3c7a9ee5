"""Idempotency keys: for 24 hours the same request gets the same answer (resend.md §2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias
from uuid import UUID

from mailcore.store.session import Connection

HOURS = 24

OnceKey: TypeAlias = tuple[UUID, str, str]
"""Organization, endpoint, key: what one tenant uses another never meets."""


@dataclass(frozen=True, slots=True)
class Stored:
    fingerprint: bytes
    response: bytes


class Busy:
    """Somebody is at work under this key right now."""


async def find(db: Connection, keys: Sequence[OnceKey]) -> dict[OnceKey, Stored]:
    rows = await db.fetch(_FIND, [key[0] for key in keys], [key[1] for key in keys], [key[2] for key in keys])
    return {(row["org_id"], row["endpoint"], row["key"]): Stored(row["fingerprint"], row["response"]) for row in rows}


async def claim(db: Connection, keys: Sequence[OnceKey]) -> list[Stored | Busy | None]:
    """For each key: what was answered, Busy, or None when it is ours until the transaction ends. Never waits."""
    rows = await db.fetch(_LOCK, [_lock_id(key) for key in keys])
    # a statement of its own: it must see what the holder of the lock before us committed
    stored = await find(db, keys)
    return [stored.get(key, None if row["locked"] else Busy()) for key, row in zip(keys, rows, strict=True)]


class Wanted(NamedTuple):
    """A key with what is to be stored under it."""

    key: OnceKey
    fingerprint: bytes
    response: bytes


def arguments(wanted: Sequence[Wanted]) -> list[Sequence[object]]:
    """Of take_idempotency_keys: a key that is neither stored nor held by another is stored, and ours.

    It does what `claim` and then `insert` do, as part of the statement that stores what the keys are for (store.emails).
    """
    return [
        [each.key[0] for each in wanted],
        [each.key[1] for each in wanted],
        [each.key[2] for each in wanted],
        [_lock_id(each.key) for each in wanted],
        [each.fingerprint for each in wanted],
        [each.response for each in wanted],
    ]


def refusal(busy: bool, fingerprint: bytes | None, response: bytes | None) -> Stored | Busy:
    """What take_idempotency_keys says of a key that is not ours. Raises RuntimeError: the transaction must not be committed."""
    if fingerprint is not None and response is not None:
        return Stored(fingerprint, response)
    if not busy:
        raise RuntimeError("an idempotency key was stored under another's lock")
    return Busy()


async def insert(db: Connection, wanted: Sequence[Wanted]) -> None:
    """Of claimed keys. Raises RuntimeError when one of them is stored after all: the transaction must not be committed."""
    if not wanted:
        return
    done = await db.fetch(
        _INSERT,
        [each.key[0] for each in wanted],
        [each.key[1] for each in wanted],
        [each.key[2] for each in wanted],
        [each.fingerprint for each in wanted],
        [each.response for each in wanted],
    )
    if len(done) != len(wanted):
        raise RuntimeError("an idempotency key was stored under another's lock")


def _lock_id(key: OnceKey) -> int:
    digest = hashlib.sha256(b"\0".join((key[0].bytes, key[1].encode(), key[2].encode("utf-8", "replace")))).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


_LOCK = """
SELECT pg_try_advisory_xact_lock(id) AS locked FROM unnest($1::bigint[]) WITH ORDINALITY AS k (id, n) ORDER BY n
"""
_FIND = f"""
SELECT i.org_id, i.endpoint, i.key, i.fingerprint, i.response
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS k (org_id, endpoint, key)
JOIN idempotency_keys i ON i.org_id = k.org_id AND i.endpoint = k.endpoint AND i.key = k.key
WHERE i.created_at > now() - interval '{HOURS} hours'
"""
_INSERT = f"""
INSERT INTO idempotency_keys AS i (org_id, endpoint, key, fingerprint, response, created_at)
SELECT org_id, endpoint, key, fingerprint, response, now()
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::bytea[]) AS k (org_id, endpoint, key, fingerprint, response)
ORDER BY org_id, endpoint, key
ON CONFLICT (org_id, endpoint, key) DO UPDATE
  SET fingerprint = EXCLUDED.fingerprint, response = EXCLUDED.response, created_at = EXCLUDED.created_at
  WHERE i.created_at <= now() - interval '{HOURS} hours'
RETURNING 1
"""
