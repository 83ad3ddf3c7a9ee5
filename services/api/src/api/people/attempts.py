"""How often somebody may try: attempts in a window, counted in Redis for all processes, here where Redis is away.

A window begins with its first attempt and ends after its minutes, however many more there are.
"""

from __future__ import annotations

import time

from mailcore.kit.log import logger
from mailcore.queue.bell import Ringer

log = logger(__name__)

BREAKER_SECONDS = 1.0
MAX_LOCAL = 100_000


class Attempts:
    def __init__(self, ringer: Ringer, limit: int, window_seconds: int) -> None:
        self.limit = limit
        self._seconds = window_seconds
        self._redis = ringer.redis
        self._open_until = 0.0
        self._local: dict[str, tuple[int, float]] = {}

    async def take(self, key: str) -> tuple[int, int]:
        """Counts one more: how many there were in this window with it, and the seconds until the window ends. Never raises."""
        if time.monotonic() >= self._open_until:
            try:
                async with self._redis.pipeline(transaction=True) as pipeline:
                    name = f"postroom:attempts:{key}"
                    pipeline.set(name, 0, ex=self._seconds, nx=True)
                    pipeline.incr(name)
                    pipeline.ttl(name)
                    _, count, left = await pipeline.execute()
                return int(count), max(1, int(left))
            except Exception as error:  # uvloop says RuntimeError of a connection that is just closing
                log.warning("redis does not answer; counting attempts in this process", error=str(error))
                self._open_until = time.monotonic() + BREAKER_SECONDS
        return self._own(key)

    async def forget(self, key: str) -> None:
        self._local.pop(key, None)
        if time.monotonic() >= self._open_until:
            try:
                await self._redis.delete(f"postroom:attempts:{key}")
            except Exception:
                self._open_until = time.monotonic() + BREAKER_SECONDS

    def _own(self, key: str) -> tuple[int, int]:
        now = time.monotonic()
        count, ends = self._local.get(key, (0, 0.0))
        if now >= ends:
            if len(self._local) >= MAX_LOCAL:
                self._local = {each: known for each, known in self._local.items() if known[1] > now}
                if len(self._local) >= MAX_LOCAL:
                    self._local.clear()
            count, ends = 0, now + self._seconds
        self._local[key] = (count + 1, ends)
        return count + 1, max(1, int(ends - now))
