"""From where each source is barred: a site, or a provider, has said that its address is the reason.

At once here; in other processes when they next look (`Sources.tick`), for the rows are the database's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from uuid import UUID

from mailcore.kit.errors import Unavailable
from mailcore.kit.log import logger
from mailcore.store import bars
from mailcore.store.session import Store
from mailcore.store.sites import storable
from mailcore.store.sources import KnownBar

log = logger(__name__)

NEW_SECONDS = 15.0
"""So long a bar of ours counts though the database has not told of it; then it was lifted, or never written."""
MOST_KNOWN = 10_000
"""Sites whose provider is remembered: it is asked for each mail while anything is barred."""


class Bars:
    def __init__(self, store: Store, provider: Callable[[str], str | None]) -> None:
        """`provider`: of the site with that key."""
        self._store = store
        self._provider = lru_cache(MOST_KNOWN)(provider)
        self._until: dict[tuple[UUID, str], float] = {}
        """By source and place, see `store.bars`."""
        self._new: dict[tuple[UUID, str], float] = {}
        """Placed here, with the time when that is forgotten."""
        self._tasks: set[asyncio.Task[None]] = set()

    def barred(self, source_id: UUID, key: str) -> bool:
        """From the site with that key, now."""
        if not self._until:
            return False
        now = time.monotonic()
        places = (key, self._provider(key) or key)
        return any(self._until.get((source_id, place), 0.0) > now for place in places)

    def place(self, source_id: UUID, place: str, seconds: float, reason: str) -> None:
        """Nothing while it is barred from there: what is said of mail under way shortens and prolongs nothing."""
        now, pair = time.monotonic(), (source_id, place)
        if self._until.get(pair, 0.0) > now:
            return
        self._until[pair], self._new[pair] = now + seconds, now + NEW_SECONDS
        log.warning("a source is barred", place=place, source=str(source_id), seconds=seconds, reason=reason[:200])
        task = asyncio.get_running_loop().create_task(self._write(source_id, place, seconds, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, source_id: UUID, place: str, seconds: float, reason: str) -> None:
        try:
            async with self._store.worker() as db:
                await bars.place(db, source_id, place, seconds, storable(reason))
        except Unavailable as error:
            log.warning("a bar could not be written", place=place, source=str(source_id), error=error.public)

    def read(self, found: Iterable[KnownBar]) -> None:
        """What the database tells."""
        now = time.monotonic()
        self._new = {pair: until for pair, until in self._new.items() if until > now}
        ours = {pair: self._until[pair] for pair in self._new}
        self._until = ours | {(each.source_id, each.place): now + each.seconds for each in found}

    async def drain(self) -> None:
        """To the end of what is being written."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
