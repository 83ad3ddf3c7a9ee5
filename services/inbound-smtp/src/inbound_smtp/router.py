"""Claims arrivals, a batch at a time, and routes them (mailcore.flow.route)."""

from __future__ import annotations

import asyncio
import time

from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import decision
from mailcore.flow.route import Routes
from mailcore.kit.ids import uuid7_time
from mailcore.kit.log import logger
from mailcore.kit.metrics import QUEUE_AGE, QUEUE_DEPTH
from mailcore.store import arrivals, workers
from mailcore.store.session import Store

log = logger(__name__)

GATHER_SECONDS = 0.02


class Router:
    def __init__(self, store: Store, lease: WorkerLease, routes: Routes, *, batch: int) -> None:
        self._store = store
        self._lease = lease
        self._routes = routes
        self._batch = batch
        self._holding = False
        self.lag = 0.0
        """Seconds that the mail in the middle of the last batch had waited."""

    async def work(self, keys: frozenset[str] | None) -> bool:
        """One round: a batch. At a sweep (keys is None) first what dead workers held is taken back, then one that saw a crash.

        True when there may be more: then it has waited a moment, so that a stream of mail is routed in batches; a lone mail
        has not waited. Raises Unavailable: what was in hand is given back at the next round.
        """
        if not self._lease.alive:
            await self._lease.enrol()
        if keys is None:
            await self._sweep()
        if self._holding:
            await self.release()
        found = keys is None and await self._round(crashed=True) > 0
        count = await self._round(crashed=False)
        if 0 < count < self._batch:
            await asyncio.sleep(GATHER_SECONDS)
        return found or count > 0

    async def release(self) -> None:
        """Gives back what is leased to us and not being worked on: after a failure, and at the end."""
        async with self._store.worker() as db:
            await arrivals.release(db, self._lease.id)
        self._holding = False

    async def _round(self, *, crashed: bool) -> int:
        # a claim that a crash of the database forgets is claimed again
        async with self._store.worker(durable=False) as db:
            self._holding = True
            claimed = await arrivals.claim(db, self._lease.id, self._batch, crashed=crashed)
        if claimed:
            middle = sorted(one.arrival_id for one in claimed)[len(claimed) // 2]
            self.lag = max(0.0, time.time() - uuid7_time(middle).timestamp())
            await self._routes.route(self._lease.id, claimed)
        self._holding = False
        return len(claimed)

    async def _sweep(self) -> None:
        async with self._store.worker() as db:
            dead = await workers.bury(db, self._lease.service, self._lease.lease_seconds)
            dead += await workers.ownerless(db, "arrival_queue")
            if dead:
                again, lost = await arrivals.take_back(db, dead)
                log.warning("took back the arrivals of dead workers", workers=dead, queued=again, quarantined=len(lost))
                if lost:
                    why = f"Its worker died {arrivals.MAX_CRASHES} times while routing this mail alone."
                    await arrivals.quarantine(db, lost, decision("route", "quarantined", why))
                    log.error("arrivals quarantined", arrivals=[str(id_) for id_ in lost], reason=why)
            waiting, pending, age = await arrivals.depth(db)
        QUEUE_DEPTH.labels("arrivals").set(waiting)
        QUEUE_DEPTH.labels("arrivals_pending").set(pending)
        QUEUE_AGE.labels("arrivals").set(age)
