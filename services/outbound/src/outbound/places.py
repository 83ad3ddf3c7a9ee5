"""Of one run: where each of its mails leaves from, until its outcome is known. Empty while no pool and no warm-up concerns it."""

from __future__ import annotations

from mailcore.smtp.outcome import Outcome
from mailcore.store.deliveries import Key
from outbound.placement import Placed, Placement, Source
from outbound.routes import Way
from outbound.sources import Sources


class Places:
    def __init__(self, sources: Sources, way: Way) -> None:
        self._sources = sources
        self._way = way
        self._placements: dict[Key, Placement] = {}
        self._refused: set[Source] = set()

    def add(self, placed: Placed) -> None:
        self._placements.update(placed.placements)

    def source_of(self, key: Key) -> Source:
        placement = self._placements.get(key) if self._placements else None
        return self._sources.own if placement is None else placement.source

    def done(self, key: Key, outcome: Outcome | None) -> None:
        """Its outcome; None: it was not tried."""
        if self._placements and (placement := self._placements.pop(key, None)) is not None:
            self._sources.done(placement, outcome)

    def refused(self, key: Key, outcome: Outcome) -> bool | None:
        """The site takes nothing from this source, and others of the pool are left: mail goes on by them. True for the first mail
        that finds it out. None: it is not about the source, or there is no other."""
        placement = self._placements.get(key) if self._placements else None
        if placement is None or not self._sources.bar(placement, self._way, outcome):
            return None
        first = placement.source not in self._refused
        self._refused.add(placement.source)
        return first
