"""How much of the process routing gets while mail comes in: who waits for a 250 goes first, what has its 250 must not wait long.

On a busy processor a round of the router is followed by a pause that is the longer the less its mail has waited. So a burst is
taken as fast as it comes and routed behind it; and a stream that does not end is routed as fast as it comes in, PATIENCE_SECONDS
behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE_SECONDS = 5.0
"""Mail that has waited so long gives way to nobody."""
LEAST = 0.05
"""Of the time, that routing gets at the least."""
BUSY = 0.5
"""Of a processor, that this process has used since the last round: below it routing is in nobody's way."""
MOST_SECONDS = 1.0


class Pace:
    """Around `work` of a runner. `taken` counts mails that had their 250, `lag` is how long that of the last round had waited."""

    def __init__(
        self,
        work: Callable[[frozenset[str] | None], Awaitable[bool]],
        *,
        taken: Callable[[], int],
        lag: Callable[[], float],
    ) -> None:
        self._work = work
        self._taken = taken
        self._lag = lag
        self._since = 0.0, 0.0
        """When the last round ended: by the loop's clock, and by the processor's for this process."""

    async def __call__(self, keys: frozenset[str] | None) -> bool:
        loop = asyncio.get_running_loop()
        began, before = loop.time(), self._taken()
        found = await self._work(keys)
        ended, used = loop.time(), time.process_time()
        busy = used - self._since[1] > BUSY * (ended - self._since[0])
        if found and busy and self._taken() != before:
            await asyncio.sleep(pause(ended - began, self._lag()))
        self._since = ended, used
        return found


def pause(took: float, lag: float) -> float:
    """Seconds after a round of `took` seconds whose mail had waited `lag`.

    The share grows with the square of what was waited: little is taken from a burst of a second or two, and PATIENCE_SECONDS stay
    what they are."""
    share = max(LEAST, min(1.0, lag / PATIENCE_SECONDS) ** 2)
    return min(MOST_SECONDS, took * (1.0 / share - 1.0))
