"""The log of API calls on its way to the database: beside the requests, never in their way.

A row is noted when its request has been answered, and rows are written together, twice a second. When the database is away, or
takes rows more slowly than they come, rows are dropped, counted (`postroom_logs_dropped_total`) and told in the process's log: no
request waits or fails for its row. A process that is killed loses the rows of its last half second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mailcore.kit.errors import Unavailable
from mailcore.kit.log import logger
from mailcore.kit.metrics import LOGS_DROPPED
from mailcore.store import logs
from mailcore.store.logs import NewLog
from mailcore.store.session import Store

log = logger(__name__)

FLUSH_SECONDS = 0.5
MAX_ROWS = 20_000
"""Waiting; more are dropped."""
MAX_BYTES = 32 * 1024 * 1024
BATCH = 2_000


class LogWriter:
    """One a process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: list[NewLog] = []
        self._bytes = 0
        self._dropped = 0
        self._flushing = asyncio.Lock()

    def note(self, row: NewLog) -> None:
        size = len(row[-1] or "") + len(row[-2] or "")
        if len(self._rows) >= MAX_ROWS or self._bytes + size > MAX_BYTES:
            self._dropped += 1
            return
        self._bytes += size
        self._rows.append(row)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Everything noted so far. Never raises."""
        async with self._flushing:
            rows, self._rows, self._bytes = self._rows, [], 0
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                LOGS_DROPPED.labels("full").inc(dropped)
                log.warning("rows of the log of calls dropped: the database takes them too slowly", rows=dropped)
            for start in range(0, len(rows), BATCH):
                try:
                    await self._write(rows[start : start + BATCH])
                except Unavailable as error:
                    lost = len(rows) - start
                    LOGS_DROPPED.labels("unavailable").inc(lost)
                    log.warning("rows of the log of calls dropped", rows=lost, error=error.public)
                    return

    async def _write(self, rows: Sequence[NewLog]) -> None:
        """Raises Unavailable."""
        try:
            async with self._store.door() as db:
                await logs.insert(db, rows)
        except Unavailable:
            raise
        except Exception as error:
            if len(rows) > 1:  # one row's trouble is not its neighbours'
                half = len(rows) // 2
                await self._write(rows[:half])
                await self._write(rows[half:])
                return
            LOGS_DROPPED.labels("refused").inc()
            log.error("a row of the log of calls was refused", endpoint=rows[0][5], error=repr(error))
