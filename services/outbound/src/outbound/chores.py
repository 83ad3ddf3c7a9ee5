"""Chores of outbound: verify a domain, move a claim or DKIM keys on, let go what waits in vain, upkeep. All are safe twice, and
come to without Redis too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mailcore.blob.base import BlobStore
from mailcore.dns.required import Published
from mailcore.dns.resolver import Resolver
from mailcore.flow import claims, delays, dkim, operate, quota, waiting
from mailcore.flow import verify as verification
from mailcore.flow.count import count
from mailcore.flow.retention import FOREVER, Kept, drop_old
from mailcore.flow.upkeep import RELAYED_SECONDS, upkeep
from mailcore.kit.errors import MailError
from mailcore.kit.log import logger
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import OUTBOUND, VERIFY, WEBHOOKS
from mailcore.store import queue_orders
from mailcore.store.session import Store

log = logger(__name__)

WATCH_SECONDS = 20.0
AT_ONCE = 10
"""Domains that are looked at at the same time."""
UPKEEP_SECONDS = 3600.0
NOTICE_SECONDS = 4 * 3600.0
"""When mail that could not even be attempted is told of, where the first failed attempt is told of at once."""
UPKEEP_AGAIN_SECONDS = 120.0
"""After one that failed."""


class Chores:
    def __init__(
        self,
        store: Store,
        ringer: Ringer,
        *,
        resolver: Resolver,
        keyring: Keyring,
        blobs: BlobStore,
        lifetime_seconds: float,
        broadcast_seconds: float | None = None,
        waiting_seconds: float | None = None,
        notice_seconds: float = NOTICE_SECONDS,
        relayed_seconds: float = RELAYED_SECONDS,
        published: Published,
        exempt: Collection[str] = (),
        kept: Kept = FOREVER,
    ) -> None:
        self._store = store
        self._ringer = ringer
        self._resolver = resolver
        self._keyring = keyring
        self._blobs = blobs
        self._lifetime_seconds = lifetime_seconds
        self._broadcast_seconds = broadcast_seconds
        self._waiting_seconds = waiting_seconds
        self._notice_seconds = notice_seconds or NOTICE_SECONDS
        self._relayed_seconds = relayed_seconds
        self._thorough_at = 0.0
        self._published = published
        self._exempt = exempt
        self._kept = kept

    async def verify(self, domain_id: str) -> None:
        """Its records, and those of keys that are to sign next."""
        if await verification.claim_one(self._store, UUID(domain_id)):
            await self._verify(UUID(domain_id))
        if await dkim.claim_one(self._store, UUID(domain_id)):
            await self._dkim(UUID(domain_id))

    async def claim(self, claim_id: str) -> None:
        if await claims.claim_one(self._store, UUID(claim_id)):
            await self._claim(UUID(claim_id))

    async def upkeep(self, _: str = "") -> None:
        done = await upkeep(
            self._store,
            self._blobs,
            lifetime_seconds=self._lifetime_seconds,
            broadcast_seconds=self._broadcast_seconds,
            waiting_seconds=self._waiting_seconds,
            relayed_seconds=self._relayed_seconds,
        )
        log.info("upkeep done", **{name: getattr(done, name) for name in done.__slots__})
        if done.webhooks:
            self._ringer.ring(WEBHOOKS)

    async def _retention(self) -> None:
        done = await drop_old(self._store, self._blobs, self._kept)
        if done.months or done.blobs:
            log.info("history past its time is gone", months=done.months, blobs=done.blobs)

    async def order(self, order_id: str) -> None:
        done = await operate.carry_out(self._store, UUID(order_id))
        if done.webhooks:
            self._ringer.ring(WEBHOOKS)
        self._ringer.ring(OUTBOUND)

    async def _orders(self) -> None:
        """Those that nobody rang for, and those that a process did not live to finish."""
        async with self._store.worker() as db:
            waiting = await queue_orders.waiting(db)
        for order_id in waiting:
            await self.order(str(order_id))

    async def release(self, _: str = "") -> None:
        """What waited for the end of a pause, or for something that is gone."""
        if await waiting.release(self._store):
            self._ringer.ring(OUTBOUND)

    async def _delays(self) -> None:
        now = asyncio.get_running_loop().time()
        thorough = now >= self._thorough_at
        _, webhooks = await delays.tell(self._store, self._notice_seconds, thorough=thorough)
        if thorough:
            self._thorough_at = now + UPKEEP_SECONDS
        if webhooks:
            self._ringer.ring(WEBHOOKS)

    async def hourly(self, ctx: dict[str, Any]) -> None:
        await self.upkeep()

    async def watch(self) -> None:
        """Until cancelled: domains and claims that are due for a look; usage to add up, and upkeep at the start and hourly."""
        await asyncio.gather(self._watch_domains(), self._watch_upkeep())

    async def _watch_upkeep(self) -> None:
        upkeep_at = 0.0
        while True:
            now = asyncio.get_running_loop().time()
            if now >= upkeep_at:
                done = await self._try("upkeep", self.upkeep())
                upkeep_at = now + (UPKEEP_SECONDS if done else UPKEEP_AGAIN_SECONDS)
                await self._try("retention", self._retention())
            await self._try("usage", self._roll_up())
            await self._try("orders", self._orders())
            await self._try("release", self.release())
            await self._try("delays", self._delays())
            await self._try("count", self._count())
            await asyncio.sleep(WATCH_SECONDS)

    async def _watch_domains(self) -> None:
        """Apart from the rest: whose domain is due waits for nobody's upkeep."""
        while True:
            await self._try("verify", self._due(verification.claim_due, "verify", self._verify))
            await self._try("claim", self._due(claims.claim_due, "claim", self._claim))
            await self._try("dkim", self._due(dkim.claim_due, "dkim", self._dkim))
            await asyncio.sleep(WATCH_SECONDS)

    async def _count(self) -> None:
        await count(self._store)

    async def _roll_up(self) -> None:
        await quota.roll_up(self._store)

    async def _due(
        self,
        claim_due: Callable[[Store], Awaitable[list[UUID]]],
        name: str,
        work: Callable[[UUID], Awaitable[None]],
    ) -> None:
        """A name server that does not answer holds up its own domain only."""
        at_once = asyncio.Semaphore(AT_ONCE)

        async def one(id_: UUID) -> None:
            async with at_once:
                await self._try(name, work(id_))

        while due := await claim_due(self._store):
            await asyncio.gather(*map(one, due))

    @staticmethod
    async def _try(name: str, work: Awaitable[None]) -> bool:
        """Whether it was done: one that fails keeps none of the others from being done."""
        try:
            await work
        except MailError as error:
            log.warning("a chore waits", chore=name, error=error.public)
        except Exception as error:
            log.error("a chore failed", chore=name, exc_info=error)
        else:
            return True
        return False

    async def _verify(self, domain_id: UUID) -> None:
        queued = await verification.verify(
            self._store, self._resolver, domain_id, self._published, now=datetime.now(UTC), exempt=self._exempt
        )
        if queued:
            self._ringer.ring(WEBHOOKS)

    async def _dkim(self, domain_id: UUID) -> None:
        queued = await dkim.advance(
            self._store, self._resolver, self._keyring, domain_id, self._published, now=datetime.now(UTC)
        )
        if queued:
            self._ringer.ring(WEBHOOKS)

    async def _claim(self, claim_id: UUID) -> None:
        settled = await claims.settle(self._store, self._resolver, claim_id, self._published, now=datetime.now(UTC))
        if settled.webhooks:
            self._ringer.ring(WEBHOOKS)
        for site in settled.sites:
            self._ringer.ring(OUTBOUND, site)
        if settled.verify is not None:
            await self._ringer.enqueue(VERIFY, str(settled.verify))
