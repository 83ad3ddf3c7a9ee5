"""How long a mail is tried, and when its sender hears that it waits (reliability.md §3).

The schedule says when (store.deliveries.claim spreads it). A class of mail may have a shorter life than the schedule: it ends with
the last attempt that falls into it, and a mail that waited longer, its site being suspended or held, gets one more.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mailcore.flow.settle import Attempt
from mailcore.smtp.outcome import Outcome, Result
from mailcore.store.deliveries import Leased

TRANSACTIONAL, BROADCAST = 0, 1
"""Classes of lanes."""
SLACK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Retries:
    schedule: Sequence[float]
    """Seconds from a failed attempt to the next."""
    lifetimes: Mapping[int, float]
    """By class, where it is shorter than the schedule: seconds from when the mail wanted to leave."""
    notice_seconds: float
    """A mail that has waited for so long and is deferred says so, once."""

    def lifetime(self, class_: int) -> float:
        return min(sum(self.schedule), self.lifetimes.get(class_, float("inf")))

    def attempts(self, class_: int) -> int:
        """How many fall into its life."""
        life = self.lifetime(class_)
        return 1 + sum(at <= life for at in itertools.accumulate(self.schedule))

    def attempt(
        self, row: Leased, outcome: Outcome, site: str | None, class_: int, since: float | None, now: float
    ) -> Attempt:
        """`since`: when the mail wanted to leave, seconds since 1970; None: not known, its content was not read."""
        attempts = self.attempts(class_)
        notice = True
        if since is not None and outcome.result is Result.DEFERRED:
            # a little over: within its life the schedule decides, and its spread
            life = self.lifetime(class_)
            if now - since > life + max(0.1 * life, SLACK_SECONDS):
                attempts = min(attempts, row.attempt)
            notice = now - since >= self.notice_seconds
        elif outcome.result is Result.DEFERRED:
            notice = not self.notice_seconds
        return Attempt(row, outcome, site, attempts, notice)
