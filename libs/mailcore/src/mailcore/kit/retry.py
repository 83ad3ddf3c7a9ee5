"""Retry schedules: when an attempt has failed, how long until the next."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence


def delay(
    schedule: Sequence[float],
    attempt: int,
    *,
    jitter: float = 0.1,
    uniform: Callable[[float, float], float] = random.uniform,
) -> float | None:
    """Seconds from failed attempt number `attempt` (1-based) to the next; None when the schedule is used up.

    `jitter` is the share by which the delay is spread to both sides, so that what failed together does not return together.
    """
    if attempt > len(schedule):
        return None
    seconds = schedule[attempt - 1]
    return seconds * (1 + uniform(-jitter, jitter)) if jitter else seconds


def backoff(failures: int, *, first: float, longest: float) -> float:
    """Seconds to wait after that many failures in a row: `first` doubled with each, at most `longest`, however many there were."""
    return min(longest, first * 2.0 ** min(failures, 64))
