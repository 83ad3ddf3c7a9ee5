"""Whose mail is composed next: all that have some take turns, whoever has how much.

A thread that is free asks who is next, and not what came first: so one mail waits for the chunks that are in hand, and not
for the thousands that somebody else has put before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")


class Turns:
    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._lock = Lock()
        self._waiting: dict[Hashable, deque[tuple[Future[Any], Callable[[], Any]]]] = {}
        """By whom they belong to; whose turn is next stands first."""

    async def run(self, whose: Hashable, call: Callable[[], T]) -> T:
        """What `call` returns or raises, in a thread."""
        result: Future[T] = Future()
        with self._lock:
            self._waiting.setdefault(whose, deque()).append((result, call))
        self._threads.submit(self._next)
        return await asyncio.wrap_future(result)

    def close(self) -> None:
        """Whoever still waits gets a RuntimeError."""
        with self._lock:
            lines, self._waiting = self._waiting, {}
        for line in lines.values():
            for result, _ in line:
                if result.set_running_or_notify_cancel():
                    result.set_exception(RuntimeError("nothing is composed any more"))

    def _next(self) -> None:
        with self._lock:
            if not self._waiting:
                return  # closed
            whose, line = next(iter(self._waiting.items()))
            del self._waiting[whose]
            result, call = line.popleft()
            if line:
                self._waiting[whose] = line  # behind the others
        if not result.set_running_or_notify_cancel():
            return
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)
