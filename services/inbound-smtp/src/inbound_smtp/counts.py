"""What strangers do, counted by address in fixed windows, in this process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

MOST = 200_000
"""Entries that are kept in a window; when there are more it begins anew."""


class Window:
    """How often."""

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit` 0: none."""
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._began = clock()
        self._count: Counter[str] = Counter()

    def over(self, key: str) -> bool:
        """It has been so often already."""
        if not self._limit:
            return False
        if self._clock() - self._began >= self._seconds or len(self._count) > MOST:
            self._began = self._clock()
            self._count.clear()
        return self._count.get(key, 0) >= self._limit

    def note(self, key: str) -> None:
        if self._limit:
            self._count[key] += 1


class Distinct:
    """How many different ones."""

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit` 0: none."""
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._began = clock()
        self._kept = 0
        self._seen: dict[str, set[int]] = {}

    def takes(self, key: str, value: str) -> bool:
        """Whether `value` is among the first so many of `key`; then it is noted."""
        if not self._limit:
            return True
        if self._clock() - self._began >= self._seconds or self._kept > MOST:
            self._began, self._kept = self._clock(), 0
            self._seen.clear()
        seen = self._seen.setdefault(key, set())
        mark = hash(value)
        if mark in seen:
            return True
        if len(seen) >= self._limit:
            return False
        seen.add(mark)
        self._kept += 1
        return True
