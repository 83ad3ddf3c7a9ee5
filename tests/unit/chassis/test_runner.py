from __future__ import annotations

import asyncio

from chassis.runner import Runner


async def test_the_first_round_is_a_sweep_then_it_sleeps_until_the_bell() -> None:
    rounds: list[frozenset[str] | None] = []
    seen = asyncio.Event()

    async def work(keys: frozenset[str] | None) -> bool:
        rounds.append(keys)
        seen.set()
        return False

    runner = Runner("test", work, sweep_seconds=3600)
    task = asyncio.create_task(runner.run())
    await asyncio.wait_for(seen.wait(), 60)
    seen.clear()
    runner.wake("7")
    runner.wake("9")
    await asyncio.wait_for(seen.wait(), 60)
    assert rounds == [None, frozenset({"7", "9"})]
    runner.drain()
    await asyncio.wait_for(task, 60)


async def test_a_ring_during_the_work_is_not_lost() -> None:
    rounds: list[frozenset[str] | None] = []
    done = asyncio.Event()

    async def work(keys: frozenset[str] | None) -> bool:
        rounds.append(keys)
        if len(rounds) == 1:
            runner.wake("late")
        if len(rounds) == 2:
            done.set()
        return False

    runner = Runner("test", work, sweep_seconds=3600)
    task = asyncio.create_task(runner.run())
    await asyncio.wait_for(done.wait(), 60)
    assert rounds[1] == frozenset({"late"})
    runner.drain()
    await asyncio.wait_for(task, 60)


async def test_it_works_until_nothing_is_due_and_an_error_does_not_end_it() -> None:
    left = 3
    failed = False
    finished = asyncio.Event()

    async def work(keys: frozenset[str] | None) -> bool:
        nonlocal left, failed
        if left == 2 and not failed:
            failed = True
            raise RuntimeError("once")
        if left == 0:
            finished.set()
            return False
        left -= 1
        return True

    runner = Runner("test", work, sweep_seconds=3600)
    task = asyncio.create_task(runner.run())
    await asyncio.wait_for(finished.wait(), 60)
    assert failed and left == 0
    runner.drain()
    await asyncio.wait_for(task, 60)
