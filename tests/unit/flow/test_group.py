from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mailcore.flow.group import GroupCommit
from mailcore.kit.errors import Conflict, MailError, Unavailable


class Groups:
    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, members: Sequence[int]) -> Sequence[int | MailError]:
        self.seen.append(list(members))
        await self.gate.wait()
        if 13 in members:
            raise ValueError("thirteen breaks the group")
        return [Conflict("seven is taken") if member == 7 else member * 2 for member in members]


async def test_a_lone_member_does_not_wait_and_later_ones_share_a_group() -> None:
    groups = Groups()
    door: GroupCommit[int, int] = GroupCommit(groups.commit, in_flight=1)
    groups.gate.clear()
    first = asyncio.create_task(door.join(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert groups.seen == [[1]]
    others = [asyncio.create_task(door.join(n)) for n in (2, 3, 4)]
    await asyncio.sleep(0)
    groups.gate.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
    assert groups.seen == [[1], [2, 3, 4]]


async def test_one_bad_member_hurts_nobody_else() -> None:
    groups = Groups()
    door: GroupCommit[int, int] = GroupCommit(groups.commit, in_flight=1)
    groups.gate.clear()
    results = [asyncio.create_task(door.join(n)) for n in (1, 2, 13, 7, 5)]
    await asyncio.sleep(0)
    groups.gate.set()
    done = await asyncio.gather(*results, return_exceptions=True)
    assert done[0] == 2 and done[1] == 4 and done[4] == 10
    assert isinstance(done[2], Unavailable), "an unknown error is temporary"
    assert isinstance(done[3], Conflict)


async def test_a_client_that_hangs_up_takes_nothing_with_it() -> None:
    groups = Groups()
    door: GroupCommit[int, int] = GroupCommit(groups.commit)
    groups.gate.clear()
    gone = asyncio.create_task(door.join(1))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    groups.gate.set()
    await door.drain()
    assert groups.seen == [[1]]


async def test_groups_keep_to_their_weight() -> None:
    groups = Groups()
    door: GroupCommit[int, int] = GroupCommit(groups.commit, in_flight=1, members=10, weight=lambda n: n)
    groups.gate.clear()
    results = [asyncio.create_task(door.join(n)) for n in (1, 6, 3, 2, 50, 1)]
    await asyncio.sleep(0)
    groups.gate.set()
    await asyncio.gather(*results)
    assert groups.seen == [[1, 6, 3], [2], [50], [1]]


async def test_company_is_what_those_who_wait_weigh() -> None:
    """Two requests of a hundred mails each are enough for a group of their own beside the one under way."""
    running, most = 0, 0

    async def commit(members: Sequence[int]) -> list[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return list(members)

    group: GroupCommit[int, int] = GroupCommit(commit, in_flight=3, company=20, members=200, weight=lambda each: each)
    assert await asyncio.gather(*(group.join(100) for _ in range(8))) == [100] * 8
    assert most == 3
    most = 0
    assert await asyncio.gather(*(group.join(1) for _ in range(8))) == [1] * 8
    assert most == 1


async def test_after_a_crowd_the_next_group_waits_for_those_who_come_again() -> None:
    groups = Groups()
    door: GroupCommit[int, int] = GroupCommit(groups.commit, in_flight=1, gather_seconds=0.05)

    async def twice(n: int) -> None:
        await door.join(n)
        await asyncio.sleep(0.001 * n)
        await door.join(10 * n)

    await asyncio.gather(*(twice(n) for n in range(1, 7)))
    assert groups.seen == [[1, 2, 3, 4, 5, 6], [10, 20, 30, 40, 50, 60]]


async def test_after_a_few_the_next_group_waits_for_nobody() -> None:
    groups = Groups()
    door: GroupCommit[int, int] = GroupCommit(groups.commit, in_flight=1, gather_seconds=3600)
    async with asyncio.timeout(10):
        for few in ([1], [2], [3, 4, 5, 6], [7]):
            await asyncio.gather(*(door.join(n) for n in few), return_exceptions=True)
        await door.drain()
    assert groups.seen == [[1], [2], [3, 4, 5, 6], [7]]


@pytest.mark.parametrize("company", [1, 32])
async def test_who_joins_while_the_last_group_ends_is_not_forgotten(company: int) -> None:
    """Between a group's last look for members and the end of its task there is a moment in which others run."""
    loop = asyncio.get_running_loop()
    committed: list[str] = []

    async def commit(members: Sequence[str]) -> list[str]:
        committed.extend(members)
        if members == ["first"]:
            loop.call_soon(lambda: group.join("late").send(None))  # before what ends the task is called
        return list(members)

    group: GroupCommit[str, str] = GroupCommit(commit, in_flight=1 if company == 1 else 2, company=company)
    await group.join("first")
    for _ in range(10):
        await asyncio.sleep(0)
    assert committed == ["first", "late"]


@pytest.mark.parametrize("fault", ["cancelled", "miscounted"])
async def test_a_commit_that_ends_out_of_turn_leaves_nobody_waiting(fault: str) -> None:
    seen: list[list[int]] = []

    async def commit(members: Sequence[int]) -> list[int]:
        seen.append(list(members))
        await asyncio.sleep(0)
        if fault == "cancelled":
            raise asyncio.CancelledError
        return list(members)[:-1]

    door: GroupCommit[int, int] = GroupCommit(commit, in_flight=1, members=2)
    async with asyncio.timeout(10):
        done = await asyncio.gather(*(door.join(n) for n in (1, 2, 3)), return_exceptions=True)
        await door.drain()
    assert [each for each in done if not isinstance(each, Unavailable)] == ([] if fault == "cancelled" else [1])
    assert seen == [[1, 2]], "what may be stored is not stored again"
    await asyncio.gather(door.join(4), return_exceptions=True)
    assert seen == [[1, 2], [4]], "who was told that it is not stored is not stored later"
