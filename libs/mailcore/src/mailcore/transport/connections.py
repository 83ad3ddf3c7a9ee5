"""The connections by one key: how many are busy, who waits for a place, and those that are kept warm or are on their way out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from mailcore.transport.route import Route
from mailcore.transport.session import Session


class SiteConnections:
    """What all calls for one key share. `mails`, `age`, `idle` as in `Pool`; `forget` is called when nobody needs it any more."""

    def __init__(self, mails: int, age: float, idle: float, forget: Callable[[], object]) -> None:
        self.mails = mails
        """A connection takes."""
        self.idle = idle
        """Seconds that one without work is kept."""
        self.calls = 0
        self._age = age
        self._forget = forget
        self._limit = 1
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle: dict[Session, asyncio.TimerHandle] = {}
        self._leaving: set[asyncio.Future[None]] = set()

    @property
    def open(self) -> int:
        return self._busy + len(self._idle) + len(self._leaving)

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def crowded(self) -> bool:
        """More are busy than the limit is by now: whoever notices leaves."""
        return self._busy > self._limit

    @property
    def wanted(self) -> bool:
        """Another call waits for a place."""
        return bool(self._waiting)

    def resize(self, limit: int) -> None:
        self._limit = max(0, limit)
        self._admit()
        while len(self._idle) + self._busy > self._limit and self._idle:
            self._let_go(next(iter(self._idle)))

    async def enter(self) -> None:
        """Take one of the places for a busy connection."""
        if self._busy < self._limit and not self._waiting:
            self._busy += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        self._busy -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._busy < self._limit:
            place = self._waiting.popleft()
            if not place.done():
                self._busy += 1
                place.set_result(None)

    def take_idle(self, route: Route) -> Session | None:
        """The one used last, if the route still leads to it."""
        while self._idle:
            session, timer = self._idle.popitem()
            timer.cancel()
            if session.usable and not self.worn(session) and route.leads_to(session.target):
                return session
            self._quit(session)
        return None

    def park(self, session: Session) -> None:
        """Keep it for the next call, or end it. The caller has not left yet."""
        if session.usable and not self.worn(session) and self._busy + len(self._idle) <= self._limit:
            loop = asyncio.get_running_loop()
            self._idle[session] = loop.call_later(self.idle, self._let_go, session)
        else:
            self._quit(session)

    def worn(self, session: Session) -> bool:
        """It has served its time: by our limits, as they are now, or by the peer's."""
        session.most = min(self.mails, session.capabilities.max_mails or self.mails)
        session.old_at = session.opened_at + self._age
        return session.mails >= session.most or asyncio.get_running_loop().time() >= session.old_at

    @property
    def leaving(self) -> set[asyncio.Future[None]]:
        """Connections that were told to go, each done when it is gone."""
        return set(self._leaving)

    def quit_idle(self) -> set[asyncio.Future[None]]:
        for session in list(self._idle):
            self._let_go(session)
        return self._leaving

    def _let_go(self, session: Session) -> None:
        self._idle.pop(session).cancel()
        self._quit(session)

    def _quit(self, session: Session) -> None:
        gone = session.quit()
        self._leaving.add(gone)
        gone.add_done_callback(self._gone)

    def _gone(self, closed: asyncio.Future[None]) -> None:
        self._leaving.discard(closed)
        self.forget_if_unused()

    def forget_if_unused(self) -> None:
        if not self.calls and not self.open:
            self._forget()
