from __future__ import annotations

import asyncio

import pytest

from mailcore.kit.errors import Unavailable
from mailcore.kit.remember import Remembered


class Source:
    """Counts questions; answers when `gate` is open."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked = 0
        self.value: str | None = "a"
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def ask(self, key: str) -> str | None:
        self.asked += 1
        value = self.value
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return value

    def remembered(self, **options: int) -> Remembered[str, str]:
        return Remembered(self.ask, seconds=4, clock=lambda: self.now, **options)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_question_for_all_who_wait() -> None:
    source = Source()
    source.gate.clear()
    remembered = source.remembered()
    waiting = [asyncio.create_task(remembered.get("k")) for _ in range(50)]
    await settle()
    waiting[0].cancel()  # who gives up takes the answer from nobody
    source.gate.set()
    assert await asyncio.gather(*waiting[1:]) == ["a"] * 49
    assert source.asked == 1


async def test_asked_again_before_it_expires() -> None:
    source = Source()
    remembered = source.remembered()
    await remembered.get("k")
    source.value = "b"
    source.now += 1.9
    assert await remembered.get("k") == "a"
    await settle()
    assert source.asked == 1
    source.now += 0.2
    assert await remembered.get("k") == "a"  # given at once, while the question is under way
    await settle()
    assert (source.asked, await remembered.get("k")) == (2, "b")


async def test_never_older_than_promised() -> None:
    source = Source()
    remembered = source.remembered()
    await remembered.get("k")
    source.now += 2.1
    source.error = Unavailable("away")
    assert await remembered.get("k") == "a"  # the question ahead of time fails: the answer stays good until its time
    await settle()
    source.now += 1.9
    with pytest.raises(Unavailable):
        await remembered.get("k")
    source.error, source.value = None, None
    assert await remembered.get("k") is None


async def test_none_is_not_remembered_and_what_is_gone_is_gone() -> None:
    source = Source()
    remembered = source.remembered()
    source.value = None
    assert await remembered.get("k") is None
    source.value = "a"
    assert await remembered.get("k") == "a"
    source.value = None
    source.now += 2.1
    assert await remembered.get("k") == "a"
    await settle()
    assert await remembered.get("k") is None


async def test_forgetting_also_holds_for_an_answer_under_way() -> None:
    source = Source()
    remembered = source.remembered()
    source.gate.clear()
    waiting = asyncio.create_task(remembered.get("k"))
    await settle()
    source.value = None
    remembered.forget(lambda value: value == "a")
    source.gate.set()
    await waiting  # asked before: may still see it
    assert await remembered.get("k") is None


async def test_who_asks_after_forgetting_gets_no_answer_from_before() -> None:
    source = Source()
    remembered = source.remembered()
    await remembered.get("k")
    source.now += 2.1
    source.gate.clear()
    assert remembered.held("k") == "a"  # from here on a question is under way
    await settle()
    source.value = "b"
    remembered.forget(lambda value: value == "a")
    assert remembered.held("k") is None
    fresh = asyncio.create_task(remembered.get("k"))
    await settle()
    source.gate.set()
    assert await fresh == "b"
    await settle()
    assert remembered.held("k") == "b"
    assert remembered._asking == {}


async def test_held_is_never_older_than_promised_and_asks_once() -> None:
    source = Source()
    remembered = source.remembered()
    assert remembered.held("k") is None
    await remembered.get("k")
    source.now += 2.1
    source.gate.clear()
    assert [remembered.held("k") for _ in range(3)] == ["a"] * 3
    source.now += 1.9
    assert remembered.held("k") is None  # though the question ahead of time has not been answered
    waiting = asyncio.create_task(remembered.get("k"))
    await settle()
    source.gate.set()
    assert await waiting == "a"
    assert source.asked == 2


async def test_its_size_is_bounded() -> None:
    source = Source()
    remembered = source.remembered(maximum=3)
    for key in "abcdefg":
        await remembered.get(key)
    assert len(remembered._known) <= 3
