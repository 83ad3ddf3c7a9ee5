"""An event loop whose clock stands still while this process is kept from running.

Tests have both ends of a conversation in one process, and short limits. On a machine that stalls, or has too much to do, an answer
and the limit on it come due in one moment, and the limit wins, though the product was not slow. What passes here is the time that
the loop computes (not that in which others did) and the time that it waits, in steps: of one that the machine has drawn out no more
counts than was asked for. What has come is heard before a limit that would have ended the same wait.
"""

from __future__ import annotations

import asyncio
import selectors
import time

STEP = 0.05
"""Seconds."""
HEARD = 0.005
"""Seconds before a limit that an answer comes at the latest."""


class _Clock:
    def __init__(self) -> None:
        self._at = time.monotonic()
        self._computed = time.thread_time()

    def now(self) -> float:
        return self._at + max(0.0, time.thread_time() - self._computed)

    def set(self, at: float) -> None:
        self._at, self._computed = at, time.thread_time()


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        began_at = at = self._clock.now()
        left = float("inf") if timeout is None else timeout
        due = at + left
        while not ready and left > 0:
            step, began = min(left, STEP), time.monotonic()
            ready = super().select(step)
            passed = min(time.monotonic() - began, step) if ready else step
            at, left = at + passed, left - passed
        ready = ready or super().select(0)  # it may have come while the machine stalled
        self._clock.set(max(began_at, min(at, due - HEARD)) if ready else at)
        return ready


class OwnTime(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(_Selector(self._clock))

    def time(self) -> float:
        return self._clock.now()


class Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> OwnTime:
        return OwnTime()
