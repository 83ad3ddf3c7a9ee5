"""What watches over our good name: the reputation guard every minute, the health checks hourly. Safe twice, and without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mailcore.dns.resolver import Resolver
from mailcore.flow import bulk, health, reputation
from mailcore.flow.health_checks import OK, UNKNOWN, WRONG, Scene
from mailcore.flow.upkeep import forget
from mailcore.kit.errors import MailError
from mailcore.kit.log import logger
from mailcore.kit.metrics import HEALTH_FINDINGS
from mailcore.kit.settings import Reputation
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import WEBHOOKS
from mailcore.store.health import age
from mailcore.store.session import Store

log = logger(__name__)

START_SECONDS = 15.0
"""After the start: what is on its way up with this process is not found missing."""
GUARD_SECONDS = 60.0
HEALTH_SECONDS = 3600.0


class Guards:
    def __init__(
        self,
        store: Store,
        ringer: Ringer,
        limits: Reputation,
        resolver: Resolver,
        scene: Callable[[], Awaitable[Scene]],
        *,
        catches: bool = False,
    ) -> None:
        """`resolver` without a cache; `scene` says what there is to be looked at by now. `catches`: no mail leaves, so that nobody
        sends in bulk."""
        self._store = store
        self._ringer = ringer
        self._limits = limits
        self._resolver = resolver
        self._scene = scene
        self._counts_bulk = limits.bulk != "off" and not catches

    async def guard(self) -> None:
        done = await reputation.guard(self._store, self._limits)
        if done is not None and done.webhooks:
            self._ringer.ring(WEBHOOKS)

    async def health(self, _: str = "") -> None:
        """The chore: whoever asks wants it looked at now."""
        if self._counts_bulk:
            await bulk.count(self._store)  # who sends in bulk is part of the scene
        found = await health.look(self._store, self._resolver, await self._scene())
        done = await bulk.look(self._store, self._limits, watch=self._counts_bulk)
        if done.webhooks:
            self._ringer.ring(WEBHOOKS)
        for status in (OK, WRONG, UNKNOWN):
            HEALTH_FINDINGS.labels(status).set(sum(each.status == status for each in found))
        for each in found:
            if each.status == WRONG:
                log.warning(
                    "sending is not well", check=each.check, subject=each.subject, text=each.text, advice=each.advice
                )

    async def watch(self) -> None:
        """Until cancelled. Health asks servers of others, which may be slow: guarding does not wait for it."""
        await asyncio.sleep(START_SECONDS)
        await asyncio.gather(self._again("guard", self.guard), self._again("health", self._hourly))

    async def _again(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._try(name, work())
            await asyncio.sleep(GUARD_SECONDS)

    async def _hourly(self) -> None:
        """Of several processes the first that comes looks; the others find that somebody has."""
        async with self._store.worker() as db:
            seconds = await age(db)
        if seconds is None or seconds >= HEALTH_SECONDS:
            await self.health()
            await forget(self._store)

    @staticmethod
    async def _try(name: str, work: Awaitable[None]) -> None:
        try:
            await work
        except MailError as error:
            log.warning("a chore waits", chore=name, error=error.public)
        except Exception as error:
            log.error("a chore failed", chore=name, exc_info=error)
