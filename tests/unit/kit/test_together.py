"""Asks of the same moment are one call; who cannot be answered takes nobody with it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from mailcore.kit.errors import Unavailable
from mailcore.kit.together import AT_A_TIME, MOST, Together


class Calls:
    """Answers each key with its double, when `go` is set; key 13 cannot be answered, 0 is unknown."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go = asyncio.Event()
        self.made: list[list[int]] = []
        self.under_way = self.most = 0
        self.error = error

    async def __call__(self, keys: Collection[int]) -> dict[int, int]:
        self.made.append(list(keys))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.go.wait()
        self.under_way -= 1
        if self.error and 13 in keys:
            raise self.error
        return {key: 2 * key for key in keys if key}


async def _asked(together: Together[int, int], asks: list[list[int]]) -> list[asyncio.Task[dict[int, int]]]:
    tasks = [asyncio.create_task(together.ask(keys)) for keys in asks]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def _busy(together: Together[int, int]) -> list[asyncio.Task[dict[int, int]]]:
    """As many calls under way as there may be."""
    return [(await _asked(together, [[-1 - n]]))[0] for n in range(AT_A_TIME)]


async def test_who_asks_meanwhile_shares_the_next_call() -> None:
    calls = Calls()
    tasks = await _busy(together := Together(calls))
    tasks += await _asked(together, [[3], [4, 5], [0, 6]])
    calls.go.set()
    assert await asyncio.gather(*tasks) == [{-1: -2}, {-2: -4}, {3: 6}, {4: 8, 5: 10}, {6: 12}]
    assert calls.made == [[-1], [-2], [3, 4, 5, 0, 6]]


async def test_few_calls_are_under_way_each_for_so_much_at_most() -> None:
    calls = Calls()
    tasks = await _busy(together := Together(calls))
    tasks += await _asked(together, [list(range(1, 2 * MOST)), *([n] for n in range(1000, 1100))])
    calls.go.set()
    found = await asyncio.gather(*tasks)
    assert len(found[2]) == 2 * MOST - 1, "one ask is one call, however much it is"
    assert found[-1] == {1099: 2198}
    assert calls.most <= AT_A_TIME
    assert max(len(made) for made in calls.made if 1000 in made) <= MOST


async def test_no_key_is_asked_for_twice_in_one_call() -> None:
    calls = Calls()
    tasks = await _busy(together := Together(calls))
    tasks += await _asked(together, [[1, 2], [2, 3]])
    calls.go.set()
    assert (await asyncio.gather(*tasks))[2:] == [{1: 2, 2: 4}, {2: 4, 3: 6}]
    assert all(len(made) == len(set(made)) for made in calls.made)


async def test_an_error_is_of_whoever_it_is_about() -> None:
    calls = Calls(ValueError("thirteen"))
    tasks = await _busy(together := Together(calls))
    tasks += await _asked(together, [[1], [13], [2]])
    calls.go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[3], ValueError)
    assert [found[2], found[4]] == [{1: 2}, {2: 4}]


async def test_a_database_that_is_away_is_asked_once() -> None:
    calls = Calls(Unavailable("away"))
    tasks = await _busy(together := Together(calls))
    tasks += await _asked(together, [[1], [13], [2]])
    calls.go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, Unavailable) for each in found[2:])
    assert len(calls.made) <= 3
    with pytest.raises(Unavailable):
        await together.ask([13])


async def test_who_has_gone_is_not_asked_for() -> None:
    calls = Calls()
    tasks = await _busy(together := Together(calls))
    gone, left = await _asked(together, [[1], [2]])
    gone.cancel()
    await asyncio.sleep(0)
    calls.go.set()
    assert await left == {2: 4}
    await asyncio.gather(*tasks)
    assert all(1 not in made for made in calls.made)


async def test_no_ask_is_left_behind_by_a_call_that_is_just_ending() -> None:
    calls = Calls()
    calls.go.set()
    together = Together(calls)

    async def on_and_on() -> None:
        for n in range(1, 50):
            assert await together.ask([n]) == {n: 2 * n}

    async with asyncio.timeout(20):
        await asyncio.gather(*(on_and_on() for _ in range(AT_A_TIME)))  # the same keys: in calls of their own
