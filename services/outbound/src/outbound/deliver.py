"""One site at work: claim, compose, hand to the transport, pass outcomes on.

1. lanes with due rows come from the runner and take turns; each claim gives every lane its quantum
2. a claim asks for what goes ahead of the sessions: few rows at first, twice as many each time that a session found none; the next
   is made while half of it still waits for a session
3. mails are composed and signed (`prepare`) and go to the transport (`outlets`), by the connections and rates that are ours
   (`site_shares`)
4. outcomes go to the settler; rows that were never begun go back
5. no connection: the site rests, one mail's attempt tells why, the others are not attempted one by one; a 421 turns a mail away,
   which costs it nothing, and too many of them in a row rest the site too (ADR 0032)
6. what the site says may slow it down, close it, or hold one organization's mail to it (`flow.shaping`)
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Sequence
from uuid import UUID

from mailcore.flow import settle as door
from mailcore.flow.settle import Attempt
from mailcore.kit import failpoint
from mailcore.kit.log import logger
from mailcore.kit.metrics import DELIVERY_SECONDS
from mailcore.smtp.outcome import Outcome, Result
from mailcore.store.contents import Content
from mailcore.store.deliveries import DueLane, Key, Leased
from mailcore.transport import Destination, Mail, TlsPolicy
from outbound.asks import Quantum
from outbound.memory import Holding
from outbound.office import Office
from outbound.outlets import Outlets
from outbound.placement import Placed, Source
from outbound.places import Places
from outbound.prepare import own, prepare
from outbound.rest import PROBES, is_cut_off, is_down, is_turned_away, rest, rested
from outbound.retry import TRANSACTIONAL
from outbound.routes import Way
from outbound.security import tls_not_required
from outbound.signer import Identity
from outbound.site_shares import SiteShare
from outbound.verp import enveloped

log = logger(__name__)

MOST = 600
"""Rows that one site holds at most."""
FIRST = 2
"""Rows that wait for a session until the site has dealt with a mail: others wait for what is signed for the slow ones."""
AHEAD = 8
"""From then on, at least."""
AHEAD_SECONDS = 0.1
"""What more of them last at least, unless sessions had no work: whoever comes new to the site waits no longer behind them."""
AHEAD_MOST = 256
"""Of them, however many sessions there are."""
LANES = 64
"""That share one claim."""
RUN_SECONDS = 300.0
"""After that the run ends and another begins, with what is known of hops by then."""
PACED_SECONDS = 10.0
"""Where rates hold a site back: rows leased ahead at most."""


class SiteRun:
    def __init__(self, office: Office, way: Way, share: SiteShare, failures: int = 0) -> None:
        self._office = office
        self._way = way
        self._share = share
        self._failures = failures
        """Of the site so far: until it takes a mail again, it is tried with PROBES."""
        self._lanes: dict[int, DueLane] = {}
        """In the order of their turns."""
        self._classes: dict[int, int] = {}
        """Of the lanes that were ever offered."""
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
        self._asked = time.monotonic()
        """When the last claim was made …"""
        self._done = 0
        """… and how many outcomes there were since."""
        self._until = self._asked + RUN_SECONDS
        self._least = self._ahead = FIRST
        """Rows that wait for a session when a claim is answered; the next one is made at half of it."""
        self._starved = False
        """Since the last claim a session found no mail."""
        self.closed = False
        self.claimed = 0
        self._rested = False
        share.listeners.add(self)

    def offer(self, lane: DueLane) -> bool:
        """Rows of that lane are due. False: this run is at its end, begin another."""
        if self.closed:
            return False
        self._classes[lane.lane_id] = lane.class_
        if lane.lane_id not in self._lanes and lane.org_id not in self._share.held:
            self._lanes[lane.lane_id] = lane
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
        """Of the share: see `site_shares.Listener`."""
        self._changed.set()
        self._outlets.changed()
        held = self._share.held
        if self._share.closed:
            self.stop()
        elif held:
            self._lanes = {id_: lane for id_, lane in self._lanes.items() if lane.org_id not in held}
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
                    self._begin(await self._claim(wanted))
                elif self._under_way or self._lanes:
                    await self._change()
                else:
                    break
        finally:
            self.closed = True
            await self._finish()

    @property
    def site_id(self) -> int:
        return self._way.site.id

    async def deliver(self, rows: Sequence[Leased], lane: DueLane) -> None:
        """Just these, of that lane: for a suspect, which goes alone."""
        self.closed = True
        self._classes[lane.lane_id] = lane.class_
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

    # ---- claim

    def _wanted(self) -> int:
        """Rows to claim now; 0 while enough is under way."""
        connections = self._share.connections
        if not connections:
            return 0
        if self._failures:
            return 0 if self._under_way else min(PROBES, connections)
        ahead = self._ahead
        if self._share.pace.rates:
            ahead = max(1, min(ahead, int(self._share.pace.per_second() * PACED_SECONDS)))
        waiting = self._waiting
        return max(0, min(ahead - waiting, MOST - len(self._under_way))) if waiting <= ahead // 2 else 0

    @property
    def _waiting(self) -> int:
        """Rows under way that no session has begun, but for large mails that wait for memory: small ones pass them."""
        return len(self._under_way) - self._patient - len(self._handed) + self._outlets.queued

    def _hurry(self) -> None:
        """At each claim: how far the next may go ahead."""
        now = time.monotonic()
        rate = self._done / max(now - self._asked, 0.001)
        if self._done:
            self._least = AHEAD
        if self._starved:
            self._ahead = min(2 * self._ahead, AHEAD_MOST)
        else:
            self._ahead = min(self._ahead, max(int(rate * AHEAD_SECONDS), self._ahead * 7 // 8))
        self._ahead = max(self._least, self._ahead)
        self._asked, self._done, self._starved = now, 0, False

    async def _claim(self, limit: int) -> list[Leased]:
        office = self._office
        self._hurry()
        turn = dict(itertools.islice(self._lanes.items(), min(LANES, limit)))
        for lane in turn:
            del self._lanes[lane]
        quantum = max(1, limit // len(turn))
        found = await office.claims.ask([Quantum(lane, quantum) for lane in turn])
        rows = list(itertools.chain.from_iterable(found.values()))
        office.held.update([row.key for row in rows])
        failpoint.hit("f5")
        full = _full(rows, quantum)
        # to the back: the next claim begins with others
        self._lanes.update((id_, lane) for id_, lane in turn.items() if id_ in full)
        self.claimed += len(rows)
        return rows

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
            log.error("composing failed; its rows go back", site=self._way.site.key, exc_info=error)

    async def _compose(self, rows: Sequence[Leased]) -> None:
        """Each row is handed to the transport, settled, or given back."""
        try:
            await prepare(self._office, self, rows)
        finally:
            self._put_back([row for row in rows if row.key in self._under_way and row.key not in self._handed])

    @property
    def way(self) -> Way:
        return self._way

    def wait_for_memory(self, rows: int) -> None:
        self._patient += rows
        self._changed.set()

    def class_of(self, row: Leased) -> int:
        return self._classes.get(row.lane_id, TRANSACTIONAL)

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
        destinations: dict[Source, Destination] = {}
        for row in rows:
            if self.ending() or self._outlets.closed or row.org_id in self._share.held:
                continue
            source = self._places.source_of(row.key)
            if self._places.barred(source):
                continue
            destination = destinations.get(source)
            if destination is None:
                destination = destinations[source] = self._destination(content, octets, source)
            self._handed[row.key] = since
            mail = enveloped(self._office.verp, content, row, identity.return_path, octets)
            self._outlets.put(destination, mail)

    def was_handed(self, key: Key) -> bool:
        return key in self._handed

    def _destination(self, content: Content, octets: bytes, source: Source) -> Destination:
        way = self._way
        return Destination(
            way.site.key,
            way.hops,
            source.ip4,
            self._tls(content, octets),
            credentials=way.credentials,
            helo=source.ehlo,
            mails_per_connection=self._share.shape.mails_per_connection,
            source_ip6=source.ip6,
            lmtp=way.lmtp,
            requiretls=content.requiretls,
        )

    def _tls(self, content: Content, octets: bytes) -> TlsPolicy:
        way = self._way
        if content.tls_required and not way.bind_tls:
            return TlsPolicy.REQUIRED
        if way.tls is TlsPolicy.OPPORTUNISTIC and tls_not_required(content, octets):
            return TlsPolicy.NOT_REQUIRED
        return way.tls

    # ---- outcomes

    def _on_outcome(self, mail: Mail, outcome: Outcome) -> None:
        row = mail.key
        assert isinstance(row, Leased)
        self._done += 1
        source = self._places.source_of(row.key)
        self._office.tls_results.note(row.recipient, outcome)
        if outcome.rule == "lease-lost":
            self._put_back([row])
        elif is_down(outcome, self._way.tls):
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
        self._starved |= not self._outlets.queued
        if self._unattempted or self._turned_away or self._down is not None or self._waiting <= self._ahead // 2:
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
        self._turned_away.append(Attempt(row, outcome, self._way.site.key, 1))

    def _doubt(self, outcome: Outcome) -> None:
        """It turned a mail away: once it does so to whatever we ask, or to all that were to find out, it takes nothing."""
        probed = self._failures and len(self._turned_away) >= len(self._under_way)
        if self._down is None and (probed or self._share.window.storm):
            self._fall(outcome)

    async def _well(self) -> None:
        await rested(self._office.store, self._way.site)
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
        office.settler.add(office.retries.attempt(row, outcome, self._way.site.key, self.class_of(row), since, wall))

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
        await self._emptied()
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

    async def _emptied(self) -> None:
        """What waits for a rate or a connection has left, or the run is ending and it goes back."""
        while self._outlets.waiting and not self.ending():
            await self._change()

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
                await rest(self._office.store, self._way.site, self._down)
                self._office.shares.soon()
            finally:
                self._rested = True


def _full(rows: Sequence[Leased], quantum: int) -> set[int]:
    """Lanes that gave all they were asked for: more may be due in them."""
    counts: dict[int, int] = {}
    for row in rows:
        counts[row.lane_id] = counts.get(row.lane_id, 0) + 1
    return {lane for lane, count in counts.items() if count >= quantum}
