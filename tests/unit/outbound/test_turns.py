"""Who has little to compose does not wait for who has much."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from outbound.turns import Turns


async def test_whoever_has_work_takes_turns() -> None:
    done: list[str] = []
    busy, free = Event(), Event()

    def work(name: str) -> str:
        done.append(name)
        return name

    def hold() -> None:
        busy.set()
        free.wait(30)

    with ThreadPoolExecutor(1) as threads:
        turns = Turns(threads)
        tasks = [asyncio.create_task(turns.run("a", hold))]
        await asyncio.to_thread(busy.wait, 30)
        for whose in ("aaaa", "bb", "c"):
            for n in range(len(whose)):
                name = f"{whose[0]}{n}"
                tasks.append(asyncio.create_task(turns.run(whose[0], lambda name=name: work(name))))
        await asyncio.sleep(0)  # all of them have asked
        free.set()
        found = await asyncio.gather(*tasks)
    assert done == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
    assert found == [None, "a0", "a1", "a2", "a3", "b0", "b1", "c0"]


async def test_an_error_is_of_whoever_asked() -> None:
    with ThreadPoolExecutor(1) as threads:
        turns = Turns(threads)
        with pytest.raises(ZeroDivisionError):
            await turns.run("a", lambda: 1 // 0)
        assert await turns.run("a", lambda: 1) == 1


async def test_who_does_not_wait_any_more_is_left_out() -> None:
    done: list[str] = []
    busy, free = Event(), Event()

    def hold() -> None:
        busy.set()
        free.wait(30)

    with ThreadPoolExecutor(1) as threads:
        turns = Turns(threads)
        first = asyncio.create_task(turns.run("a", hold))
        await asyncio.to_thread(busy.wait, 30)
        gone = asyncio.create_task(turns.run("b", lambda: done.append("gone")))
        left = asyncio.create_task(turns.run("c", lambda: done.append("left")))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        free.set()
        await asyncio.gather(first, left)
    assert done == ["left"]
