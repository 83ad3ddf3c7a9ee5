"""Of one run: where each of its mails leaves from, until its outcome is known. Empty while no pool and no warm-up concerns it."""

from __future__ import annotations

from mailcore.flow.shaping import Rule
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

    def add(self, placed: Placed) -> None:
        self._placements.update(placed.placements)

    def source_of(self, key: Key) -> Source:
        placement = self._placements.get(key) if self._placements else None
        return self._sources.own if placement is None else placement.source

    def barred(self, source: Source) -> bool:
        """From the run's site, now."""
        return source.id is not None and self._sources.bars.barred(source.id, self._way.site.key)

    def done(self, key: Key, outcome: Outcome | None) -> None:
        """Its outcome; None: it was not tried."""
        if self._placements and (placement := self._placements.pop(key, None)) is not None:
            self._sources.done(placement, outcome)

    def refused(self, key: Key, outcome: Outcome) -> bool | None:
        """The site takes nothing from this source, and others are left: mail goes on by them. True for the first mail that finds it
        out. None: it is not about the source, or there is no other."""
        placement = self._placements.get(key) if self._placements else None
        return None if placement is None else self._sources.bar(placement, self._way, outcome)

    def bar(self, source: Source, rule: Rule, outcome: Outcome, provider: str | None) -> bool:
        """Acts on a rule that is about our address, for the site, or for all of the provider who spoke. False: it is of no pool,
        and the rule is acted on as on any other."""
        if source.id is None:
            return False
        reason = f"rule {rule.name}: {outcome.reply}"
        self._sources.bars.place(source.id, provider or self._way.site.key, rule.seconds, reason)
        return True
