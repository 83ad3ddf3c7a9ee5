"""The clock of loops in tests."""

from __future__ import annotations

import asyncio
import time


async def test_what_a_stall_takes_does_not_pass_and_what_is_waited_for_does() -> None:
    loop, rang = asyncio.get_running_loop(), asyncio.Event()
    loop.call_later(0.4, rang.set)
    time.sleep(0.5)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not rang.is_set(), "an answer that came meanwhile is heard before its limit"
    began, real = loop.time(), time.monotonic()
    await rang.wait()
    assert loop.time() - began > 0.3
    assert time.monotonic() - real > 0.3
