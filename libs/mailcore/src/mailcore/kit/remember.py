"""Answers that may be a few seconds old: asked once however many wait, and asked again before they expire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """`ask` gives the value of a key, or None. None is not remembered: what is made now is found now.

    No answer is older than `seconds`. One that is older than half of that is still given, while a new one is asked for, so that
    requests do not all stop at the same moment.
    """

    def __init__(
        self,
        ask: Callable[[K], Awaitable[V | None]],
        *,
        seconds: float,
        maximum: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._seconds = seconds
        self._maximum = maximum
        self._clock = clock
        self._known: dict[K, tuple[float, V]] = {}
        self._asking: dict[K, asyncio.Task[V | None]] = {}
        self._forgotten = 0

    def held(self, key: K) -> V | None:
        """`get` where the answer is here. None: it must be asked for."""
        known = self._known.get(key)
        if known is None:
            return None
        age = self._clock() - known[0]
        if age >= self._seconds:
            return None
        if age > self._seconds / 2 and key not in self._asking:
            self._begin(key)
        return known[1]

    async def get(self, key: K) -> V | None:
        """Raises what `ask` raises."""
        known = self.held(key)
        if known is not None:
            return known
        return await asyncio.shield(self._asking.get(key) or self._begin(key))

    def forget(self, matches: Callable[[V], bool]) -> None:
        self._known = {key: known for key, known in self._known.items() if not matches(known[1])}
        self._forgotten += 1
        self._asking = {}  # who asks from here on waits for no question from before

    def _begin(self, key: K) -> asyncio.Task[V | None]:
        task = self._asking[key] = asyncio.get_running_loop().create_task(self._answer(key))
        task.add_done_callback(lambda done: self._done(key, done))
        return task

    async def _answer(self, key: K) -> V | None:
        asked, forgotten = self._clock(), self._forgotten  # before the question: a slow answer is not a younger one
        value = await self._ask(key)
        if forgotten != self._forgotten:
            return value  # it may be from before
        if value is None:
            self._known.pop(key, None)
        else:
            if len(self._known) >= self._maximum:
                self._known.clear()
            self._known[key] = (asked, value)
        return value

    def _done(self, key: K, done: asyncio.Task[V | None]) -> None:
        if self._asking.get(key) is done:
            del self._asking[key]
        if not done.cancelled():
            done.exception()  # read here: of an answer asked for ahead of time nobody else does
