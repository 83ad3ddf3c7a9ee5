"""Failed logins, counted by address in fixed windows, in this process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from mailcore.kit.addresses import client_network

WINDOW_SECONDS = 600.0
MOST = 100_000
"""Addresses that are remembered in a window."""


class Failures:
    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._began = clock()
        self._count: Counter[str] = Counter()

    def too_many(self, ip: str) -> bool:
        if self._clock() - self._began >= WINDOW_SECONDS or len(self._count) > MOST:
            self._began = self._clock()
            self._count.clear()
        return self._count.get(client_network(ip), 0) >= self._limit

    def note(self, ip: str) -> None:
        self._count[client_network(ip)] += 1
