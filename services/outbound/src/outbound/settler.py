"""Outcomes in, commits out: what has come in while one batch was being committed is the next batch.

An outcome is never dropped. While the database is away it waits, as long as this worker's lease lives: then others have the row,
and settling it is refused by the fence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from mailcore.flow import settle as door
from mailcore.flow.settle import Attempt
from mailcore.kit import failpoint
from mailcore.kit.errors import Unavailable
from mailcore.kit.log import logger
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import REPORT, WEBHOOKS
from mailcore.store.deliveries import Key
from mailcore.store.session import Store

log = logger(__name__)

BATCH = 500
GATHER_SECONDS = 0.02
"""Between two commits: a lone outcome does not wait."""
MAX_PAUSE = 2.0


class Settler:
    def __init__(self, store: Store, ringer: Ringer, settled: Callable[[Sequence[Key]], None]) -> None:
        self._store = store
        self._ringer = ringer
        self._settled = settled
        """Told which deliveries are no longer held here."""
        self._waiting: list[Attempt] = []
        self._running: asyncio.Task[None] | None = None
        self._stubborn: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, attempt: Attempt) -> None:
        self._waiting.append(attempt)
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def drain(self) -> None:
        while running := [task for task in (self._running, *self._stubborn) if task and not task.done()]:
            await asyncio.wait(running)

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            failpoint.hit("f11")
            await self._settle(batch)
            await asyncio.sleep(GATHER_SECONDS)

    async def _settle(self, batch: list[Attempt], *, alone: bool = False) -> None:
        pause = 0.05
        while True:
            try:
                done = await door.settle(self._store, batch)
            except Unavailable as error:
                log.warning("outcomes wait: the database is away", outcomes=len(batch), error=error.public)
            except Exception as error:
                if len(batch) > 1:
                    log.warning(
                        "settling a batch failed; trying its members alone", outcomes=len(batch), error=repr(error)
                    )
                    for attempt in batch:
                        await self._settle([attempt])
                    return
                log.error(
                    "an outcome cannot be stored; trying again", email_id=str(batch[0].row.email_id), exc_info=error
                )
                if not alone:
                    self._retry_alone(batch[0])  # the others do not wait for it
                    return
            else:
                break
            await asyncio.sleep(pause)
            pause = min(MAX_PAUSE, pause * 2)
        failpoint.hit("f12")
        lost = len(batch) - len(done.settled)
        if lost:
            log.warning("leases were lost before their outcome was stored", outcomes=lost)
        self._settled([attempt.row.key for attempt in batch])
        if done.webhooks:
            self._ringer.ring(WEBHOOKS)
        for email_id in done.reports:
            await self._ringer.enqueue(REPORT, str(email_id))

    def _retry_alone(self, attempt: Attempt) -> None:
        task = asyncio.get_running_loop().create_task(self._settle([attempt], alone=True))
        self._stubborn.add(task)
        task.add_done_callback(self._stubborn.discard)
