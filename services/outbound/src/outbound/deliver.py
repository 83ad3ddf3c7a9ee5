"""One site at work: claim, compose, hand to the transport, pass outcomes on.

1. lanes with due rows come from the runner and take turns; each claim gives every lane its quantum (`lanes`)
2. a claim asks for what goes ahead of the sessions: few rows at first, twice as many each time that a session found none; the next
   is made while half of it still waits for a session (`ahead`)
3. mails are composed and signed (`prepare`) and go to the transport (`outlets`), by the connections and rates that are ours
   (`site_shares`)
4. outcomes go to the settler; rows that were never begun go back
5. no connection: the site rests, one mail's attempt tells why, the others are not attempted one by one; a 421 turns a mail away,
   which costs it nothing, and many in a row rest the site too (ADR 0032)
6. what the site says may slow it down, close it, or hold one organization's mail to it (`flow.shaping`)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from uuid import UUID

from mailcore.flow import settle as door
from mailcore.flow.settle import Attempt
from mailcore.kit.log import logger
from mailcore.kit.metrics import DELIVERY_SECONDS
from mailcore.smtp.outcome import Outcome, Result
from mailcore.store.contents import Content
from mailcore.store.deliveries import Key, Leased
from mailcore.store.due import DueLane
from mailcore.transport import Destination, Mail
from outbound.ahead import Ahead
from outbound.destination import destination
from outbound.lanes import Lanes
from outbound.memory import Holding
from outbound.office import Office
from outbound.outlets import Outlets
from outbound.placement import Placed, Source
from outbound.places import Places
from outbound.prepare import own, prepare
from outbound.rest import PROBES, is_cut_off, is_down, is_turned_away
from outbound.routes import Way
from outbound.signer import Identity
from outbound.site_share import SiteShare
from outbound.verp import enveloped

log = logger(__name__)

MOST = 600
"""Rows that one site holds at most."""
RUN_SECONDS = 300.0
"""After that the run ends and another begins, with what is known of hops by then."""


class SiteRun:
    def __init__(self, office: Office, way: Way, share: SiteShare, failures: int = 0) -> None:
        self._office = office
        self.way = way
        self._share = share
        self._failures = failures
        """Of the site so far: until it takes a mail again, it is tried with PROBES."""
        self._lanes = Lanes(office)
        self.class_of = self._lanes.class_of
        self._outlets = Outlets(way.transport or office.transport, share, office.gate.before_dot, self._on_outcome)
        self._under_way: dict[Key, Leased] = {}
        self._places = Places(office.sources, way)
        self._handed: dict[Key, float] = {}
        """Of those under way, what the transport was given; with the time of day since when the mail wanted to leave."""
        self.holding = Holding()
        """Memory of those under way."""
        self._patient = 0
        """Rows whose mails wait for memory."""
        self._composing: set[asyncio.Task[None]] = set()
        self._unattempted: list[Leased] = []
        self._turned_away: list[Attempt] = []
        """Not attempted either, and that is told."""
        self._down: Outcome | None = None
        self._changed = asyncio.Event()
        self._ahead = Ahead()
        self._until = time.monotonic() + RUN_SECONDS
        self.closed = False
        self.claimed = 0
        self._rested = False
        share.listeners.add(self)

    def offer(self, lane: DueLane) -> bool:
        """Rows of that lane are due. False: this run is at its end, begin another."""
        if self.closed:
            return False
        if lane.org_id not in self._share.held and self._lanes.add(lane):
            self._changed.set()
        return True

    @property
    def falling(self) -> bool:
        """The site takes no mail, and that is not written yet: a new run would cost another mail its attempt."""
        return self._down is not None and not self._rested

    def stop(self) -> None:
        """No more claims; what no session has begun is given back, and nothing waits for memory."""
        self._changed.set()
        self._take_back(self._outlets.take_all())
        self._office.memory.refuse(self)

    def changed(self) -> None:
        """Of the share: see `site_share.Listener`."""
        self._changed.set()
        self._outlets.changed()
        held = self._share.held
        if self._share.closed:
            self.stop()
        elif held:
            self._lanes.drop(held)
            self._take_back(
                self._outlets.take_all(lambda mail: isinstance(mail.key, Leased) and mail.key.org_id in held)
            )

    def _take_back(self, mails: Sequence[Mail]) -> None:
        self._put_back([mail.key for mail in mails if isinstance(mail.key, Leased)])

    async def run(self) -> None:
        """Until no lane has rows left and nothing is under way."""
        try:
            while not self.ending():
                if self._unattempted or self._turned_away:
                    await self._release()
                wanted = self._wanted()
                if self._lanes and wanted:
                    self._ahead.claimed()
                    rows = await self._lanes.claim(wanted)
                    self.claimed += len(rows)
                    self._begin(rows)
                elif self._under_way or self._lanes:
                    await self._change()
                else:
                    break
        finally:
            self.closed = True
            await self._finish()

    async def deliver(self, rows: Sequence[Leased], lane: DueLane) -> None:
        """Just these, of that lane: for a suspect, which goes alone."""
        self.closed = True
        self._lanes.know(lane)
        self._begin(rows)
        await self._finish()

    def ending(self) -> bool:
        share, office = self._share, self._office
        gone = share.closed or office.draining or not office.lease.alive
        return gone or self._down is not None or self._outlets.broken or time.monotonic() > self._until

    async def _change(self) -> None:
        self._changed.clear()
        # also looks up by itself: the rate decides how much may be under way
        try:
            async with asyncio.timeout(1.0):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _wanted(self) -> int:
        """Rows to claim now; 0 while enough is under way."""
        connections = self._share.connections
        if not connections:
            return 0
        if self._failures:
            return 0 if self._under_way else min(PROBES, connections)
        pace = self._share.pace
        wanted = self._ahead.wanted(self._waiting, pace.per_second() if pace.rates else None)
        return max(0, min(wanted, MOST - len(self._under_way)))

    @property
    def _waiting(self) -> int:
        """Rows under way that no session has begun, but for large mails that wait for memory: small ones pass them."""
        return len(self._under_way) - self._patient - len(self._handed) + self._outlets.queued

    # ---- compose

    def _begin(self, rows: Sequence[Leased]) -> None:
        if not rows:
            return
        self._under_way.update([(row.key, row) for row in rows])
        if any(row.suppressed for row in rows):
            rows = self._without_suppressed(rows)
        most = self._office.memory.rows
        for start in range(0, len(rows), most):
            task = asyncio.get_running_loop().create_task(self._compose(rows[start : start + most]))
            self._composing.add(task)
            task.add_done_callback(self._composed)

    def _without_suppressed(self, rows: Sequence[Leased]) -> list[Leased]:
        """Settles those that must not be sent any more."""
        left = []
        for row in rows:
            outcome = door.suppression(row)
            if outcome is None:
                left.append(row)
            else:
                self._settle(row, outcome)
        return left

    def _composed(self, task: asyncio.Task[None]) -> None:
        self._composing.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("composing failed; its rows go back", site=self.way.site.key, exc_info=error)

    async def _compose(self, rows: Sequence[Leased]) -> None:
        """Each row is handed to the transport, settled, or given back."""
        try:
            await prepare(self._office, self, rows)
        finally:
            self._put_back([row for row in rows if row.key in self._under_way and row.key not in self._handed])

    def wait_for_memory(self, rows: int) -> None:
        self._patient += rows
        self._changed.set()

    def placed(self, placed: Placed) -> None:
        """See `prepare.Run`."""
        self._places.add(placed)
        for row in placed.waiting:
            self.holding.done(row.key)
            self._under_way.pop(row.key, None)
        self._office.held.difference_update([row.key for row in placed.waiting])

    def hand(self, rows: Sequence[Leased], content: Content, identity: Identity, octets: bytes) -> None:
        """To the transport, unless the run is ending or its source was barred meanwhile: those go back."""
        since = (content.scheduled_at or content.created_at).timestamp()
        most = self._share.shape.mails_per_connection
        destinations: dict[Source, Destination] = {}
        for row in rows:
            if self.ending() or self._outlets.closed or row.org_id in self._share.held:
                continue
            source = self._places.source_of(row.key)
            if self._places.barred(source):
                continue
            to = destinations.get(source)
            if to is None:
                to = destinations[source] = destination(self.way, source, content, octets, most)
            self._handed[row.key] = since
            self._outlets.put(to, enveloped(self._office.verp, content, row, identity.return_path, octets))

    def was_handed(self, key: Key) -> bool:
        return key in self._handed

    # ---- outcomes

    def _on_outcome(self, mail: Mail, outcome: Outcome) -> None:
        row = mail.key
        assert isinstance(row, Leased)
        self._ahead.done += 1
        source = self._places.source_of(row.key)
        self._office.tls_results.note(row.recipient, outcome)
        if outcome.rule == "lease-lost":
            self._put_back([row])
        elif is_down(outcome, self.way.tls):
            self._no_session(row, outcome, source)
        elif is_turned_away(outcome) and self._share.window.turn_away(row.key):
            self._turn_away(row, outcome)
            if not self._react(row, outcome, source):
                self._doubt(outcome)
        else:
            failed = self._failures or self._share.failing
            if failed and (outcome.rule is None or outcome.result is Result.DELIVERED):
                self._failures, self._share.failing = 0, False
                self._clearing = asyncio.get_running_loop().create_task(self._well())
            self._settle(row, outcome)
            self._react(row, outcome, source)
            if is_cut_off(outcome):
                self._doubt(outcome)
        self._ahead.starved |= not self._outlets.queued
        if self._unattempted or self._turned_away or self._down is not None or self._ahead.short(self._waiting):
            self._changed.set()

    def _no_session(self, row: Leased, outcome: Outcome, source: Source) -> None:
        """It is about the site: one mail tells of it, and pays where nobody spoke to us."""
        known, down = self._places.barred(source), self._down is not None
        barred = self._react(row, outcome, source)  # a rule knows for how long, and where else
        refused = self._places.refused(row.key, outcome)
        if refused or (barred and not known):  # of its source alone: once more, at once, from another
            self._settle(row, outcome._replace(retry_after=0.0))
        elif refused is not None or down:
            self._put_back([row])
        else:
            if is_turned_away(outcome) and self._share.window.turn_away(row.key):
                self._turn_away(row, outcome)
            else:
                self._settle(row, outcome)
            self._fall(outcome)

    def _turn_away(self, row: Leased, outcome: Outcome) -> None:
        self.holding.done(row.key)
        self._places.done(row.key, None)
        self._turned_away.append(Attempt(row, outcome, self.way.site.key, 1))

    def _doubt(self, outcome: Outcome) -> None:
        """It turned a mail away: once it does so to whatever we ask, or to all that were to find out, it takes nothing."""
        probed = self._failures and len(self._turned_away) >= len(self._under_way)
        if self._down is None and (probed or self._share.window.storm):
            self._fall(outcome)

    async def _well(self) -> None:
        await self._office.rests.end(self.way.site)
        self._office.shares.soon()

    def _fall(self, outcome: Outcome) -> None:
        """The site takes nothing: it rests when what is under way has ended."""
        self._down = outcome
        self._share.window.fell()
        self.stop()

    def _react(self, row: Leased, outcome: Outcome, source: Source) -> bool:
        """True: the source it left by is barred, and it is not the site that takes nothing."""
        rule = self._share.heard(outcome, row.org_id, source.id)
        if rule is None:
            return False
        provider = self._share.shape.speaks_for(rule, outcome.mx_host)
        if rule.do == "suspend-source" and self._places.bar(source, rule, outcome, provider):
            self._take_back(self._outlets.take_all(lambda mail: self._left_by(mail) == source.id))
            return True
        self._office.shares.react(self._share, rule, outcome, row.org_id)
        return False

    def _left_by(self, mail: Mail) -> UUID | None:
        return self._places.source_of(mail.key.key).id if isinstance(mail.key, Leased) else None

    def settle_all(self, rows: Iterable[Leased], outcome: Outcome) -> None:
        for row in rows:
            self._settle(row, outcome)

    def _settle(self, row: Leased, outcome: Outcome) -> None:
        self.holding.done(row.key)
        self._share.window.settled(row.key)
        self._places.done(row.key, outcome)
        self._under_way.pop(row.key, None)
        since = self._handed.pop(row.key, None)
        wall = time.time()
        if outcome.result is Result.DELIVERED and since is not None:
            DELIVERY_SECONDS.observe(max(0.0, wall - since))
        office = self._office
        office.settler.add(office.retries.attempt(row, outcome, self.way.site.key, self.class_of(row), since, wall))

    # ---- the end

    def _put_back(self, rows: Sequence[Leased]) -> None:
        """Not begun: their memory at once, themselves with the next `_release`."""
        for row in rows:
            self.holding.done(row.key)
            self._places.done(row.key, None)
        self._unattempted.extend(rows)

    async def _finish(self) -> None:
        try:
            await self._end()
        finally:
            self._outlets.close()  # a run that broke takes no part of the connections with it
            self._share.listeners.discard(self)
            self.holding.done_all()

    async def _end(self) -> None:
        while self._composing:
            if self.ending():
                self.stop()  # a run that broke holds mails which nobody will take
            await asyncio.wait(self._composing, timeout=1.0)
        while self._outlets.waiting and not self.ending():  # for a rate or a connection
            await self._change()
        if self.ending():
            self.stop()
        self._outlets.close()
        await self._release()  # what is under way may take minutes
        await self._rest()
        await self._outlets.end()
        await self._release()
        for row in list(self._under_way.values()):
            # the transport ended without a word about it: its final dot may have left
            outcome = own(Result.DEFERRED, "this process failed", "4.3.0", "internal-error")
            self._settle(row, outcome._replace(dot_sent=True))
        await self._rest()

    async def _release(self) -> None:
        rows, self._unattempted = self._unattempted, []
        away, self._turned_away = self._turned_away, []
        keys = [row.key for row in rows] + [each.row.key for each in away]
        for key in keys:
            self._under_way.pop(key, None)
            self._handed.pop(key, None)
        await door.release(self._office.store, rows, away)
        self._office.held.difference_update(keys)

    async def _rest(self) -> None:
        if self.falling and self._down is not None:
            try:
                await self._office.rests.begin(self.way.site, self._down)
                self._office.shares.soon()
            finally:
                self._rested, self._share.rested_at = True, time.monotonic()
