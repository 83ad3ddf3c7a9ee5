"""The leave to send a final dot: `dot_sent` is written first, for all mails that ask at the same time in one statement.

Nobody waits for the disk: what a crash of the server may forget counts as sent anyway (store.leases.take_back).
"""

from __future__ import annotations

import asyncio

from mailcore.flow.lease import WorkerLease
from mailcore.kit import failpoint
from mailcore.kit.errors import Unavailable
from mailcore.kit.log import logger
from mailcore.store import deliveries
from mailcore.store.deliveries import Key, Leased
from mailcore.store.session import Store
from mailcore.transport import Mail

log = logger(__name__)

GATHER_SECONDS = 0.005
"""Between two statements: a lone mail does not wait, a busy process marks a dozen at a time …"""
ENOUGH = 10
"""… and no one waits once so many are together."""


class Gate:
    def __init__(self, store: Store, lease: WorkerLease) -> None:
        self._store = store
        self._lease = lease
        self._asking: list[tuple[Leased, asyncio.Future[bool]]] = []
        self._answering: asyncio.Task[None] | None = None
        self._watched: dict[Key, asyncio.Event] = {}

    def before_dot(self, mail: Mail) -> asyncio.Future[bool]:
        """Done when the mark is written: whether the lease is still ours and alive."""
        loop = asyncio.get_running_loop()
        leave: asyncio.Future[bool] = loop.create_future()
        assert isinstance(mail.key, Leased)
        if not self._lease.alive:
            leave.set_result(False)
            return leave
        self._asking.append((mail.key, leave))
        if self._answering is None or self._answering.done():
            self._answering = loop.create_task(self._answer())
        return leave

    def watch(self, key: Key, event: asyncio.Event) -> None:
        """Sets the event when that delivery's leave has been given or refused."""
        self._watched[key] = event

    def forget(self, key: Key) -> None:
        self._watched.pop(key, None)

    async def _answer(self) -> None:
        while self._asking:
            asking, self._asking = self._asking, []
            try:
                mine = await deliveries.mark_dot_sent(self._store, [row for row, _ in asking])
            except Unavailable as error:
                log.warning("no final dot may leave: the database is away", mails=len(asking), error=error.public)
                mine = set()
            except Exception as error:
                log.error("no final dot may leave", mails=len(asking), error=repr(error), exc_info=error)
                mine = set()
            failpoint.hit("f9")
            alive = self._lease.alive  # the answer may have been long in coming
            for row, leave in asking:
                if not leave.done():
                    leave.set_result(alive and row.key in mine)
                if self._watched and (event := self._watched.get(row.key)):
                    event.set()
            if len(self._asking) < ENOUGH:
                await asyncio.sleep(GATHER_SECONDS)
