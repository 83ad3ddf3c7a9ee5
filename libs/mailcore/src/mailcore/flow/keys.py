"""API keys by their token: found once, remembered for a few seconds, so that a revoked key is dead in less than five."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime
from uuid import UUID

from mailcore.flow.key_counts import KeyCounts
from mailcore.kit.errors import Refused, Unavailable
from mailcore.kit.log import logger
from mailcore.kit.remember import Remembered
from mailcore.store import api_keys
from mailcore.store.api_keys import Key
from mailcore.store.session import Store

log = logger(__name__)

TTL_SECONDS = 3.0
MAX_TOKEN = 200
NOTE_SECONDS = 30.0
AT_ONCE = 2
"""Unknown tokens that are looked for at the same time: who guesses takes no more of the pool from everybody's mail."""


class Keys:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.counts = KeyCounts(store)
        self._known: Remembered[bytes, Key] = Remembered(self._ask, seconds=TTL_SECONDS)
        self._used: dict[UUID, UUID] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def find(self, token: str) -> Key | None:
        """None: no such key. Raises Refused (`restricted_api_key`, `suspended_api_key`) for one that is not active; Unavailable."""
        if len(token) > MAX_TOKEN:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        key = self._known.held(digest) or await self._known.get(digest)
        if key is not None and (key.status != "active" or key.expires_at is not None):
            _check_active(key)
        return key

    def forget(self, key_id: UUID) -> None:
        """At once in this process; the others follow within TTL_SECONDS."""
        self._known.forget(lambda key: key.id == key_id)

    async def note_use(self) -> None:
        """Until cancelled: writes last_used_at and what was sent now and then, outside any request."""
        while True:
            await asyncio.sleep(NOTE_SECONDS)
            await self.write_use()

    async def write_use(self) -> None:
        used, self._used = self._used, {}
        orgs: dict[UUID, list[UUID]] = {}
        for key_id, org_id in used.items():
            orgs.setdefault(org_id, []).append(key_id)
        for org_id, ids in orgs.items():
            try:
                async with self._store.tenant(org_id) as db:
                    await api_keys.note_use(db, ids)
            except Unavailable as error:
                log.warning("last use of keys not written", error=error.public)
            except Exception:  # of no importance to anybody's mail
                log.exception("last use of keys not written")
        await self.counts.write()

    async def _ask(self, digest: bytes) -> Key | None:
        async with self._turns:
            key = await api_keys.find(self._store, digest)
        if key is not None:
            self._used[key.id] = key.org_id
        return key


def _check_active(key: Key) -> None:
    """Raises Refused (resend.md §1.2)."""
    if key.status == "suspended":
        raise Refused("This API key is suspended", name="suspended_api_key")
    if key.status != "active" or (key.expires_at is not None and key.expires_at <= datetime.now(UTC)):
        raise Refused("API key is not active", name="restricted_api_key")
