"""Whose mail it is: the verified receiving domains, asked of the database and remembered for a few seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

from mailcore.store import organizations
from mailcore.store.session import Store

REMEMBERED_SECONDS = 4.0
"""A domain that is added or removed counts within five seconds."""
MAX_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Owner:
    org_id: UUID
    domain_id: UUID


class Domains:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, tuple[float, Owner | None]] = {}
        self._operator: UUID | None = None

    def known(self, name: str) -> tuple[Owner | None] | None:
        """What `owner` would say; None: it would have to ask."""
        known = self._known.get(name)
        return (known[1],) if known is not None and known[0] > time.monotonic() else None

    async def owner(self, name: str) -> Owner | None:
        """None: not ours. Raises Unavailable."""
        asked = time.monotonic()
        rows = await self._store.lookup("SELECT org_id, domain_id FROM lookup_receiving_domain($1)", name)
        owner = Owner(rows[0]["org_id"], rows[0]["domain_id"]) if rows else None
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()  # names that strangers made up: nothing worth keeping in order
        self._known[name] = (asked + REMEMBERED_SECONDS, owner)
        return owner

    async def operator(self) -> UUID | None:
        """The organization of whoever runs this server; None: there is none yet. It does not change. Raises Unavailable."""
        if self._operator is None:
            async with self._store.worker() as db:
                self._operator = await organizations.first(db)
        return self._operator
