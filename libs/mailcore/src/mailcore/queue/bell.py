"""Ringing: `SET bell:<name> NX PX 2000`, then an arq job without an id. Never fails, never slows who rings.

The serving process deletes the key before it wakes its runner, and the runner looks once more before it sleeps: so no ring is
lost and none pile up. When Redis does not answer within its time-out, a breaker keeps away from it for a while; the sweep finds
what nobody rang for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import orjson
from arq.connections import ArqRedis, RedisSettings
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from mailcore.kit.log import logger
from mailcore.queue.jobs import Bell, Chore, arq_queue, bell_key

log = logger(__name__)

BELL_MS = 2_000
"""How long a rung bell that nobody answered keeps others from ringing."""
BREAKER_SECONDS = 1.0


def redis_pool(url: str, *, timeout_seconds: float, max_connections: int = 16) -> ArqRedis:
    """A client for short questions: every call ends within `timeout_seconds`."""
    pool: ConnectionPool = ConnectionPool.from_url(
        url,
        max_connections=max_connections,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
    )
    return ArqRedis(
        pool_or_conn=pool, job_serializer=orjson.dumps, job_deserializer=orjson.loads, default_queue_name="postroom:arq"
    )


def redis_settings(url: str) -> RedisSettings:
    settings = RedisSettings.from_dsn(url)
    settings.conn_retries = 0
    settings.conn_timeout = 2
    return settings


class Ringer:
    """One a process. `ring` returns at once; what it does goes on in a task of its own."""

    def __init__(self, url: str, *, timeout_seconds: float = 0.05) -> None:
        self.redis = redis_pool(url, timeout_seconds=timeout_seconds)
        self._open_until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ringing: set[str] = set()

    @property
    def broken(self) -> bool:
        """Whether Redis failed a moment ago and is being left alone."""
        return time.monotonic() < self._open_until

    def ring(self, bell: Bell, key: str | int = "") -> None:
        name = bell_key(bell, str(key))
        if self.broken or name in self._ringing:
            return
        self._ringing.add(name)
        self._spawn(self._ring(bell, str(key), name))

    async def enqueue(self, chore: Chore, id_: str) -> bool:
        """Asks for a chore on the row with this id. False when Redis is away: the row's own due time will bring it up."""
        return await self._guarded(self.redis.enqueue_job(chore.name, id_, _queue_name=arq_queue(chore.service)))

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.redis.aclose(close_connection_pool=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ring(self, bell: Bell, key: str, name: str) -> None:
        # from here on a further ring must go through: what it announces may be committed after this one is answered
        self._ringing.discard(name)

        async def announce() -> None:
            if await self.redis.set(name, b"1", nx=True, px=BELL_MS):
                await self.redis.enqueue_job(bell.name, key, _queue_name=arq_queue(bell.service))

        await self._guarded(announce())

    async def _guarded(self, call: Coroutine[Any, Any, Any]) -> bool:
        try:
            await call
        except (RedisError, OSError, TimeoutError) as error:
            if not self.broken:
                log.warning("redis does not answer", error=str(error) or type(error).__name__)
            self._open_until = time.monotonic() + BREAKER_SECONDS
            return False
        return True
