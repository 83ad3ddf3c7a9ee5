"""The transport's calls of one run: one for each kind of connection, which divide the site's connections among them.

A mail that is put waits for the site's rates, then for a connection. Kinds that outnumber the connections take turns: one ends when
it has nothing to do or has had its time, and the next begins.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from mailcore.kit.log import logger
from mailcore.smtp.outcome import Outcome
from mailcore.transport import BeforeDot, Destination, Mail, MailQueue, Transport
from outbound.site_share import SiteShare

log = logger(__name__)

TURN_SECONDS = 5.0
"""How long a kind has a place that another waits for; and how long one without mail keeps its part of the connections."""


class Outlet:
    """One call of `deliver`, begun when there is a connection for it."""

    def __init__(self, outlets: Outlets, destination: Destination) -> None:
        self._outlets = outlets
        self.destination = destination
        self.queue = MailQueue()
        self.task: asyncio.Task[None] | None = None
        self.connections = 0
        self.mails = 0
        """Put and without an outcome."""
        self.began = self.used = 0.0
        """By the loop's clock."""

    @property
    def over(self) -> bool:
        """Others may have its place."""
        now, seconds = self._outlets.loop.time(), self._outlets.turn_seconds
        if self._outlets.share.crowded:
            return self.task is not None and (not self.mails or now - self.began > seconds)
        return not self.mails and now - self.used > seconds

    def resize(self) -> None:
        connections = self._outlets.share.of_kind(self.destination.pool_key)
        if connections == self.connections or not connections:
            return
        began, self.connections = self.task is not None, connections
        call = self._deliver(MailQueue(closed=True) if began else self.queue)
        if not began:
            self.task, self.began = call, self._outlets.loop.time()
            call.add_done_callback(self._outlets.ended)

    def _deliver(self, queue: MailQueue) -> asyncio.Task[None]:
        """An empty queue only tells the transport the number: the latest counts."""
        outlets = self._outlets
        return outlets.spawn(
            outlets.transport.deliver(
                self.destination,
                queue,
                connections=self.connections,
                before_dot=outlets.before_dot,
                on_outcome=self._on_outcome,
            )
        )

    def let_idle_go(self) -> None:
        """After its end: connections that were kept warm are others' to open."""
        self.connections = 0
        self._deliver(MailQueue(closed=True))

    def _on_outcome(self, mail: Mail, outcome: Outcome) -> None:
        self.mails -= 1
        self.used = self._outlets.loop.time()
        self._outlets.on_outcome(mail, outcome)
        if self._outlets.share.crowded and self.over:
            self._outlets.end_turn(self)


class Outlets:
    def __init__(
        self,
        transport: Transport,
        share: SiteShare,
        before_dot: BeforeDot,
        on_outcome: Callable[[Mail, Outcome], None],
        *,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        self.transport = transport
        self.share = share
        self.before_dot = before_dot
        self.on_outcome = on_outcome
        self.turn_seconds = turn_seconds
        self._open: dict[object, Outlet] = {}
        self._ended: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.loop = asyncio.get_running_loop()
        self._paced: deque[tuple[Destination, Mail]] = deque()
        self._later: deque[tuple[Destination, Mail]] = deque()
        """Of kinds whose turn is over, until that has ended."""
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False
        self.broken = False
        """A call ended by itself."""

    def put(self, destination: Destination, mail: Mail) -> None:
        """Not after `close`."""
        if self.share.pace.rates:
            self._paced.append((destination, mail))
            self._let_go()
        else:
            self._put(destination, mail)

    @property
    def waiting(self) -> int:
        """Mails that wait for their rate, or for another kind to make room."""
        return (
            len(self._paced)
            + len(self._later)
            + sum(len(outlet.queue) for outlet in self._open.values() if outlet.task is None)
        )

    @property
    def queued(self) -> int:
        """Mails that no session has begun."""
        return len(self._paced) + len(self._later) + sum(len(outlet.queue) for outlet in self._open.values())

    def _put(self, destination: Destination, mail: Mail) -> None:
        outlet = self._open.get(destination.pool_key)
        if outlet is None:
            outlet = self._open[destination.pool_key] = Outlet(self, destination)
            self.share.kinds[destination.pool_key] += 1
            self.changed()
            self.share.tell()  # others divide what there is with it
        if len(self._open) > 1:
            for other in [each for each in self._open.values() if each is not outlet and each.over]:
                self.end_turn(other)
        outlet.mails += 1
        outlet.queue.put(mail)

    def _let_go(self) -> None:
        """As many as the rates allow now; comes back for the next."""
        if self._timer is not None:
            return
        while self._paced:
            # what waits for a connection has been counted already: not too many, or they leave in a burst
            full = sum(len(outlet.queue) for outlet in self._open.values()) >= max(1, self.share.connections)
            wait = 0.05 if full else self.share.pace.take()
            if wait > 0:
                self._timer = self.loop.call_later(min(wait, 1.0), self._again)
                return
            self._put(*self._paced.popleft())

    def _again(self) -> None:
        self._timer = None
        self._let_go()

    def changed(self) -> None:
        """The site bears more connections, or fewer, or another kind has come or gone."""
        for outlet in self._open.values():
            outlet.resize()

    def take_all(self, whose: Callable[[Mail], bool] = lambda _: True) -> list[Mail]:
        """What no session has begun; `whose` says which."""
        taken = [mail for _, mail in (*self._paced, *self._later) if whose(mail)]
        self._paced = deque((where, mail) for where, mail in self._paced if not whose(mail))
        self._later = deque((where, mail) for where, mail in self._later if not whose(mail))
        for outlet in self._open.values():
            waiting = outlet.queue.take_all()
            found = [mail for mail in waiting if whose(mail)]
            outlet.mails -= len(found)
            taken += found
            if len(found) < len(waiting):
                for mail in reversed(waiting):
                    if not whose(mail):
                        outlet.queue.put_back(mail)
        return taken

    def end_turn(self, outlet: Outlet) -> None:
        """What it has not begun waits until it has ended, then for its next turn."""
        if self._open.get(outlet.destination.pool_key) is outlet:
            for mail in outlet.queue.take_all():
                outlet.mails -= 1
                self._later.append((outlet.destination, mail))
            self._close_one(outlet)

    def _close_one(self, outlet: Outlet) -> None:
        del self._open[outlet.destination.pool_key]
        outlet.queue.close()
        if outlet.task is not None:
            self._ended.append(outlet.task)
            outlet.task.add_done_callback(lambda _: self._leave(outlet))
        else:
            self._leave(outlet)

    def _leave(self, outlet: Outlet) -> None:
        key, kinds = outlet.destination.pool_key, self.share.kinds
        kinds[key] -= 1
        if not kinds[key]:
            del kinds[key]
            if kinds:
                outlet.let_idle_go()
            self.share.tell()
        if not self.closed:
            again = [each for each in self._later if each[0].pool_key == key]
            self._later = deque(each for each in self._later if each[0].pool_key != key)
            for each in again:
                self._put(*each)

    def close(self) -> None:
        """Nothing more will be put: the calls end when the rest is done."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        for outlet in list(self._open.values()):
            self._close_one(outlet)

    def ended(self, task: asyncio.Task[None]) -> None:
        if not self.closed and task not in self._ended:
            self.broken = True
            self.share.tell()

    async def end(self) -> None:
        """After `close`: to the end of all calls."""
        for task in self._ended:
            try:
                await task
            except Exception as error:
                log.error("a delivery run failed", exc_info=error)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
