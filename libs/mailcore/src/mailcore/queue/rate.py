"""Requests per second in fixed windows of one second, counted in Redis for all processes together.

    rate = await limiter.take(org_id)                       # the general limit
    rate = await limiter.take((org_id, "POST /emails"), 50)  # a counter of its own

Redis is asked for a share of a window, not for each request: a fiftieth of the limit, or as many as are waiting. So no limit is
ever exceeded, small ones are exact, and of a large one a process may leave a fiftieth unused. What waits at the same moment is
asked for in one round trip, and once a window is used up nobody asks any more.

Where Redis does not answer, those who are waiting learn it after its time-out; from then on each process counts for itself, with
the whole limit, and asks again once a second beside the requests, so that no request waits for a Redis that is known to be away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from redis.exceptions import RedisError

from mailcore.kit.log import logger
from mailcore.queue.bell import Ringer

log = logger(__name__)

BREAKER_SECONDS = 1.0
WINDOW_KEPT_SECONDS = 3
SHARE = 50
"""Into how many parts a window is divided among processes."""


class Rate(NamedTuple):
    limit: int
    remaining: int
    reset: int
    """Seconds until the window ends."""
    exceeded: bool


class _Share:
    """What this process holds of one counter in this window."""

    __slots__ = ("left", "used")

    def __init__(self) -> None:
        self.used = 0
        """By everybody, as far as is known here."""
        self.left = 0
        """Granted to this process and not used."""


class RateLimiter:
    def __init__(self, ringer: Ringer, limit: int) -> None:
        """`limit`: the general one; 0 is off."""
        self.limit = limit
        self._redis = ringer.redis
        self._away = False
        self._ask_again = 0.0
        self._waiting: list[tuple[Hashable, int, asyncio.Future[Rate | None]]] = []
        self._asking: asyncio.Task[None] | None = None
        self._window = 0
        self._shares: dict[Hashable, _Share] = {}
        self._local: dict[Hashable, int] = {}

    async def take(self, key: Hashable, limit: int | None = None) -> Rate:
        """Counts one request under `key`, whose text names it in Redis. Never raises; waits no longer than Redis's time-out."""
        limit = self.limit if limit is None else limit
        rate = self.held(key, limit) or await self._shared(key, limit)
        return self._own(key, limit) if rate is None else rate

    def held(self, key: Hashable, limit: int | None = None) -> Rate | None:
        """`take` where this process knows the answer. None: Redis must be asked."""
        if limit is None:
            limit = self.limit
        window = int(time.time())
        if window != self._window:
            self._window = window
            self._shares.clear()
            self._local.clear()
        share = self._shares.get(key)
        if share is None:
            return None
        if share.left:
            share.left -= 1
            share.used += 1
            return Rate(limit, max(0, limit - share.used), 1, False)
        return Rate(limit, 0, 1, True) if share.used >= limit else None

    async def _shared(self, key: Hashable, limit: int) -> Rate | None:
        """None: Redis is away."""
        if self._away:
            if self._asking is None and time.monotonic() >= self._ask_again:
                self._asking = asyncio.get_running_loop().create_task(self._look())
            return None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Rate | None] = loop.create_future()
        self._waiting.append((key, limit, answer))
        if self._asking is None:
            self._asking = loop.create_task(self._ask())
        return await answer

    async def _ask(self) -> None:
        """One connection, one round trip at a time, for all who wait."""
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, []
                asked = [each for each in asked if not self._answered(*each)]
                waiting: dict[Hashable, int] = {}
                limits: dict[Hashable, int] = {}
                for key, limit, _ in asked:
                    waiting[key] = waiting.get(key, 0) + 1
                    limits[key] = limit
                if not asked:
                    continue
                if self._away:  # found out meanwhile, by those before them
                    for _, _, answer in asked:
                        answer.set_result(None)
                    continue
                window = int(time.time())
                granted: dict[Hashable, int] | None = None
                wanted = {key: max(number, limits[key] // SHARE) for key, number in waiting.items()}
                try:
                    granted = await self._count(window, wanted)
                except Exception:
                    log.exception("could not count requests in redis; counting them in this process")
                    self._is_away()
                finally:
                    self._give(asked, window, wanted, granted)
        finally:
            self._asking = None

    def _answered(self, key: Hashable, limit: int, answer: asyncio.Future[Rate | None]) -> bool:
        """By the share that came in while this one waited."""
        if answer.done():
            return True  # its client has gone
        rate = self.held(key, limit)
        if rate is not None:
            answer.set_result(rate)
        return rate is not None

    def _give(
        self,
        asked: list[tuple[Hashable, int, asyncio.Future[Rate | None]]],
        window: int,
        wanted: Mapping[Hashable, int],
        before: Mapping[Hashable, int] | None,
    ) -> None:
        shares: dict[Hashable, _Share] = {}
        for key, limit, answer in asked:
            rate = None
            if before is not None:
                share = shares.get(key)
                if share is None:
                    share = shares[key] = _Share()
                    share.used = before[key]
                    share.left = max(0, min(wanted[key], limit - before[key]))
                exceeded = share.left == 0
                share.used += 1
                share.left -= not exceeded
                rate = Rate(limit, max(0, limit - share.used), 1, exceeded)
            if not answer.done():
                answer.set_result(rate)
        if window == self._window:
            self._shares.update(shares)

    async def _count(self, window: int, wanted: Mapping[Hashable, int]) -> dict[Hashable, int] | None:
        """Takes so many of each, and tells how many had been taken before. None: Redis does not answer."""
        name = f"postroom:rate:{window}"
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key, number in wanted.items():
                    pipeline.hincrby(name, _text(key), number)
                pipeline.expire(name, WINDOW_KEPT_SECONDS)
                answers = await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            if not self._away:
                log.warning("redis does not answer; counting requests in this process", error=str(error))
            self._is_away()
            return None
        return {key: int(total) - number for (key, number), total in zip(wanted.items(), answers, strict=False)}

    def _is_away(self) -> None:
        self._away = True
        self._ask_again = time.monotonic() + BREAKER_SECONDS

    async def _look(self) -> None:
        """Whether Redis is back."""
        try:
            if await self._count(int(time.time()), {"": 0}) is not None:
                self._away = False
        except Exception:
            log.exception("could not count requests in redis; counting them in this process")
            self._is_away()
        finally:
            self._asking = None

    def _own(self, key: Hashable, limit: int) -> Rate:
        used = self._local[key] = self._local.get(key, 0) + 1
        return Rate(limit, max(0, limit - used), 1, used > limit)


def _text(key: Hashable) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
