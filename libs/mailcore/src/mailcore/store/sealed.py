"""Every column that holds what `kit.seal` sealed, and its sealing under another key: by whoever migrates, past tenants' policies.

A new one is a line in SEALED; tests/integration/postroom/test_keys.py looks at every column of bytes in the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from mailcore.kit.errors import Refused
from mailcore.kit.seal import Keyring

BATCH = 500
"""Rows of one step."""


@dataclass(frozen=True, slots=True)
class Sealed:
    table: str
    column: str
    purpose: str
    """Of the seal."""
    key: str = "id"
    """The table's own, by which its rows are gone through."""
    several: bool = False
    """An array of values."""


SEALED = (
    Sealed("installation", "key_check", "check", key="one"),
    Sealed("dkim_keys", "private_sealed", "dkim"),
    Sealed("webhooks", "secret_sealed", "webhook"),
    Sealed("webhooks", "old_secrets_sealed", "webhook", several=True),
    Sealed("accounts", "password_sealed", "imap"),
    Sealed("ways", "secrets_sealed", "way"),
)


@dataclass(frozen=True, slots=True)
class Step:
    resealed: int
    """Rows."""
    lost: int
    """Rows with a value that no key of the keyring opens: they stay as they are."""
    last: Any
    """Key of the last row that was looked at; None: there are no further ones."""


async def reseal(db: asyncpg.Connection, keyring: Keyring, where: Sealed, after: Any = None) -> Step:
    """The next rows from the key `after` on; those whose values are not sealed with the key in use are sealed anew.

    What changes meanwhile is left alone: who changed it sealed it.
    """
    rows = await db.fetch(
        f"SELECT {where.key} AS key, {where.column} AS value FROM {where.table} "
        f"WHERE {where.column} IS NOT NULL AND ($1::text IS NULL OR {where.key} > $1::text::{_TYPES[where.key]}) "
        f"ORDER BY {where.key} LIMIT {BATCH}",
        None if after is None else str(after),
    )
    resealed = lost = 0
    for row in rows:
        values: Sequence[bytes] = row["value"] if where.several else [row["value"]]
        if all(keyring.is_current(value) for value in values):
            continue
        try:
            fresh = [keyring.reseal(value, where.purpose) for value in values]
        except Refused:
            lost += 1
            continue
        done = await db.execute(
            f"UPDATE {where.table} SET {where.column} = $2 WHERE {where.key} = $1 AND {where.column} = $3",
            row["key"],
            fresh if where.several else fresh[0],
            row["value"],
        )
        resealed += int(done.removeprefix("UPDATE "))
    return Step(resealed, lost, rows[-1]["key"] if len(rows) == BATCH else None)


_TYPES = {"id": "uuid", "one": "boolean"}
