"""One statement for all that ask at the same time: many who ask for little each cost not much more than one who asks for all of it.

Few statements are under way at a time, each for so much at most: who comes last waits for those before it, and leaves the pool's
other connections to others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from typing import Generic, TypeVar

from mailcore.kit.errors import Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST = 64
"""Keys of one call, unless a single ask has more."""
AT_A_TIME = 2
"""Calls."""


class Together(Generic[K, V]):
    """`call` finds what there is for these keys; a key may be left out of what it returns."""

    def __init__(
        self, call: Callable[[Collection[K]], Awaitable[Mapping[K, V]]], *, at_a_time: int = AT_A_TIME
    ) -> None:
        self._call = call
        self._at_a_time = at_a_time
        self._asking: deque[tuple[Collection[K], asyncio.Future[dict[K, V]]]] = deque()
        self._calling: set[asyncio.Task[None]] = set()
        """As long as they look for asks."""

    async def ask(self, keys: Collection[K]) -> dict[K, V]:
        """Raises what the call raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[dict[K, V]] = loop.create_future()
        self._asking.append((keys, answer))
        if len(self._calling) < self._at_a_time:
            self._calling.add(loop.create_task(self._answer()))
        return await answer

    async def _answer(self) -> None:
        try:
            while self._asking:
                await self._answer_next(self._take())
        finally:
            # at once: whoever asks from here on begins a call
            task = asyncio.current_task()
            assert task is not None
            self._calling.discard(task)

    async def _answer_next(self, asked: list[tuple[Collection[K], asyncio.Future[dict[K, V]]]]) -> None:
        try:
            await self._answer_these(asked)
        except Exception as error:
            if len(asked) == 1 or isinstance(error, Unavailable):
                _fail(asked, error)
                return
            for each in asked:  # the others do not hang on the one that cannot be answered
                try:
                    await self._answer_these([each])
                except Exception as own:
                    _fail([each], own)

    def _take(self) -> list[tuple[Collection[K], asyncio.Future[dict[K, V]]]]:
        """The next asks in their order, none for the same key as another."""
        taken: list[tuple[Collection[K], asyncio.Future[dict[K, V]]]] = []
        keys: set[K] = set()
        while self._asking:
            asked = self._asking[0][0]
            if taken and (len(keys) + len(asked) > MOST or not keys.isdisjoint(asked)):
                break
            taken.append(self._asking.popleft())
            keys.update(asked)
        return taken

    async def _answer_these(self, asked: list[tuple[Collection[K], asyncio.Future[dict[K, V]]]]) -> None:
        wanted = [key for keys, answer in asked if not answer.done() for key in keys]
        found = await self._call(wanted) if wanted else {}
        for keys, answer in asked:
            if not answer.done():
                answer.set_result({key: found[key] for key in keys if key in found})


def _fail(asked: list[tuple[Collection[K], asyncio.Future[dict[K, V]]]], error: Exception) -> None:
    for _, answer in asked:
        if not answer.done():
            answer.set_exception(error)
