"""A resident runner. Woken by a bell or by its own sweep, it works until nothing is due, looks once more, sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mailcore.kit.log import logger
from mailcore.kit.metrics import RUNNER_FAILURES
from mailcore.kit.retry import backoff

log = logger(__name__)

MAX_BACKOFF = 10.0


class Runner:
    """`work(keys)` claims and does what is due: for these keys, or for all when keys is None (the sweep).

    It returns whether it found anything; then it is called again with the same keys. An exception is logged and followed by a
    sweep after a back-off (0.1 s doubling to 10 s): a runner never ends by an error. `postroom_runner_failures` shows it.
    """

    def __init__(
        self, name: str, work: Callable[[frozenset[str] | None], Awaitable[bool]], *, sweep_seconds: float
    ) -> None:
        self.name = name
        self._work = work
        self._sweep_seconds = sweep_seconds
        self._rung: set[str] = set()
        self._bell = asyncio.Event()
        self._draining = False

    def wake(self, key: str = "") -> None:
        self._rung.add(key)
        self._bell.set()

    def drain(self) -> None:
        """Ends `run` after the work in hand."""
        self._draining = True
        self._bell.set()

    async def run(self) -> None:
        failures = 0
        keys: frozenset[str] | None = None  # the first round is a sweep: what was due while nobody ran
        loop = asyncio.get_running_loop()
        sweep_at = loop.time() + self._sweep_seconds
        while not self._draining:
            try:
                while await self._work(keys) and not self._draining:
                    if keys is not None and loop.time() >= sweep_at:
                        # work that does not end must not put the sweep off: what dead workers held waits for it
                        sweep_at = loop.time() + self._sweep_seconds
                        await self._work(None)
                failures = 0
                RUNNER_FAILURES.labels(self.name).set(0)
            except Exception:
                failures += 1
                RUNNER_FAILURES.labels(self.name).set(failures)
                log.exception("runner failed", runner=self.name, failures=failures)
                await asyncio.sleep(backoff(failures, first=0.1, longest=MAX_BACKOFF))
                keys = None
                continue
            try:
                async with asyncio.timeout_at(sweep_at):
                    await self._bell.wait()
            except TimeoutError:
                pass
            # cleared before the look: a ring during the look wakes again
            self._bell.clear()
            keys = frozenset(self._rung)
            self._rung.clear()
            if loop.time() >= sweep_at or not keys:
                keys = None
                sweep_at = loop.time() + self._sweep_seconds
