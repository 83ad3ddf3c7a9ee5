"""What this process may still send today of each warm-up's cap, and what became of what it sent.

A share is leased for many mails at a time and used up in memory; what is not used goes back. So a cap holds over all processes
without a statement a mail, and a process that dies takes no more than its share of one day with it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from mailcore.flow import warmup
from mailcore.flow.warmup import AS_SHIPPED
from mailcore.kit.clock import Clock
from mailcore.kit.settings import WarmUp
from mailcore.smtp.outcome import Outcome, Result
from mailcore.store import warmups
from mailcore.store.session import Store
from mailcore.store.warmups import Ask, Count
from outbound.placement import Placement

PARTS = 20
"""A process leases this part of a cap at a time, or as much as it needs."""
IDLE_SECONDS = 30.0
"""A share that nobody has used for so long goes back."""
DRY_SECONDS = 5.0
"""A cap that gave less than was asked is not asked again for so long."""


class ServerClock:
    """The database's time: days begin for all processes at the same moment, whatever their own clocks say."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    async def set(self) -> None:
        """Raises Unavailable."""
        async with self._store.worker() as db:
            self._ahead = await warmups.clock(db) - datetime.now(UTC)


@dataclass(slots=True)
class _Share:
    day: date
    room: int = 0
    used_at: float = field(default_factory=time.monotonic)
    dry_until: dict[bool, float] = field(default_factory=dict)
    """By whether it is for broadcasts: other mail may find room where they find none."""


class Shares:
    def __init__(self, store: Store, clock: Clock, limits: WarmUp = AS_SHIPPED) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._shares: dict[UUID, _Share] = {}
        self._counts: dict[tuple[UUID, date], Count] = {}

    @property
    def today(self) -> date:
        return self._clock.now().astimezone(UTC).date()

    # ---- room

    def has(self, id_: UUID) -> bool:
        """Whether a mail more may leave."""
        return self._share(id_).room > 0

    def is_dry(self, id_: UUID, *, broadcast: bool) -> bool:
        """Whether the cap had no more just now."""
        return self._share(id_).dry_until.get(broadcast, 0.0) > time.monotonic()

    def take(self, ids: Iterable[UUID]) -> None:
        """One mail of each, all of which `has` said to have room."""
        for id_ in ids:
            share = self._share(id_)
            share.room -= 1
            share.used_at = time.monotonic()

    def give(self, ids: Iterable[UUID], day: date) -> None:
        """Of a mail that was not sent after all."""
        for id_ in ids:
            share = self._shares.get(id_)
            if share is not None and share.day == day:
                share.room += 1

    async def fill(self, wants: Counter[UUID], caps: dict[UUID, int], *, broadcast: bool) -> None:
        """Leases what is wanted of each cap, or what there is. Raises Unavailable."""
        now = self._clock.now()
        part = warmup.pace(now) if broadcast else 1.0
        asks = [Ask(id_, max(want, caps.get(id_, 0) // PARTS), part) for id_, want in wants.items()]
        granted = await warmup.lease(self._store, asks, now, self._limits)
        for ask in asks:
            share = self._share(ask.warmup_id)
            got = granted.get(ask.warmup_id, 0)
            if share.day == now.date():
                share.room += got
            if got < ask.want:
                share.dry_until[broadcast] = time.monotonic() + DRY_SECONDS

    def _share(self, id_: UUID) -> _Share:
        share, today = self._shares.get(id_), self.today
        if share is None or share.day != today:  # what was left of yesterday is void
            share = self._shares[id_] = _Share(today)
        return share

    # ---- counts

    def done(self, placement: Placement, outcome: Outcome | None) -> None:
        """What became of a mail that took of them; None: it was not tried, and what it took is given back."""
        sent = outcome is not None and _was_sent(outcome)
        if not sent:
            self.give(placement.capped, placement.day)
        if outcome is None:
            return
        for id_ in placement.counted:
            seen = warmup.signal(outcome, of_domain=id_ == placement.domain)
            count = self.count(id_, placement.day)
            count.attempts += sent
            if seen is not None:
                setattr(count, seen, getattr(count, seen) + 1)
            if seen in ("blocked", "deferred") and outcome.reply is not None:
                count.last_words = str(outcome.reply)[:300]

    def count(self, id_: UUID, day: date) -> Count:
        """To be added to; told with the next `report`."""
        count = self._counts.get((id_, day))
        if count is None:
            count = self._counts[id_, day] = Count()
        return count

    async def report(self, *, all_back: bool = False) -> None:
        """Tells the counts, and gives back what lies idle, or everything. Raises Unavailable: then it is told the next time."""
        for id_ in self._idle(all_back):
            share = self._shares.pop(id_)
            self.count(id_, share.day).returned += share.room
        counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            await warmup.report(self._store, [(id_, day, count) for (id_, day), count in counts.items()])
        except BaseException:
            for (id_, day), count in counts.items():
                self.count(id_, day).add(count)
            raise

    def _idle(self, all_back: bool) -> Collection[UUID]:
        since = time.monotonic() - IDLE_SECONDS
        return [id_ for id_, share in self._shares.items() if share.room and (all_back or share.used_at < since)]


def _was_sent(outcome: Outcome) -> bool:
    """The peer was asked to take it: from MAIL on an attempt counts."""
    return (
        outcome.dot_sent
        or outcome.result in (Result.DELIVERED, Result.RELAYED, Result.BOUNCED)
        or any(line.said is not None and line.said.startswith("MAIL ") for line in outcome.conversation)
    )
