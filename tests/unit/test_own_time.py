"""The clock of loops in tests."""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from typing import Any

import pytest


async def test_what_a_stall_takes_does_not_pass_and_what_is_waited_for_does() -> None:
    loop, rang = asyncio.get_running_loop(), asyncio.Event()
    due = loop.time() + 0.4
    loop.call_at(due, rang.set)
    time.sleep(0.5)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not rang.is_set(), "an answer that came meanwhile is heard before its limit"
    real, began = time.monotonic(), loop.time()
    await rang.wait()
    assert loop.time() >= due
    assert time.monotonic() - real > 0.9 * (due - began)


async def test_an_answer_that_came_in_a_wait_that_was_drawn_out_is_heard_before_the_limit_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, select = asyncio.get_running_loop(), selectors.DefaultSelector.select
    ours, theirs = socket.socketpair()

    def drawn_out(self: Any, timeout: float | None = None) -> Any:
        """It comes at once, and this process is not run before its wait is over."""
        if not timeout:
            return select(self, timeout)
        theirs.send(b"x")
        time.sleep(timeout)
        return []

    with ours, theirs, monkeypatch.context() as patched:
        ours.setblocking(False)
        patched.setattr(selectors.DefaultSelector, "select", drawn_out)
        async with asyncio.timeout(0.3):
            assert await loop.sock_recv(ours, 1) == b"x"
