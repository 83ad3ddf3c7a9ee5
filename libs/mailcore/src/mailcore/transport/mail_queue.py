"""The mails that wait for one call of `deliver`; its sessions pull from it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from mailcore.transport.base import Mail


class MailQueue:
    """First in, first out. Belongs to one event loop and to one call of `deliver`."""

    def __init__(self, mails: list[Mail] | None = None, *, closed: bool = False) -> None:
        self._mails: deque[Mail] = deque(mails or ())
        self._closed = closed
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._listener: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._mails)

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, mail: Mail) -> None:
        if self._closed:
            raise ValueError("the queue is closed")
        self._mails.append(mail)
        self._wake()

    def put_back(self, mail: Mail) -> None:
        """To the front, also after close: it was taken and not sent."""
        self._mails.appendleft(mail)
        self._wake()

    def close(self) -> None:
        """Nothing more will be put: `deliver` ends when the rest is done."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._listener:
            self._listener()

    def take_all(self) -> list[Mail]:
        """Take back what no session has begun; for a process that drains."""
        taken = list(self._mails)
        self._mails.clear()
        return taken

    def pull(self) -> Mail | None:
        return self._mails.popleft() if self._mails else None

    async def wait(self, timeout: float) -> bool:
        """Until a mail waits (True), or the queue is closed or `timeout` seconds have passed (False)."""
        if not self._mails and not self._closed:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                async with asyncio.timeout(timeout):
                    await waiter
            except TimeoutError:
                pass
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return bool(self._mails)

    def listen(self, listener: Callable[[], None] | None) -> None:
        """`listener` is called when a mail came that no waiting session takes, and at close."""
        self._listener = listener

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.pop()  # the session that worked last: the others may go idle and close
            if not waiter.done():
                waiter.set_result(None)
                return
        if self._listener:
            self._listener()
