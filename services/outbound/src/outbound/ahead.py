"""How many rows go ahead of a site's sessions: few at first, twice as many each time that a session found none.

What is claimed and signed ahead waits: of a site that is slow too much of it would keep others from being signed, of one that is
fast too little would keep its sessions waiting.
"""

from __future__ import annotations

import time

FIRST = 2
"""Rows that wait for a session until the site has dealt with a mail: others wait for what is signed for the slow ones."""
LEAST = 8
"""From then on, at least."""
SECONDS = 0.1
"""What more of them last at least, unless sessions had no work: whoever comes new to the site waits no longer behind them."""
MOST = 256
"""Of them, however many sessions there are."""
PACED_SECONDS = 10.0
"""Where rates hold a site back: rows leased ahead at most."""


class Ahead:
    def __init__(self) -> None:
        self.done = 0
        """Outcomes since the last claim."""
        self.starved = False
        """Since then a session found no mail."""
        self._asked = time.monotonic()
        """When the last claim was made."""
        self._least = self._rows = FIRST
        """Rows that wait for a session when a claim is answered; the next one is made at half of it."""

    def short(self, waiting: int) -> bool:
        """So many wait for a session, and it is time for the next claim."""
        return waiting <= self._rows // 2

    def wanted(self, waiting: int, per_second: float | None) -> int:
        """Rows to claim, of which so many wait; `per_second`: what the site's rates allow."""
        rows = self._rows
        if per_second is not None:
            rows = max(1, min(rows, int(per_second * PACED_SECONDS)))
        return max(0, rows - waiting) if waiting <= rows // 2 else 0

    def claimed(self) -> None:
        """At each claim: how far the next may go ahead."""
        now = time.monotonic()
        rate = self.done / max(now - self._asked, 0.001)
        if self.done:
            self._least = LEAST
        if self.starved:
            self._rows = min(2 * self._rows, MOST)
        else:
            self._rows = min(self._rows, max(int(rate * SECONDS), self._rows * 7 // 8))
        self._rows = max(self._least, self._rows)
        self._asked, self.done, self.starved = now, 0, False
