"""The lanes of one site that have due rows: they take turns, and each claim gives those whose turn it is their quantum."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from uuid import UUID

from mailcore.kit import failpoint
from mailcore.store.deliveries import Leased
from mailcore.store.due import DueLane
from outbound.asks import Quantum
from outbound.office import Office
from outbound.retry import TRANSACTIONAL

SHARE_A_CLAIM = 64
"""Lanes whose turn it is at a time."""


class Lanes:
    def __init__(self, office: Office) -> None:
        self._office = office
        self._due: dict[int, DueLane] = {}
        """In the order of their turns."""
        self._classes: dict[int, int] = {}
        """Of all that were ever here."""

    def __bool__(self) -> bool:
        """Some have due rows."""
        return bool(self._due)

    def class_of(self, row: Leased) -> int:
        return self._classes.get(row.lane_id, TRANSACTIONAL)

    def know(self, lane: DueLane) -> None:
        """It has rows here, and no turn."""
        self._classes[lane.lane_id] = lane.class_

    def add(self, lane: DueLane) -> bool:
        """To the back. False: it is waiting for its turn already."""
        self.know(lane)
        if lane.lane_id in self._due:
            return False
        self._due[lane.lane_id] = lane
        return True

    def drop(self, held: Collection[UUID]) -> None:
        """Those of these organizations."""
        self._due = {id_: lane for id_, lane in self._due.items() if lane.org_id not in held}

    async def claim(self, limit: int) -> list[Leased]:
        """At most so many rows; not when no lane has any. Raises Unavailable."""
        turn = dict(itertools.islice(self._due.items(), min(SHARE_A_CLAIM, limit)))
        for lane in turn:
            del self._due[lane]
        quantum = max(1, limit // len(turn))
        found = await self._office.claims.ask([Quantum(lane, quantum) for lane in turn])
        rows = list(itertools.chain.from_iterable(found.values()))
        self._office.held.update([row.key for row in rows])
        failpoint.hit("f5")
        full = _full(rows, quantum)
        # to the back: the next claim begins with others
        self._due.update((id_, lane) for id_, lane in turn.items() if id_ in full)
        return rows


def _full(rows: Sequence[Leased], quantum: int) -> set[int]:
    """Lanes that gave all they were asked for: more may be due in them."""
    counts: dict[int, int] = {}
    for row in rows:
        counts[row.lane_id] = counts.get(row.lane_id, 0) + 1
    return {lane for lane, count in counts.items() if count >= quantum}
