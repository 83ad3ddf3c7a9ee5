"""Connections by (source IP, site, TLS policy): a bounded number, each used for many mails and kept warm between calls.

A call of `deliver` runs up to `connections` workers. A worker is a task with one session at a time; all pull from the
call's queue. The first connects alone, so that a dead site costs one connection and not twenty; once a session is up,
their number may double with each that comes up, while mails wait.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace

from mailcore.smtp.outcome import Line
from mailcore.transport.base import BeforeDot, Destination, Mail, OnOutcome, Timeouts
from mailcore.transport.connections import SiteConnections
from mailcore.transport.exchange import Exchange
from mailcore.transport.mail_queue import MailQueue
from mailcore.transport.route import Failure, Quirks, Route
from mailcore.transport.session import Session
from mailcore.transport.transaction import Lost

NUDGE_SECONDS = 0.05
"""How long few waiting mails are left to the sessions there are before another is opened for them."""
RISE_SECONDS, RISE_LONGEST = 5.0, 300.0
"""How long a peer that refused one more connection is left alone, at first and at most."""


class Pool:
    """The real `Transport`. Belongs to one event loop.

    `helo` is our name in EHLO. A connection is closed after `mails` mails, `age` seconds, or `idle` seconds without work;
    a peer may set a lower number of mails (RFC 9422). `chunking`: BDAT where it is offered. `tls_context` verifies peers where the
    destination has none of its own; None: against the authorities of the system and Mozilla's. `rise_seconds`, `rise_longest`: how
    long a peer that refused one more connection is left alone, at first and at most.
    """

    def __init__(
        self,
        helo: str,
        *,
        timeouts: Timeouts | None = None,
        mails: int = 100,
        age: float = 300.0,
        idle: float = 5.0,
        chunking: bool = True,
        tls_context: ssl.SSLContext | None = None,
        rise_seconds: float = RISE_SECONDS,
        rise_longest: float = RISE_LONGEST,
    ) -> None:
        _check_helo(helo)
        self.helo = helo
        self.timeouts = timeouts or Timeouts()
        self.mails = mails
        self.age = age
        self.idle = idle
        self.chunking = chunking
        self.tls_context = tls_context
        self.rise_seconds = rise_seconds
        self.rise_longest = rise_longest
        self.quirks = Quirks()
        self._sites: dict[str, dict[object, SiteConnections]] = {}
        """By name, then by source, policy and credentials."""

    async def deliver(
        self,
        destination: Destination,
        mails: MailQueue,
        *,
        connections: int,
        before_dot: BeforeDot,
        on_outcome: OnOutcome,
    ) -> None:
        """See `Transport.deliver`."""
        if destination.helo is not None:
            _check_helo(destination.helo)
        if destination.tls_context is None and self.tls_context is not None:
            destination = replace(destination, tls_context=self.tls_context)
        name, key = destination.site, destination.pool_key
        site = self._sites.get(name, {}).get(key)
        if site is None:
            site = SiteConnections(self.mails, self.age, self.idle, lambda: self._forget(name, key))
            self._sites.setdefault(name, {})[key] = site
        site.resize(connections)
        site.mails = destination.mails_per_connection or self.mails
        site.calls += 1
        try:
            await _Call(self, site, destination, mails, before_dot, on_outcome).run()
        finally:
            site.calls -= 1
            site.forget_if_unused()

    async def close(self) -> None:
        """See `Transport.close`."""
        gone = [closed for site in self._all() for closed in site.quit_idle()]
        if gone:
            await asyncio.wait(gone)

    def _all(self) -> list[SiteConnections]:
        return [site for of_name in self._sites.values() for site in of_name.values()]

    def _forget(self, name: str, key: object) -> None:
        of_name = self._sites.get(name, {})
        of_name.pop(key, None)
        if not of_name:
            self._sites.pop(name, None)

    def open_connections(self) -> int:
        """How many there are now, busy and idle."""
        return sum(site.open for site in self._all())

    def open_at(self, site: str) -> int:
        """To one site, whatever their source, policy and credentials; those that are closing count."""
        return sum(each.open for each in self._sites.get(site, {}).values())


class _Call:
    """One call of `deliver`: its workers, its route, and the queue as their source."""

    def __init__(
        self,
        pool: Pool,
        site: SiteConnections,
        destination: Destination,
        mails: MailQueue,
        before_dot: BeforeDot,
        on_outcome: OnOutcome,
    ) -> None:
        self._pool = pool
        self._site = site
        self._mails = mails
        self._before_dot = before_dot
        self._on_outcome = on_outcome
        self._route = Route(destination, pool.helo, pool.timeouts, pool.quirks, chunking=pool.chunking)
        self._workers: set[asyncio.Task[None]] = set()
        self._up = 0
        self._ceiling = 1 << 30
        """Connections the peer lets us have, once it has refused one more; after a while it is asked for that one again."""
        self._rise: asyncio.TimerHandle | None = None
        self._rise_seconds = pool.rise_seconds
        self._taken = 0
        """Mails it has answered for since the ceiling was set."""
        self._tried = False
        """The ceiling was raised by one, and no connection was refused since."""
        self._lost: dict[int, tuple[Mail, tuple[Line, ...]]] = {}
        """Mails that have lost a session once, by id, with what was said."""
        self._nudge: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        self._mails.listen(self._grow)
        try:
            self._grow()
            await self._finished
        finally:
            self._mails.listen(None)
            for timer in (self._nudge, self._rise):
                if timer:
                    timer.cancel()
            workers = list(self._workers)
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    # ---- Source, for the exchanges

    def pull(self, session: Session) -> Mail | None:
        if session.mails >= session.most or self._loop.time() >= session.old_at:
            session.retiring = True
            return None
        if session.useful and self._route.in_doubt(session.target):
            self._route.ended(session)  # one works: those that broke off in the meantime were not the site's end
        return None if self._site.crowded else self._mails.pull()

    def put_back(self, mail: Mail) -> None:
        self._mails.put_back(mail)

    # ---- how many workers

    def _grow(self) -> None:
        """Called whenever a mail came, a session came up, a worker ended, or the queue was closed."""
        if self._finished.done():
            return
        waiting = len(self._mails)
        if not waiting:
            if self._mails.closed and not self._workers:
                self._finished.set_result(None)
            return
        if self._route.current is None:
            if not self._workers:
                self._fail_waiting()
            return
        most = min(self._site.limit, self._ceiling, max(1, 2 * self._up))
        opening = len(self._workers) - self._up
        if waiting > self._up or not self._workers:
            for _ in range(min(most - len(self._workers), waiting - opening)):
                self._hire()
        elif self._nudge is None:
            self._nudge = self._loop.call_later(NUDGE_SECONDS, self._nudged)

    def _nudged(self) -> None:
        self._nudge = None
        most = min(self._site.limit, self._ceiling, max(1, 2 * self._up))
        if len(self._mails) and self._route.current and len(self._workers) < most:
            self._hire()

    def _hit_ceiling(self) -> None:
        """As many as it wants just now. Who refuses the one more that is tried later is left alone twice as long."""
        if self._tried:
            self._tried = False
            self._rise_seconds = min(2 * self._rise_seconds, self._pool.rise_longest)
            if self._rise:
                self._rise.cancel()
                self._rise = None
        self._ceiling, self._taken = self._up, 0
        if self._rise is None:
            self._rise = self._loop.call_later(self._rise_seconds, self._risen)

    def _risen(self) -> None:
        """One more connection, once mail has left by those that there are."""
        self._rise = None
        if self._taken:
            if self._tried:  # and it was not refused
                self._rise_seconds = self._pool.rise_seconds
            self._ceiling, self._taken, self._tried = self._ceiling + 1, 0, True
            self._grow()
        if self._ceiling < self._site.limit:
            self._rise = self._loop.call_later(self._rise_seconds, self._risen)

    def _hire(self) -> None:
        worker = self._loop.create_task(self._work())
        self._workers.add(worker)
        worker.add_done_callback(self._resigned)

    def _resigned(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) and not self._finished.done():
            self._finished.set_exception(error)
        self._grow()

    def _fail_waiting(self) -> None:
        """No hop is left: the mails wait for their next attempt, without a connection each."""
        while (mail := self._mails.pull()) is not None:
            _, conversation = self._lost.pop(id(mail), (mail, None))
            self._on_outcome(mail, self._route.last_outcome(conversation))
        self._grow()

    # ---- a worker

    async def _work(self) -> None:
        site = self._site
        await site.enter()
        session: Session | None = None
        try:
            while not site.crowded:
                if session is not None and not session.usable:  # its turn is over, or the peer has gone while it waited
                    self._up -= 1
                    gone, session = session, None
                    site.park(gone)
                if session is None:
                    if not len(self._mails) or (session := await self._session()) is None:
                        return
                    self._up += 1
                    self._grow()
                mail = self.pull(session)
                if mail is not None:
                    await self._exchange(session, mail)
                elif session.usable and not await self._more(session):
                    return
        finally:
            if session is not None:
                self._up -= 1
                site.park(session)
            site.leave()

    async def _more(self, session: Session) -> bool:
        """Wait for mail with an open session. False: let it go."""
        if self._site.wanted or self._mails.closed:
            return False
        if await self._mails.wait(self._site.idle):
            return True
        session.retiring = not self._mails.closed
        return False

    async def _session(self) -> Session | None:
        """A warm one, or a new one; None when the peer gives us no more, or no hop is left."""
        session = self._site.take_idle(self._route)
        if session:
            self._route.reach(session.target)
        again = True
        while session is None and (target := self._route.current):
            leaving = self._site.leaving
            opened = await self._route.open(target)
            if isinstance(opened, Session):
                session = opened
                self._site.worn(session)  # sets its limits
            elif leaving and (again or not self._up):
                # the peer may have counted one of ours that was on its way out: once more without it, and as long as that may be
                # why there is none
                again = False
                await asyncio.wait(leaving)
            elif self._up and self._route.reached(target):
                # it talks to our other sessions: we have as many as it wants
                self._hit_ceiling()
                return None
            else:
                self._route.failed(opened)
        return session

    async def _exchange(self, session: Session, mail: Mail) -> None:
        try:
            await Exchange(session, self, self._before_dot, self._on_outcome).run(mail)
            self._taken += 1
        except Lost as lost:
            self._retry(session, lost)
        self._route.ended(session)

    def _retry(self, session: Session, lost: Lost) -> None:
        """Once more on another connection, unless the peer has told this very mail to wait."""
        told = lost.broken.reply is not None and not session.useful
        if told or id(lost.mail) in self._lost:
            self._lost.pop(id(lost.mail), None)
            failure = Failure(
                *(session.target, lost.broken, session.source_ip, session.tls, lost.conversation),
                session.tls_policy,
                session.sessions,
            )
            self._on_outcome(lost.mail, failure.outcome())
        else:
            self._lost[id(lost.mail)] = (lost.mail, lost.conversation)
            self._mails.put_back(lost.mail)


def _check_helo(helo: str) -> None:
    if not helo or not helo.isascii() or not helo.isprintable() or " " in helo:
        raise ValueError("the EHLO name must be a domain or an address literal")
