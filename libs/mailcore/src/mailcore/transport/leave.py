"""The caller's leave to send a final dot: asked for early, so that its answer overlaps the peer's, and good only while fresh."""

from __future__ import annotations

import asyncio

from mailcore.transport.base import BeforeDot, Mail


class Leave:
    __slots__ = ("_answer", "_asked_at", "_before_dot", "_mail")

    def __init__(self, before_dot: BeforeDot, mail: Mail) -> None:
        self._before_dot = before_dot
        self._mail = mail
        self._ask()

    def _ask(self) -> None:
        self._asked_at = asyncio.get_running_loop().time()
        self._answer = asyncio.ensure_future(self._before_dot(self._mail))

    async def given(self, *, age: float, seconds: float) -> bool:
        """Whether the caller says yes and said so no longer than `age` seconds ago; waits `seconds` for an answer."""
        if asyncio.get_running_loop().time() - self._asked_at > age:
            self.forget()
            self._ask()
        answer = self._answer
        if not answer.done():
            await _settled(answer, seconds)
        if answer.done() and not answer.cancelled() and not answer.exception() and answer.result():
            return True
        self.forget()
        return False

    def forget(self) -> None:
        """Its answer is no longer of interest, nor its failure."""
        self._answer.add_done_callback(lambda done: done.cancelled() or done.exception())


async def _settled(future: asyncio.Future[bool], seconds: float) -> None:
    """Until it is done or the time is up. It is the caller's: being cancelled here does not cancel it."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def settle(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    future.add_done_callback(settle)
    timer = loop.call_later(seconds, settle)
    try:
        await waiter
    finally:
        timer.cancel()
        future.remove_done_callback(settle)
