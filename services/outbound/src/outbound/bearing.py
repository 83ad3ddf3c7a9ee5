"""What a site bears: connections by what it answers, mails by its rates. No I/O; one of each a site and process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from uuid import UUID

from mailcore.flow.shaping import Rule

FLOOR = 2
"""Connections that stay however often a site refuses: probes, of which one success lets it grow again."""
STORM = 10
"""Refusals in a row after which a site rests: one that takes half of what it is asked hardly ever comes to it (once in a thousand
mails), one that takes a twentieth does so at once."""
PATIENCE = 10
"""How often one mail is turned away before that counts as an attempt: then it may be about this mail (RFC 5321 §4.2.1)."""
MOST_TURNED_AWAY = 10_000
"""Mails that this is remembered of, a site."""
MOST_HITS = 10_000
"""Rules, and whom they are about, that are counted at the same time."""
CATCH_UP_SECONDS = 0.05
"""Of a rate: who comes late, the loop being busy, may make up for so much."""


class Window:
    """Connections, by what the site answers, not by time: far or near, it is the same.

    A refusal takes half a connection, so that a round of them halves the number. A mail taken adds one up to half of the limit (a
    round doubles it: slow start), above that one a round. So the lower half is for sites that take a third and more of what is
    asked; in the upper half it evens out where about two mails a round are refused.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._most = float(most)
        self._value = float(most)
        self._slow_until = 0.0
        self._in_row = 0
        self._turned_away: dict[Hashable, int] = {}

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

    @property
    def storm(self) -> bool:
        """It refuses, whatever we ask."""
        return self._in_row >= STORM

    def resize(self, most: int) -> None:
        """The limit has changed; what was whole stays whole."""
        whole = self._value >= self._most
        self._most = float(most)
        self._value = self._most if whole else min(self._value, self._most)

    def took(self) -> None:
        """The site dealt with a mail: took it, or refused that one."""
        self._in_row = 0
        if self._value < self.most:
            self._value = min(self.most, self._value + (1 if self._value < self.most / 2 else 1 / self._value))

    def refused(self) -> None:
        """It would rather have fewer of us: 421, a connection cut or not answered."""
        self._in_row += 1
        self._value = max(min(FLOOR, self._most), self._value - 0.5)

    def fell(self) -> None:
        """It takes nothing at all: it is begun with again from the floor."""
        self._value = min(FLOOR, self._most)

    def slow_down(self, seconds: float) -> None:
        self._slow_until = max(self._slow_until, self._clock() + seconds)
        self._value = min(self._value, self.most)

    def turn_away(self, mail: Hashable) -> bool:
        """Whether that costs the mail nothing once more."""
        times = self._turned_away.pop(mail, 0) + 1
        if times > PATIENCE:
            return False
        self._turned_away[mail] = times
        if len(self._turned_away) > MOST_TURNED_AWAY:
            del self._turned_away[next(iter(self._turned_away))]
        return True

    def settled(self, mail: Hashable) -> None:
        if self._turned_away:
            self._turned_away.pop(mail, None)


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
    """How often a rule was met lately, by whom it is about. Of all sites of a process: what one says counts on while no mail goes
    there, and what a provider's rule hears of a source counts for all of his sites."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Hashable, deque[float]] = {}

    def met(self, rule: Rule, key: str, provider: str | None, org_id: UUID, source_id: UUID | None) -> bool:
        """By the site with that key, or for all sites of the provider at once, where he spoke (`Shape.speaks_for`) of a source;
        where no source is there to bar, each that says so is suspended."""
        if rule.do == "suspend-source":
            return self.enough(rule, (provider or key, source_id), stays=provider is not None)
        return self.enough(rule, (key, org_id if rule.do == "suspend-tenant" else None))

    def enough(self, rule: Rule, whom: Hashable, *, stays: bool = False) -> bool:
        """Counts one more; True when it was the last that was needed, and counting begins anew. `stays`: it goes on, so that each
        further one is enough, too, while so many are within the rule's time."""
        if rule.times == 1:
            return True
        now = self._clock()
        seen = self._seen.setdefault((rule.identity, whom), deque(maxlen=rule.times))
        seen.append(now)
        if len(seen) < rule.times or now - seen[0] > rule.within:
            if len(self._seen) > MOST_HITS:  # peers' words decide what stands here
                self._seen.pop(next(iter(self._seen)))
            return False
        if not stays:
            del self._seen[rule.identity, whom]
        return True
