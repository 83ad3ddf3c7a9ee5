"""Claims due rows by endpoint, posts each in a task of its own, settles."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

from mailcore.flow import notice, notify
from mailcore.flow.lease import WorkerLease
from mailcore.flow.notify import Settle
from mailcore.flow.submit import Submits
from mailcore.kit import failpoint
from mailcore.kit.clock import Clock
from mailcore.kit.errors import Unavailable
from mailcore.kit.ids import uuid7
from mailcore.kit.log import logger
from mailcore.kit.metrics import QUEUE_AGE, QUEUE_DEPTH, WEBHOOK_POSTS
from mailcore.kit.retry import backoff, delay
from mailcore.store import webhook_queue
from mailcore.store.session import Store
from mailcore.store.webhook_queue import Claimed, Settled
from webhooks.endpoints import SLOW_SECONDS, Endpoints, Flight
from webhooks.post import Poster, Result

log = logger(__name__)

_FIRST = UUID(int=0)
ALARM_SECONDS = 60.0
"""A retry due sooner wakes the runner itself; a later one is found by the sweep."""


class Posts:
    """`work` is the runner's; `wake` (set once the runner exists) tells it to look again."""

    def __init__(
        self,
        store: Store,
        lease: WorkerLease,
        poster: Poster,
        endpoints: Endpoints,
        clock: Clock,
        submits: Submits,
        *,
        retry_schedule: Sequence[float],
        timeout_seconds: float,
        disable_after: float,
    ) -> None:
        self._store = store
        self._lease = lease
        self._poster = poster
        self._endpoints = endpoints
        self._clock = clock
        self._submits = submits
        self._retry_schedule = retry_schedule
        # a lease ends with its worker; the due time only says that a row in hand is not waiting
        self._hold_seconds = timeout_seconds + 2 * lease.lease_seconds
        self._settle = Settle(store, disable_after=disable_after)
        self._running: set[asyncio.Task[None]] = set()
        self._alarms: set[int] = set()
        self._after = _FIRST
        self._suspect: Claimed | None = None
        """Posted just now; it may still kill us."""
        self._more_suspects = False
        self._draining = False
        self._round = asyncio.Lock()
        self.wake: Callable[[], None] = lambda: None

    async def work(self, keys: frozenset[str] | None) -> bool:
        """One round: at a sweep (`keys` None) clean up; claim, start the posts. True when there may be more to claim."""
        async with self._round:
            return not self._draining and await self._work(keys)

    async def drain(self) -> None:
        """Claims no more; returns when what is in hand is posted and settled."""
        self._draining = True
        async with self._round:
            pass  # a claim under way brings its rows
        while self._running:
            await asyncio.wait(self._running)
        await self._settle.drain()

    async def _work(self, keys: frozenset[str] | None) -> bool:
        if not self._lease.alive:
            await self._lease.enrol()
        if keys is None:
            waiting = await notify.sweep(self._store, self._lease)
            QUEUE_DEPTH.labels("webhooks").set(waiting.rows)
            QUEUE_AGE.labels("webhooks").set(waiting.age_seconds)
            await notice.send(self._store, self._submits)
        if keys is None or self._more_suspects:
            await self._claim_suspect()
        found = await self._claim_slow()
        return await self._claim() or found

    async def _claim_suspect(self) -> None:
        """The next row whose worker died with it, when the one before is over or waits for its endpoint."""
        if self._suspect is not None:
            self._more_suspects = True
            return
        async with self._store.worker() as db:
            row = await webhook_queue.claim_suspect(db, self._lease.id, hold_seconds=self._hold_seconds)
        self._more_suspects = row is not None
        if row is not None:
            log.info("a suspect goes alone", event_id=str(row.event_id), webhook_id=str(row.webhook_id))
            self._suspect = row
            self._begin([row])

    async def _claim(self) -> bool:
        limit = self._endpoints.free
        if not limit:
            return False  # the end of a post wakes the runner
        async with self._store.worker() as db:
            claimed = await webhook_queue.claim(
                db,
                self._lease.id,
                after=self._after,
                limit=limit,
                room=self._endpoints.start,
                rooms=self._endpoints.rooms(),
                hold_seconds=self._hold_seconds,
            )
        self._begin(claimed)
        # on around: with every place taken, the next round goes on behind the last endpoint served
        wrapped = self._after == _FIRST
        self._after = max(row.webhook_id for row in claimed) if len(claimed) == limit else _FIRST
        return bool(claimed) or not wrapped

    async def _claim_slow(self) -> bool:
        limit, rooms = self._endpoints.free_slow, self._endpoints.slow_rooms()
        if not limit or not rooms:
            return False
        async with self._store.worker() as db:
            claimed = await webhook_queue.claim_of(
                db, self._lease.id, limit=limit, rooms=rooms, hold_seconds=self._hold_seconds
            )
        self._begin(claimed)
        return bool(claimed)

    def _begin(self, claimed: Sequence[Claimed]) -> None:
        for row in claimed:
            # counted here, not in the task: the next claim may be asked for before the task has run
            task = asyncio.create_task(self._deliver(row, self._endpoints.begin(row.webhook_id)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _deliver(self, row: Claimed, flight: Flight) -> None:
        loop = asyncio.get_running_loop()
        slow = loop.call_later(SLOW_SECONDS, self._turned_slow, row, flight)
        started = loop.time()
        answered = prompt = False
        try:
            if not self._lease.alive:
                return  # it is taken back; a post now could be the second
            result = await self._poster.post(row)
            answered, prompt = result.outcome != "unanswered", loop.time() - started < SLOW_SECONDS
            slow.cancel()
            failpoint.hit("f18")
            # the place is kept until the commit: a kill repeats no more posts than may be in flight
            await self._keep_settling(row, result)
        finally:
            slow.cancel()
            self._innocent(row)
            self._endpoints.ended(flight, answered=answered, prompt=prompt)
            self.wake()

    def _turned_slow(self, row: Claimed, flight: Flight) -> None:
        self._innocent(row)
        self._endpoints.turned_slow(flight)
        self.wake()

    def _innocent(self, row: Claimed) -> None:
        if self._suspect is row:
            self._suspect = None

    def _judge(self, row: Claimed, result: Result) -> Settled:
        retry = None
        if not result.success and row.event is not None and result.wish is None:
            retry = delay(self._retry_schedule, row.attempt - row.attempts_before)
        if not result.success:
            log.info(
                "webhook post failed",
                webhook_id=str(row.webhook_id),
                event_id=str(row.event_id),
                attempt=row.attempt,
                http_status=result.http_status,
                reason=None if result.http_status else result.response,
                retry_seconds=retry,
            )
        return Settled(
            claimed=row,
            id=uuid7(),
            at=self._clock.now(),
            success=result.success,
            http_status=result.http_status,
            response=result.response,
            retry_seconds=retry,
            disable="It answered with webhook-delivery: disable." if result.wish == "disable" else None,
        )

    async def _keep_settling(self, row: Claimed, result: Result) -> None:
        """Until the result is stored: the row is leased to us, nobody else will move it while we live."""
        settled = self._judge(row, result)
        failures = 0
        while True:
            try:
                await self._settle.join(settled)
                break
            except Unavailable as error:
                failures += 1
                log.warning("settling a post failed", failures=failures, error=error.public)
                if failures == 5:
                    settled = replace(settled, response="")  # in case the trouble is what the endpoint said
                await asyncio.sleep(backoff(failures, first=0.1, longest=5.0))
        WEBHOOK_POSTS.labels(result.outcome).inc()
        if settled.retry_seconds is not None:
            self._set_alarm(settled.retry_seconds)

    def _set_alarm(self, seconds: float) -> None:
        """Looks again when the retry is due, to the quarter of a second."""
        if seconds > ALARM_SECONDS:
            return
        loop = asyncio.get_running_loop()
        slot = math.ceil((loop.time() + seconds) * 4)
        if slot not in self._alarms:
            self._alarms.add(slot)
            loop.call_at(slot / 4, self._alarm, slot)

    def _alarm(self, slot: int) -> None:
        self._alarms.discard(slot)
        self.wake()
