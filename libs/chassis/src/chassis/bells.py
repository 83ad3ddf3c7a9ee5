"""The arq worker of a process: answers bells, does chores. Losing Redis ends nothing; it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from arq import func
from arq.cron import CronJob
from arq.worker import Function, Worker
from redis.exceptions import RedisError

from mailcore.kit.log import logger
from mailcore.kit.retry import backoff
from mailcore.queue.bell import redis_settings
from mailcore.queue.jobs import Bell, Chore, arq_queue, bell_key

log = logger(__name__)

Wake = Callable[[str], None]
Do = Callable[[str], Awaitable[None]]


POLL_SECONDS = 0.02
LOOK_SHARE = 19
"""Times as long as a look takes, nothing is looked for."""
LOOKS = 8
"""Of which that is the mean, the latest counting most."""
RANG_SHARE = 0.25
"""Of the time of a look that has found something."""
LONGEST_PAUSE = 0.1


class Bells:
    """`bells` maps a bell to what wakes its runner with the key; `chores` a chore to what does it for an id."""

    def __init__(
        self,
        url: str,
        service: str,
        *,
        bells: Mapping[Bell, Wake] | None = None,
        chores: Mapping[Chore, Do] | None = None,
        cron: Sequence[CronJob] = (),
    ) -> None:
        self._url = url
        self._service = service
        self._functions: list[Function] = [
            *(_bell(bell, wake) for bell, wake in (bells or {}).items()),
            *(_chore(chore, do) for chore, do in (chores or {}).items()),
        ]
        self._cron = list(cron)

    async def run(self) -> None:
        """Until cancelled. A bell that rings while Redis is away is made up for by the runner's sweep."""
        failures = 0
        while True:
            worker = _Worker(
                functions=self._functions,
                cron_jobs=self._cron or None,
                redis_settings=redis_settings(self._url),
                queue_name=arq_queue(self._service),
                poll_delay=POLL_SECONDS,
                max_jobs=1000,
                keep_result=0,
                handle_signals=False,
                job_serializer=orjson.dumps,
                job_deserializer=orjson.loads,
                log_results=False,
                health_check_interval=3600,
            )
            started = asyncio.get_running_loop().time()
            try:
                await worker.main()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                failures = 0 if asyncio.get_running_loop().time() - started > 30 else failures + 1
                log.warning("redis is away; bells wait for the sweep", error=str(error) or type(error).__name__)
            finally:
                await _close(worker)
            await asyncio.sleep(backoff(failures, first=0.2, longest=5.0))


class Pace:
    """How long nothing is looked for: on a busy loop looks take long, and would be a tenth of it, to hear that nothing rang."""

    def __init__(self) -> None:
        self._usual = 0.0
        """Seconds that a look took lately."""

    def after(self, took: float, *, rang: bool) -> float:
        """Seconds, after a look of so many. One that was held up says little: whoever rings next must not wait for that."""
        self._usual += ((took * RANG_SHARE if rang else took) - self._usual) / LOOKS
        return min(LONGEST_PAUSE, LOOK_SHARE * self._usual)


class _Worker(Worker):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._pace = Pace()
        self._rang = False

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        self._rang = bool(job_ids)
        await super().start_jobs(job_ids)

    async def _poll_iteration(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await super()._poll_iteration()
        # what poll_delay leaves of it counts: an idle process goes on looking as often as it was told
        await asyncio.sleep(self._pace.after(loop.time() - began, rang=self._rang))


async def _close(worker: Worker) -> None:
    """arq's own close stops half-way when one of its jobs was cancelled, and leaves its connections open."""
    for task in worker.tasks.values():
        task.cancel()
    await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
    if worker._pool is not None:
        pool, worker._pool = worker._pool, None
        try:
            await pool.aclose(close_connection_pool=True)
        except (RedisError, OSError) as error:
            log.debug("closing the arq worker failed", error=str(error))


def _bell(bell: Bell, wake: Wake) -> Function:
    async def answer(ctx: dict[str, Any], key: str = "") -> None:
        # first the key, then the runner: who rings from here on is heard again
        await ctx["redis"].delete(bell_key(bell, key))
        wake(key)

    return func(answer, name=bell.name, keep_result=0, max_tries=1, timeout=10)


def _chore(chore: Chore, do: Do) -> Function:
    async def run(ctx: dict[str, Any], id_: str = "") -> None:
        await do(id_)

    return func(run, name=chore.name, keep_result=0, max_tries=5, timeout=600)
