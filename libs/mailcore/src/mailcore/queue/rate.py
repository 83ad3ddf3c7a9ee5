"""Requests per second and organization, in fixed windows of one second, counted in Redis for all processes together.

What waits at the same moment is counted in one round trip. Where Redis is away, each process counts for itself until it is back.
With the limit off nothing is counted and nobody waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from redis.exceptions import RedisError

from mailcore.kit.log import logger
from mailcore.queue.bell import Ringer

log = logger(__name__)

BREAKER_SECONDS = 1.0
WINDOW_KEPT_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Rate:
    limit: int
    remaining: int
    reset: int
    """Seconds until the window ends."""
    exceeded: bool


class RateLimiter:
    def __init__(self, ringer: Ringer, limit: int) -> None:
        """`limit` 0 is off."""
        self.limit = limit
        self._redis = ringer.redis
        self._open_until = 0.0
        self._waiting: list[tuple[UUID, asyncio.Future[int | None]]] = []
        self._asking: asyncio.Task[None] | None = None
        self._window = 0
        self._local: dict[UUID, int] = {}

    async def take(self, org_id: UUID) -> Rate:
        """Never raises, and waits for Redis no longer than its time-out."""
        used = await self._shared(org_id)
        if used is None:
            used = self._own(org_id)
        return Rate(self.limit, max(0, self.limit - used), 1, used > self.limit)

    async def _shared(self, org_id: UUID) -> int | None:
        if time.monotonic() < self._open_until:
            return None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int | None] = loop.create_future()
        self._waiting.append((org_id, answer))
        if self._asking is None:
            self._asking = loop.create_task(self._ask())
        return await answer

    async def _ask(self) -> None:
        """One connection, one round trip at a time, for all who wait."""
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, []
                used: dict[UUID, int] | None = None
                try:
                    used = await self._count(Counter(org_id for org_id, _ in asked))
                except Exception:
                    log.exception("could not count requests in redis; counting them in this process")
                    self._open_until = time.monotonic() + BREAKER_SECONDS
                finally:
                    for org_id, answer in asked:
                        if used is not None:
                            used[org_id] += 1
                        if not answer.done():
                            answer.set_result(None if used is None else used[org_id])
        finally:
            self._asking = None

    async def _count(self, wanted: Mapping[UUID, int]) -> dict[UUID, int] | None:
        """How many requests each had made in this second before these. None: Redis does not answer."""
        window = int(time.time())
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for org_id, number in wanted.items():
                    key = f"postroom:rate:{org_id}:{window}"
                    pipeline.incrby(key, number)
                    pipeline.expire(key, WINDOW_KEPT_SECONDS)
                answers = await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("redis does not answer; counting requests in this process", error=str(error))
            self._open_until = time.monotonic() + BREAKER_SECONDS
            return None
        return {
            org_id: int(total) - number for (org_id, number), total in zip(wanted.items(), answers[::2], strict=True)
        }

    def _own(self, org_id: UUID) -> int:
        window = int(time.time())
        if window != self._window:
            self._window = window
            self._local.clear()
        used = self._local[org_id] = self._local.get(org_id, 0) + 1
        return used
