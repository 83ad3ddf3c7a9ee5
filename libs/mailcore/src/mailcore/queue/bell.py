"""Ringing: `SET bell:<name> NX PX 2000`, then an arq job without an id. Never fails, never slows who rings.

The serving process deletes the key before it wakes its runner, and the runner looks once more before it sleeps: so no ring is
lost and none pile up. A runner of the ringing process itself (`Ringer.attend`) is woken at once and without Redis, which then only
tells the others that there is work to help with. When Redis does not answer within its time-out, a breaker keeps away from it for a
while; the sweep finds what nobody rang for.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from arq.connections import ArqRedis, RedisSettings
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mailcore.kit.log import logger
from mailcore.queue.jobs import Bell, Chore, arq_queue, bell_key

log = logger(__name__)

BELL_MS = 2_000
"""How long a rung bell that nobody answered keeps others from ringing."""
BREAKER_SECONDS = 1.0
GATHER_SECONDS = 0.02
"""Between two round trips: a lone ring goes at once, a busy process rings for many commits together."""
NAMED = 4
"""Keys of one bell in a round trip: each is a job of some milliseconds for who answers. The others are one ring without a key."""
ATTENDED_SECONDS = 0.5
"""The same of a bell that a runner here attends: an arq job costs milliseconds, and what was rung for is in hand."""


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
        self._ringing: asyncio.Task[None] | None = None
        self._rung: dict[str, tuple[Bell, str]] = {}
        """By name; not yet announced."""
        self._attended: dict[Bell, Callable[[str], None]] = {}
        self._told: dict[str, asyncio.TimerHandle] = {}
        """By name: the others were told of it a moment ago."""
        self._untold: dict[str, tuple[Bell, str]] = {}
        """What was rung since."""

    def attend(self, bell: Bell, wake: Callable[[str], None]) -> None:
        """A runner of this process answers that bell: it needs no Redis to hear of what is committed here."""
        self._attended[bell] = wake

    @property
    def broken(self) -> bool:
        """Whether Redis failed a moment ago and is being left alone."""
        return time.monotonic() < self._open_until

    def ring(self, bell: Bell, key: str | int = "") -> None:
        name, rung = bell_key(bell, str(key)), (bell, str(key))
        if bell in self._attended:
            self._attended[bell](rung[1])
            self._tell(name, rung)
        else:
            self._announce_soon(name, rung)

    def _tell(self, name: str, rung: tuple[Bell, str]) -> None:
        """The others, of what is attended here: at once, and once more when that was a while ago."""
        if name in self._told:
            self._untold[name] = rung
            return
        self._told[name] = asyncio.get_running_loop().call_later(ATTENDED_SECONDS, self._tell_again, name)
        self._announce_soon(name, rung)

    def _tell_again(self, name: str) -> None:
        del self._told[name]
        rung = self._untold.pop(name, None)
        if rung is not None:
            self._tell(name, rung)

    def _announce_soon(self, name: str, rung: tuple[Bell, str]) -> None:
        if self.broken:
            return
        self._rung[name] = rung
        if self._ringing is None:
            self._ringing = asyncio.get_running_loop().create_task(self._ring())

    async def enqueue(self, chore: Chore, id_: str) -> bool:
        """Asks for a chore on the row with this id. False when Redis is away: the row's own due time will bring it up."""
        return await self._guarded(self.redis.enqueue_job(chore.name, id_, _queue_name=arq_queue(chore.service)))

    async def drain(self) -> None:
        """Returns when everything rung so far is announced, or Redis did not answer."""
        for timer in self._told.values():
            timer.cancel()
        self._told.clear()
        untold, self._untold = self._untold, {}
        for name, rung in untold.items():
            self._announce_soon(name, rung)
        if self._ringing is not None:
            await asyncio.gather(self._ringing, return_exceptions=True)

    async def close(self) -> None:
        await self.drain()
        await self.redis.aclose(close_connection_pool=True)

    async def _ring(self) -> None:
        """All that were rung while the ones before them were announced, in one round trip."""
        try:
            while self._rung:
                # from here on a further ring must go through: what it announces may be committed after this one is answered
                rung, self._rung = _few(self._rung), {}
                await self._guarded(self._announce(rung))
                await asyncio.sleep(GATHER_SECONDS)
        finally:
            self._ringing = None

    async def _announce(self, rung: dict[str, tuple[Bell, str]]) -> None:
        async with self.redis.pipeline(transaction=False) as pipeline:
            for name in rung:
                pipeline.set(name, b"1", nx=True, px=BELL_MS)
            first = await pipeline.execute()
        for (bell, key), mine in zip(rung.values(), first, strict=True):
            if mine:
                await self.redis.enqueue_job(bell.name, key, _queue_name=arq_queue(bell.service))

    async def _guarded(self, call: Coroutine[Any, Any, Any]) -> bool:
        try:
            await call
        except Exception as error:
            # by no means only Redis's: of a connection that is just closing uvloop says RuntimeError
            if not self.broken:
                log.warning("redis does not answer", error=str(error) or type(error).__name__)
            self._open_until = time.monotonic() + BREAKER_SECONDS
            return False
        return True


def _few(rung: dict[str, tuple[Bell, str]]) -> dict[str, tuple[Bell, str]]:
    """Of each bell at most NAMED keys, and of those beyond it one ring for all."""
    named: Counter[Bell] = Counter()
    few: dict[str, tuple[Bell, str]] = {}
    for name, (bell, key) in rung.items():
        named[bell] += 1
        if named[bell] <= NAMED:
            few[name] = bell, key
        else:
            few[bell_key(bell, "")] = bell, ""
    return few
