"""Back-offs stay finite: a server that is away for a night ends no process."""

from __future__ import annotations

import asyncio

import pytest

from chassis.runner import MAX_BACKOFF, Runner
from mailcore.kit.retry import backoff


@pytest.mark.parametrize("failures", [1, 10, 1_024, 1_000_000])
def test_a_backoff_is_bounded_however_often_it_failed(failures: int) -> None:
    assert 0 < backoff(failures, first=0.1, longest=MAX_BACKOFF) <= MAX_BACKOFF


def test_it_doubles_to_the_longest() -> None:
    assert [backoff(n, first=0.1, longest=1.0) for n in (0, 1, 2, 3, 4, 5)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


async def test_work_without_end_does_not_put_the_sweep_off() -> None:
    rounds: list[frozenset[str] | None] = []
    swept = asyncio.Event()

    async def work(keys: frozenset[str] | None) -> bool:
        rounds.append(keys)
        if rounds.count(None) == 3:
            swept.set()
        await asyncio.sleep(0)
        return len(rounds) > 1  # nothing at first; from the bell on there is always more

    runner = Runner("test", work, sweep_seconds=0.05)
    runner.wake("7")
    task = asyncio.create_task(runner.run())
    try:
        await asyncio.wait_for(swept.wait(), 5)
    finally:
        task.cancel()
    assert rounds[1] == frozenset({"7"})
    assert frozenset({"7"}) in rounds[-2:], "after a sweep it goes on with what it had in hand"
