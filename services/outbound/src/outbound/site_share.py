"""One site, as this process works on it: its part of the connections, what the site bears of them, its rates, who is held.

What the site answers is heard here; what the heartbeat brings (`site_shares`) is taken here; who works on it is told.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Protocol
from uuid import UUID

from mailcore.flow.shaping import Rule, Shape
from mailcore.smtp.outcome import Outcome, Result
from mailcore.store.site_shares import Grant, Standing
from outbound.bearing import Hits, Pace, Window

SHUT_SECONDS = 5.0
"""How long a site is closed here, or an organization's mail held, until the database says so."""
KEPT_REPLIES = 10
CONGESTION = frozenset(
    ("connection-lost", "connect-failed", "timeout", "closing", "reply-lost", "greeting-refused", "ehlo-refused")
)
"""Rules of deferrals that say: fewer of you. A reply of 421 says so, too (RFC 5321 §3.8)."""


class Listener(Protocol):
    """Works on a site."""

    def changed(self) -> None:
        """More or fewer connections, or none: the site is closed, or some organizations' mail is held."""


class SiteShare:
    def __init__(self, site_id: int, shape: Shape, hits: Hits | None = None) -> None:
        self.site_id = site_id
        self.key = ""
        self.shape = shape
        self.granted = 0
        self.target = 0
        """Connections that we may open at most; what was granted above it is on its way back."""
        self.closed = False
        """It rests, or is held, for everybody."""
        self.failing = False
        """It has to take a mail before it is asked for more: PROBES connections are for all processes together."""
        self.held: frozenset[UUID] = frozenset()
        """Organizations whose mail to it is held."""
        self.window = Window(shape.connections)
        self.pace = Pace(shape.rates)
        self.hits = hits or Hits()
        self.asked_at = time.monotonic()
        self.rested_at = 0.0
        """When it was last written here that the site takes nothing."""
        self.leaving = False
        self.listeners: set[Listener] = set()
        self.kinds: Counter[object] = Counter()
        """Kinds of connections (source, TLS policy) that lead to it now; they divide what there is."""
        self.mails = 0
        """Outcomes since the last heartbeat."""
        self.rate = 0.0
        """Mails a second, lately."""
        self.took = False
        self.said: deque[tuple[float, Outcome]] = deque(maxlen=KEPT_REPLIES)
        """Since the last heartbeat, what was no success."""
        self._told = 0
        self._shut: dict[UUID | None, float] = {}
        """What a rule closed a moment ago, until the database knows of it: the site, or an organization's mail to it."""

    @property
    def connections(self) -> int:
        """To have at most, now."""
        return 0 if self.closed else min(self.target, int(self.window))

    @property
    def shut_elsewhere(self) -> bool:
        """Closed, and not by what the site said to us: when there is mail to it nevertheless, it has been opened again."""
        return self.closed and None not in self._shut

    def of_kind(self, kind: object) -> int:
        """Connections for one of `kinds`: equal parts; 0: the others have them all, it waits for one to end."""
        if kind not in self.kinds:
            return 0
        kinds = list(self.kinds)
        part, rest = divmod(self.connections, len(kinds))
        return part + (kinds.index(kind) < rest)

    @property
    def crowded(self) -> bool:
        """Some kind waits for another to end."""
        return len(self.kinds) > self.connections

    def heard(self, outcome: Outcome, org_id: UUID, source_id: UUID | None = None) -> Rule | None:
        """Feeds the window. A rule that speaks of it, and has been met often enough, is to be acted on. No source: of no pool."""
        self.mails += 1
        if outcome.result in (Result.DELIVERED, Result.RELAYED):
            self.took = True
            self._grew()
            return None
        reply = outcome.reply
        if outcome.rule == "lease-lost" or reply is None:
            return None
        self.said.append((time.time(), outcome))
        if outcome.result is Result.DEFERRED and (reply.code == 421 or outcome.rule in CONGESTION):
            self.window.refused()
            self.tell()
        elif outcome.rule is None:
            self._grew()
        rule = self.shape.reaction_to(reply)
        if rule is None:
            return None
        provider = self.shape.speaks_for(rule, outcome.mx_host)
        return rule if self.hits.met(rule, self.key, provider, org_id, source_id) else None

    def shut(self, whom: UUID | None) -> bool:
        """At once: the site, or that organization's mail to it. False: it is, since a moment ago."""
        now = time.monotonic()
        if self._shut.get(whom, 0.0) > now:
            return False
        self._shut[whom] = now + SHUT_SECONDS
        if whom is None:
            self.closed = True
        else:
            self.held |= {whom}
        return True

    def _grew(self) -> None:
        shrunk = self.window.shrunk
        self.window.took()
        if shrunk and self.connections != self._told:
            self.tell()

    def tell(self) -> None:
        self._told = self.connections
        for listener in list(self.listeners):
            listener.changed()

    def take(self, standing: Standing, shape: Shape, grant: Grant) -> None:
        """What the heartbeat brought."""
        before = (self.connections, self.held, self.closed)
        self.key = standing.key
        if shape != self.shape:
            self.shape = shape
            self.window.resize(shape.connections)
        if shape.rates != self.pace.rates:
            self.pace = Pace(shape.rates)
        now = time.monotonic()
        self._shut = {whom: until for whom, until in self._shut.items() if until > now}
        self.closed = standing.closed or None in self._shut
        self.failing = standing.failing
        self.held = standing.held | {whom for whom in self._shut if whom is not None}
        if standing.slow_seconds:
            self.window.slow_down(standing.slow_seconds)
        self.granted, self.target = grant.connections, grant.target
        self.pace.part = min(1.0, self.granted / shape.connections) * (0.5 if self.window.slow else 1.0)
        if before != (self.connections, self.held, self.closed):
            self.tell()
