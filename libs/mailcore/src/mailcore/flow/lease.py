"""A worker's life: registered, renewed by heartbeat, and told when it may no longer act.

Rows are leased to a worker, not each with a time of its own: one heartbeat row keeps them all. A worker that could not renew for
three quarters of the lease says so by `alive`, before others may take its rows: then it sends no final dot and settles nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time

from mailcore.kit.errors import Unavailable
from mailcore.kit.log import logger
from mailcore.store import workers
from mailcore.store.session import Store

log = logger(__name__)


class WorkerLease:
    def __init__(self, store: Store, service: str, *, lease_seconds: float = 20.0) -> None:
        self._store = store
        self.service = service
        self.lease_seconds = lease_seconds
        self._id: int | None = None
        self._renewed = 0.0
        self._left = False

    @property
    def id(self) -> int:
        assert self._id is not None, "enrol() first"
        return self._id

    @property
    def alive(self) -> bool:
        return self._id is not None and time.monotonic() - self._renewed < self.lease_seconds * 0.75

    async def enrol(self) -> int:
        """A new worker row; what was leased to an earlier one is no longer ours."""
        asked = time.monotonic()
        async with self._store.worker() as db:
            self._id = await workers.register(db, self.service, socket.gethostname(), os.getpid())
        self._renewed = asked
        return self._id

    async def keep(self) -> None:
        """Renews until cancelled or left; enrols anew when this worker was declared dead."""
        while True:
            await asyncio.sleep(self.lease_seconds / 5)
            if self._left:
                continue  # idle until the process ends
            asked = time.monotonic()  # before the question: a late answer must not lengthen the lease
            try:
                async with self._store.worker() as db:
                    renewed = self._id is not None and await workers.renew(db, self._id)
                if renewed:
                    self._renewed = asked
                elif not self._left:
                    log.warning("worker was declared dead; enrolling anew", worker=self._id)
                    await self.enrol()
            except Unavailable as error:
                log.warning("heartbeat failed", error=error.public)
            except Exception as error:
                log.error("heartbeat failed", error=repr(error))

    async def leave(self) -> None:
        """At the end of a drain: the worker's row goes, and nothing enrols again."""
        self._left = True
        if self._id is not None:
            async with self._store.worker() as db:
                await workers.leave(db, self._id)
