"""Requests per second and organization, in fixed windows of one second, counted in Redis for all processes together.

Where Redis is away, each process counts for itself until it is back. With the limit off nothing is counted and nobody waits.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

from redis.exceptions import RedisError

from mailcore.kit.log import logger
from mailcore.queue.bell import Ringer

log = logger(__name__)

BREAKER_SECONDS = 1.0
_COUNT = """
local n = redis.call('INCR', KEYS[1])
if n == 1 then redis.call('PEXPIRE', KEYS[1], 3000) end
return n
"""


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
        self._count = self._redis.register_script(_COUNT)
        self._open_until = 0.0
        self._window = 0
        self._local: dict[UUID, int] = {}

    async def take(self, org_id: UUID) -> Rate:
        """Never raises, and waits for Redis no longer than its time-out."""
        window = int(time.time())
        used = await self._shared(org_id, window) or self._own(org_id, window)
        return Rate(self.limit, max(0, self.limit - used), 1, used > self.limit)

    async def _shared(self, org_id: UUID, window: int) -> int | None:
        if time.monotonic() < self._open_until:
            return None
        try:
            return int(await self._count(keys=[f"postroom:rate:{org_id}:{window}"]))
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("redis does not answer; counting requests in this process", error=str(error))
            self._open_until = time.monotonic() + BREAKER_SECONDS
            return None

    def _own(self, org_id: UUID, window: int) -> int:
        if window != self._window:
            self._window = window
            self._local.clear()
        used = self._local[org_id] = self._local.get(org_id, 0) + 1
        return used
