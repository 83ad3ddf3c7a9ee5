from __future__ import annotations

import asyncio

import pytest

from mailcore.kit.eager import together


async def at_once(value: int) -> int:
    return value


async def after(event: asyncio.Event, value: int) -> int:
    await event.wait()
    await asyncio.sleep(0)
    return value


async def fails(event: asyncio.Event | None = None) -> int:
    if event is not None:
        await event.wait()
    raise ValueError("no")


async def test_what_does_not_wait_makes_no_task() -> None:
    before = asyncio.all_tasks()
    assert await together([at_once(1), at_once(2)], seconds=0) == [1, 2]
    assert asyncio.all_tasks() <= before
    assert await together([], seconds=1) == []


async def test_what_waits_goes_on_beside_the_others() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    going = asyncio.create_task(together([after(first, 1), at_once(2), after(second, 3)], seconds=10))
    await asyncio.sleep(0)
    second.set()
    first.set()
    assert await going == [1, 2, 3]


async def test_what_takes_too_long_is_cancelled() -> None:
    cancelled = []

    async def stubborn() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)
        return 1

    assert await together([stubborn(), at_once(2)], seconds=0.01) == [None, 2]
    await asyncio.sleep(0)
    assert cancelled == [True]


async def test_errors_pass_and_nothing_is_left() -> None:
    before = asyncio.all_tasks()  # others may have left some in this loop
    event = asyncio.Event()
    for work in ([after(event, 1), fails()], [after(event, 1), fails(event), at_once(1)]):
        going = asyncio.create_task(together(work, seconds=10))
        await asyncio.sleep(0)
        event.set()
        with pytest.raises(ValueError, match="no"):
            await going
        event.clear()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before


async def test_a_caller_who_is_cancelled_takes_them_along() -> None:
    ended = []

    async def one() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(1)
            raise
        return 1

    going = asyncio.create_task(together([one(), one()], seconds=10))
    await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    await asyncio.sleep(0)
    assert ended == [1, 1]
