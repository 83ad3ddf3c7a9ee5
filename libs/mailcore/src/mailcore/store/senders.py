"""What delivery needs to know of a sending domain: its return path, its signing keys (still sealed)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class SealedKey:
    selector: str
    algorithm: str
    private_sealed: bytes


@dataclass(frozen=True, slots=True)
class Sender:
    domain_id: UUID
    name: str
    custom_return_path: str
    keys: tuple[SealedKey, ...]
    """The active ones."""
    paused: bool = False
    """Its mail waits (flow.reputation)."""


async def senders(db: Connection, domain_ids: Iterable[UUID]) -> dict[UUID, Sender]:
    rows = await db.fetch(_SENDERS, list(domain_ids))
    found: dict[UUID, Sender] = {}
    for row in rows:
        before = found.get(row["id"])
        key = SealedKey(row["selector"], row["algorithm"], row["private_sealed"])
        keys = () if row["selector"] is None else (key,)
        found[row["id"]] = Sender(
            row["id"],
            row["name"],
            row["custom_return_path"],
            (*(before.keys if before else ()), *keys),
            row["paused"],
        )
    return found


_SENDERS = """
SELECT d.id, d.name, d.custom_return_path, k.selector, k.algorithm, k.private_sealed,
       EXISTS (SELECT FROM alarms a WHERE a.org_id = d.org_id AND a.domain = d.name AND a.action = 'paused'
               AND a.ended_at IS NULL) AS paused
FROM domains d LEFT JOIN dkim_keys k ON k.domain_id = d.id AND k.active
WHERE d.id = ANY ($1::uuid[])
ORDER BY d.id, k.algorithm DESC, k.id
"""
