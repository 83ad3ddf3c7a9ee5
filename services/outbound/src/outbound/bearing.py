"""What a site bears: connections by what it answers, mails by its rates. No I/O; one of each a site and process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence

from mailcore.flow.shaping import Rule

FLOOR = 2
"""Connections that stay however often a site refuses: probes, of which one more success lets it grow again."""
PAUSE_SECONDS = 1.0
"""Refusals that come together halve once: those under way were sent before anybody knew."""
CATCH_UP_SECONDS = 0.05
"""Of a rate: who comes late, the loop being busy, may make up for so much."""


class Window:
    """Connections, additive up and multiplicative down: a mail taken adds 1 a round of all connections, a refusal halves."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._most = float(most)
        self._value = float(most)
        self._halved = 0.0
        self._slow_until = 0.0

    def __int__(self) -> int:
        return max(1, int(min(self._value, self.most)))

    @property
    def most(self) -> float:
        """Half of it while a rule slows the site."""
        return max(1.0, self._most / 2) if self.slow else self._most

    @property
    def slow(self) -> bool:
        return self._clock() < self._slow_until

    @property
    def shrunk(self) -> bool:
        return self._value < self.most

    def resize(self, most: int) -> None:
        """The limit has changed; what was whole stays whole."""
        whole = self._value >= self._most
        self._most = float(most)
        self._value = self._most if whole else min(self._value, self._most)

    def took(self) -> None:
        """The site dealt with a mail: took it, or refused that one."""
        if self._value < self.most:
            self._value = min(self.most, self._value + 1 / self._value)

    def refused(self) -> None:
        """It would rather have fewer of us: 421, a connection cut or not answered."""
        now = self._clock()
        if now - self._halved >= PAUSE_SECONDS:
            self._halved = now
            self._value = max(min(FLOOR, self._most), self._value / 2)

    def fell(self) -> None:
        """It takes nothing at all: it is begun with again from the floor."""
        self._value = min(FLOOR, self._most)

    def slow_down(self, seconds: float) -> None:
        self._slow_until = max(self._slow_until, self._clock() + seconds)
        self._value = min(self._value, self.most)


class Pace:
    """Mails by rates, each so many in so many seconds, evenly spread; of each rate a process has `part`."""

    def __init__(self, rates: Sequence[tuple[int, float]], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.rates = tuple(rates)
        self.part = 1.0
        self._next = [0.0] * len(self.rates)
        """Of each rate, when the next mail would be due if all had come evenly."""

    def take(self) -> float:
        """0: a mail may leave, and is counted. Otherwise the seconds until one may; infinite when there is no part for us."""
        if not self.rates:
            return 0.0
        if self.part <= 0:
            return float("inf")
        now = self._clock()
        slack = [self._slack(count, span) for count, span in self.rates]
        wait = max(due - now - late for due, late in zip(self._next, slack, strict=True))
        if wait > 0:
            return wait
        # a little wider than the rate asks for, so that with what is made up for no window holds more than its number
        self._next = [
            max(due, now) + (span + late) / (count * self.part)
            for due, late, (count, span) in zip(self._next, slack, self.rates, strict=True)
        ]
        return 0.0

    def _slack(self, count: int, span: float) -> float:
        return max(0.0, CATCH_UP_SECONDS - span / (count * self.part))

    @property
    def owes(self) -> bool:
        """A mail left so lately that the next must wait: whoever began anew would send too many."""
        now = self._clock()
        return any(due > now for due in self._next)

    def per_second(self) -> float:
        """What it lets through at most."""
        return min((count * self.part / span for count, span in self.rates), default=float("inf"))


class Hits:
    """How often a rule was met lately, by whom it is about."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Hashable, deque[float]] = {}

    def enough(self, rule: Rule, whom: Hashable) -> bool:
        """Counts one more; True when it was the last that was needed, and counting begins anew."""
        if rule.times == 1:
            return True
        now = self._clock()
        seen = self._seen.setdefault((rule.name, whom), deque(maxlen=rule.times))
        seen.append(now)
        if len(seen) < rule.times or now - seen[0] > rule.within:
            if len(self._seen) > 1_000:  # a peer's words decide what stands here
                self._seen.pop(next(iter(self._seen)))
            return False
        del self._seen[rule.name, whom]
        return True
