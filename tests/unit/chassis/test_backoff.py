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
    seven, gone_on = frozenset({"7"}), asyncio.Event()

    async def work(keys: frozenset[str] | None) -> bool:
        rounds.append(keys)
        await asyncio.sleep(0)
        if keys is None:
            runner.wake("7")
            return False
        if rounds[rounds.index(seven) :].count(None) == 2:
            gone_on.set()
        return True  # there is always more

    runner = Runner("test", work, sweep_seconds=0.05)
    task = asyncio.create_task(runner.run())
    try:
        await asyncio.wait_for(gone_on.wait(), 60)  # in its hand after two sweeps, too
    finally:
        task.cancel()
    assert set(rounds) == {None, seven}
