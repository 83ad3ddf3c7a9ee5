"""API keys by their token: found once, remembered for a few seconds, so that a revoked key is dead in less than five."""

from __future__ import annotations

import asyncio
import hashlib
import time
from uuid import UUID

from mailcore.kit.errors import Unavailable
from mailcore.kit.log import logger
from mailcore.store import api_keys
from mailcore.store.api_keys import Key
from mailcore.store.session import Store

log = logger(__name__)

TTL_SECONDS = 3.0
MAX_TOKEN = 200
MAX_REMEMBERED = 10_000
NOTE_SECONDS = 30.0


class Keys:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._found: dict[bytes, tuple[float, Key]] = {}
        self._asking: dict[bytes, asyncio.Task[Key | None]] = {}
        self._used: dict[UUID, UUID] = {}

    async def find(self, token: str) -> Key | None:
        """None: no such key. A miss is not remembered, so that a key works from the moment it is made. Raises Unavailable."""
        if len(token) > MAX_TOKEN:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        remembered = self._found.get(digest)
        if remembered is not None and remembered[0] > time.monotonic():
            return remembered[1]
        asking = self._asking.get(digest)
        if asking is None:
            # one question however many requests wait for it
            asking = self._asking[digest] = asyncio.get_running_loop().create_task(self._ask(digest))
            asking.add_done_callback(lambda _: self._asking.pop(digest, None))
        return await asyncio.shield(asking)

    def forget(self, key_id: UUID) -> None:
        """At once in this process; the others follow within TTL_SECONDS."""
        self._found = {digest: kept for digest, kept in self._found.items() if kept[1].id != key_id}

    async def note_use(self) -> None:
        """Until cancelled: writes last_used_at now and then, outside any request."""
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

    async def _ask(self, digest: bytes) -> Key | None:
        asked = time.monotonic()
        key = await api_keys.find(self._store, digest)
        if key is not None:
            if len(self._found) >= MAX_REMEMBERED:
                self._found.clear()
            self._found[digest] = (asked + TTL_SECONDS, key)
            self._used[key.id] = key.org_id
        return key
