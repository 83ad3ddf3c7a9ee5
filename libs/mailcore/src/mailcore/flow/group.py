"""Group commit: what is in flight together shares one transaction and one fsync.

A lone member does not wait for company: it starts a group at once. While one is being committed, later members gather and leave
together in the next one; when those who wait weigh `company`, a further group leaves beside it, up to `in_flight`. Where a group
costs much and one more member of it little, the next one can be told to come a moment later than it could, after one of
CROWD or more. A group runs in a task of its own, so a client that hangs up takes nothing with it. When a group fails for a reason
that is one member's, every member is tried again alone; when the database is away, all learn it at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from mailcore.kit.errors import MailError, Unavailable
from mailcore.kit.log import logger

log = logger(__name__)

CROWD = 5
"""Members of a group after which others are as good as here: the next one waits for them, where it is told to."""

M = TypeVar("M")
R = TypeVar("R")


class GroupCommit(Generic[M, R]):
    """`commit(members)` does one transaction and returns a result a member, in order; a MailError there is that member's own."""

    def __init__(
        self,
        commit: Callable[[Sequence[M]], Awaitable[Sequence[R | MailError]]],
        *,
        in_flight: int = 2,
        company: int = 1,
        members: int = 200,
        gather_seconds: float = 0.0,
        weight: Callable[[M], int] = lambda _: 1,
    ) -> None:
        self._commit = commit
        self._in_flight = in_flight
        self._company = company
        self._members = members
        self._gather_seconds = gather_seconds
        self._weight = weight
        self._waiting: list[tuple[M, asyncio.Future[R]]] = []
        self._weighs = 0
        """All of `_waiting`."""
        self._running: set[asyncio.Task[None]] = set()
        self._leaving = 0
        """Groups under way that will look for members once more. Not `_running`: a task that has looked for the last time is in
        there for a moment longer, and who joined in that moment would wait for nobody."""

    async def join(self, member: M) -> R:
        """Returns after the commit. Raises the member's MailError, Unavailable when the database is away."""
        return await asyncio.shield(self.begin(member))

    def begin(self, member: M) -> asyncio.Future[R]:
        """As `join`, for who cannot wait here. Not to be cancelled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((member, future))
        self._weighs += self._weight(member)
        if not self._leaving or (self._leaving < self._in_flight and self._weighs >= self._company):
            self._leaving += 1
            task = loop.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return future

    async def drain(self) -> None:
        """Returns when everything that joined so far is committed or failed."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                group = self._take()
                try:
                    results = await self._commit([member for member, _ in group])
                except Exception as error:
                    await self._failed(group, error)
                else:
                    _settle(group, results)
                finally:
                    _give_up(group)
                if self._gather_seconds and len(group) >= CROWD:
                    await asyncio.sleep(self._gather_seconds)
        finally:
            self._leaving -= 1
            if not self._leaving:
                left, self._waiting, self._weighs = self._waiting, [], 0
                _give_up(left)

    def _take(self) -> list[tuple[M, asyncio.Future[R]]]:
        total, count = 0, 0
        for member, _ in self._waiting:
            weight = self._weight(member)
            if count and total + weight > self._members:
                break
            total += weight
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        self._weighs -= total
        return group

    async def _failed(self, group: list[tuple[M, asyncio.Future[R]]], error: Exception) -> None:
        if isinstance(error, Unavailable) or len(group) == 1:
            if not isinstance(error, MailError):
                log.error("commit failed", error=repr(error), exc_info=error)
                error = _unavailable()
            for _, future in group:
                _raise(future, error)
            return
        log.warning("group commit failed; trying its members alone", members=len(group), error=repr(error))
        for pair in group:
            try:
                _settle([pair], await self._commit([pair[0]]))
            except Exception as alone:
                await self._failed([pair], alone)


def _settle(group: list[tuple[M, asyncio.Future[R]]], results: Sequence[R | MailError]) -> None:
    for (_, future), result in zip(group, results, strict=True):
        if isinstance(result, MailError):
            _raise(future, result)
        elif not future.done():
            future.set_result(result)


def _give_up(group: list[tuple[M, asyncio.Future[R]]]) -> None:
    """Of a task that was cancelled, or broke: nobody may wait for it. All others have their answers."""
    for _, future in group:
        if not future.done():
            _raise(future, _unavailable())


def _unavailable() -> Unavailable:
    return Unavailable("This could not be stored just now. Try again in a moment.")


def _raise(future: asyncio.Future[R], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # read here: nobody may be left to await it
