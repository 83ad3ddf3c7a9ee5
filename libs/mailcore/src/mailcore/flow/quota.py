"""Quotas: how many recipients a day and a month an organization's mail may have. Days and months are those of UTC.

Mail counts when it is accepted, each recipient of To, Cc and Bcc once, also one that is suppressed; scheduled mail counts on the
day it is handed in, so that what was accepted is never failed for want of quota later. What is cancelled is not given back.

1. `check`    before anything else is done: refuses what was used up by what is known here (`SECONDS` old at most)
2. `near`     whether a limit is within `MARGIN`, by what is known; far from it nothing more is asked (`took`)
   `admit`    near it, in the transaction, under a lock an organization: what is committed is read, and the last that fits is the
              last that passes
3. the statement that stores the mail adds what it took (`store.emails`); nobody waits for a shared row
4. `roll_up`  a chore: rows become sums

The limit is exceeded only when other processes take more than MARGIN recipients within SECONDS, and then by what was more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from mailcore.kit.errors import Exceeded
from mailcore.kit.remember import Remembered
from mailcore.store import usage
from mailcore.store.session import Connection, Store
from mailcore.store.usage import Used

SECONDS = 3.0
"""How old what is known may be."""
MARGIN = 20_000
"""Recipients that other processes may take in SECONDS."""
GROUPS = 3
"""That one process has under way at a time (flow.submit): each counts the others as large as itself."""
MAX_REMEMBERED = 100_000
"""Organizations."""


class Standing(NamedTuple):
    """Where an organization stands. Limits are None where there is none."""

    day: date
    daily: int
    monthly: int
    daily_limit: int | None
    monthly_limit: int | None

    def refusal(self, more: int) -> Exceeded | None:
        """Why so many more recipients are too many."""
        if self.daily_limit is not None and self.daily + more > self.daily_limit:
            return Exceeded(
                "You have exceeded your daily email sending quota.",
                name="daily_quota_exceeded",
                retry_after=_until(next_day(self.day)),
            )
        if self.monthly_limit is not None and self.monthly + more > self.monthly_limit:
            return Exceeded(
                "You have exceeded your monthly email sending quota.",
                name="monthly_quota_exceeded",
                retry_after=_until(next_month(self.day)),
            )
        return None


class _Known(NamedTuple):
    standing: Standing
    taken: int
    """By this process until it was asked."""
    at: float
    twice: int
    """Of what this process took while it was asked, how much the answer holds already, as far as can be known."""


class Quotas:
    """One a process."""

    def __init__(self, store: Store, *, daily: int = 0, monthly: int = 0) -> None:
        """The quotas of organizations that have none of their own; 0 is no limit."""
        self._store = store
        self._daily = daily
        self._monthly = monthly
        self._asked: Remembered[UUID, _Known] = Remembered(self._ask, seconds=SECONDS)
        self._known: dict[UUID, _Known] = {}
        self._taken: Counter[UUID] = Counter()
        """By this process since it started."""

    def known(self, org_id: UUID) -> Standing | None:
        """As this process knew it last, with what it took since; asks nobody. None: it has not met the organization."""
        known = self._known.get(org_id)
        return None if known is None else _more(self._now(known, org_id), -known.twice)

    async def exact(self, org_id: UUID) -> Standing | None:
        """As it is committed."""
        return next((self._standing(found) for found in await self._read([org_id])), None)

    async def check(self, org_id: UUID, recipients: int) -> None:
        """Raises Exceeded when they are too many whatever is under way, Unavailable."""
        known = self._asked.held(org_id) or await self._asked.get(org_id)
        # only what was committed: what this process took meanwhile may have failed
        if known is not None and (error := known.standing.refusal(recipients)) is not None:
            raise error

    def near(self, asked: Sequence[tuple[UUID, int]]) -> list[UUID]:
        """Organizations whose limits so many more recipients each may meet: only `admit` can tell."""
        totals: Counter[UUID] = Counter()
        for org_id, recipients in asked:
            totals[org_id] += recipients
        return [org_id for org_id, total in totals.items() if self._near(org_id, total)]

    def took(self, asked: Sequence[tuple[UUID, int]]) -> None:
        """So many recipients each are being stored, far from every limit: the database is not asked."""
        for org_id, recipients in asked:
            self._taken[org_id] += recipients

    async def admit(
        self, db: Connection, asked: Sequence[tuple[UUID, int]], near: Sequence[UUID]
    ) -> list[Exceeded | None]:
        """For each organization and number of recipients, in order, whether it must not be stored. In the door's transaction.

        `near`: what `near` said of them and others.
        """
        await usage.lock(db, near)
        # a statement of its own: it sees what the holder of the lock before us committed
        left = {found.org_id: self._standing(found) for found in await usage.read(db, near)}
        answers: list[Exceeded | None] = []
        for org_id, recipients in asked:
            standing = left.get(org_id)
            refusal = None if standing is None else standing.refusal(recipients)
            if refusal is None:
                self._taken[org_id] += recipients
                if standing is not None:
                    left[org_id] = _more(standing, recipients)
            answers.append(refusal)
        return answers

    def _near(self, org_id: UUID, more: int) -> bool:
        known = self._known.get(org_id)
        if known is None or asyncio.get_running_loop().time() - known.at > SECONDS:
            return True
        return known.standing.refusal(self._taken[org_id] - known.taken + GROUPS * more + MARGIN) is not None

    def _now(self, known: _Known, org_id: UUID) -> Standing:
        return _more(known.standing, self._taken[org_id] - known.taken)

    async def _ask(self, org_id: UUID) -> _Known | None:
        at, taken = asyncio.get_running_loop().time(), self._taken[org_id]
        found = await self._read([org_id])
        if not found:
            self._known.pop(org_id, None)
            return None
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        standing = self._standing(found[0])
        twice = self._twice(org_id, standing, self._taken[org_id] - taken)
        known = self._known[org_id] = _Known(standing, taken, at, twice)
        return known

    def _twice(self, org_id: UUID, standing: Standing, meanwhile: int) -> int:
        """The sum is at least what was answered, and what was known before with all that this process took since."""
        before = self.known(org_id)
        if before is None or before.day != standing.day:
            return meanwhile
        return meanwhile - min(meanwhile, max(0, before.monthly - standing.monthly))

    async def _read(self, orgs: list[UUID]) -> list[Used]:
        return [Used(*row) for row in await self._store.lookup(usage.READ, orgs)]

    def _standing(self, used: Used) -> Standing:
        daily = self._daily if used.daily_quota is None else used.daily_quota
        monthly = self._monthly if used.monthly_quota is None else used.monthly_quota
        return Standing(used.day, used.daily, used.monthly, daily or None, monthly or None)


async def roll_up(store: Store) -> int:
    """Until nothing is left to add up. Returns how many rows that were."""
    total = 0
    while True:
        async with store.worker() as db:
            moved = await usage.roll_up(db)
        total += moved
        if moved < usage.BATCH:
            return total


def next_day(day: date) -> date:
    return day + timedelta(days=1)


def next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _until(day: date) -> int:
    return max(1, round((midnight(day) - datetime.now(UTC)).total_seconds()))


def _more(standing: Standing, recipients: int) -> Standing:
    return Standing(
        standing.day,
        standing.daily + recipients,
        standing.monthly + recipients,
        standing.daily_limit,
        standing.monthly_limit,
    )
