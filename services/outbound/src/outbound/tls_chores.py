"""What TLS leaves to be done beside mail: counts to the database, reports to whom they are due, policies whose life has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from mailcore.flow.tls_reports import TlsReports
from mailcore.kit.errors import MailError
from mailcore.kit.log import logger
from mailcore.store import mta_sts
from mailcore.store.session import Store
from outbound.tls_results import TlsResults

log = logger(__name__)

FLUSH_SECONDS = 10.0
"""Between two statements, unless there are very many counts. Where nothing was counted nothing is asked of the database."""
LOOK_SECONDS = 1.0
SEND_SECONDS = 900.0
"""Between two looks for reports that are due: they are spread over hours."""


class TlsChores:
    def __init__(
        self,
        store: Store,
        results: TlsResults,
        reports: TlsReports | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        """`reports` None: none are sent, and what is counted is dropped after a month."""
        self._clock = clock
        self._flush_seconds = flush_seconds
        self._flushed_at = clock()
        self._store = store
        self._results = results
        self._reports = reports

    async def watch(self) -> None:
        """Until cancelled."""
        await asyncio.gather(
            _every(LOOK_SECONDS, "TLS results", self.flush), _every(SEND_SECONDS, "TLS reports", self._look)
        )

    async def flush(self) -> None:
        """When it is time."""
        now = self._clock()
        if now - self._flushed_at < self._flush_seconds and not self._results.many:
            return
        self._flushed_at = now
        await self._results.flush(self._store)

    async def _look(self) -> None:
        async with self._store.worker() as db:
            await mta_sts.forget_old(db)
        if self._reports is not None:
            await self._reports.send()


async def _every(seconds: float, name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except MailError as error:
            log.warning("a chore waits", chore=name, error=error.public)
        except Exception as error:
            log.error("a chore failed", chore=name, exc_info=error)
        await asyncio.sleep(seconds)
