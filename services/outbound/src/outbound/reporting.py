"""Delivery reports to who handed mail in (flow.owed): soon after what owes them is settled; looked for where Redis was away."""

from __future__ import annotations

import asyncio
from uuid import UUID

from mailcore.flow.owed import Reports
from mailcore.kit.errors import MailError
from mailcore.kit.log import logger

log = logger(__name__)

WATCH_SECONDS = 20.0


class Reporting:
    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    async def tell(self, email_id: str) -> None:
        """The chore. Safe twice: the rows are claimed."""
        await self._reports.tell(UUID(email_id))

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._reports.tell_due()
            except MailError as error:
                log.warning("reports wait", error=error.public)
            except Exception as error:
                log.error("reports could not be written", exc_info=error)
            await asyncio.sleep(WATCH_SECONDS)
