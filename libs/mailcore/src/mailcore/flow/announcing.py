"""How fast mail to addresses that nobody made is announced: at most one batch of BATCH arrivals a second and domain.

Whoever guesses addresses of a domain that takes mail to all of them makes a mailbox by each, and a post to each endpoint: of a
flood, one machine made to attack another. What is beyond a batch becomes due with the next one. Mail to addresses that are there is
never put off.

    seconds = announcing.wait(org_id, domain)     0: with what goes out now

What is counted is this process's; several routers have a batch each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from uuid import UUID

BATCH = 50
MAX_DOMAINS = 10_000


class Announcing:
    """One a process. `batch`: 0 puts nothing off; `clock`: seconds that only grow."""

    def __init__(self, *, batch: int = BATCH, clock: Callable[[], float] = time.monotonic) -> None:
        self._batch = batch
        self._clock = clock
        self._next: dict[tuple[UUID, str], tuple[float, int]] = {}
        """Domain → when its newest batch goes out, and how many are in it."""

    def wait(self, org_id: UUID, domain: str) -> float:
        """Seconds until the batch goes out that this arrival belongs to from now on."""
        if not self._batch:
            return 0.0
        now, key = self._clock(), (org_id, domain)
        at, count = self._next.get(key, (-math.inf, 0))
        if at + 1.0 <= now:
            at, count = now, 0
        elif count >= self._batch:
            at, count = at + 1.0, 0
        if key not in self._next and len(self._next) >= MAX_DOMAINS:
            self._forget(now)
        self._next[key] = at, count + 1
        return max(0.0, at - now)

    def _forget(self, now: float) -> None:
        """Domains that are quiet; where none is, all: a flood of so many is not one domain's."""
        self._next = {key: each for key, each in self._next.items() if each[0] + 1.0 > now}
        if len(self._next) >= MAX_DOMAINS:
            self._next.clear()
