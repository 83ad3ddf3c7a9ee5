"""Shares of memory: order, what is larger than all of it, refusal, cancellation."""

from __future__ import annotations

import asyncio

from mailcore.kit.ids import uuid7
from outbound.composer import CHUNK, CHUNK_BYTES, chunks
from outbound.memory import LIGHT_BYTES, Holding, Memory, Share, weight


async def _asked(share: Share, octets: int, owner: object = None) -> asyncio.Task[bool]:
    task = asyncio.ensure_future(share.take(octets, owner))
    await asyncio.sleep(0)
    return task


async def test_asks_are_met_in_their_order() -> None:
    share = Share(100)
    assert await share.take(60, None)
    large, small = await _asked(share, 50), await _asked(share, 10)
    await asyncio.sleep(0)
    assert (large.done(), small.done(), share.held) == (False, False, 60)  # the small one does not overtake
    share.give(60)
    assert (await large, await small, share.held) == (True, True, 60)
    share.give(60)
    assert (share.held, share.peak) == (0, 60)


async def test_what_is_larger_than_the_share_goes_alone() -> None:
    share = Share(100)
    assert await share.take(1, None)
    huge = await _asked(share, 500)
    after = await _asked(share, 1)
    assert not huge.done()
    share.give(1)
    assert await huge
    assert not after.done()
    share.give(500)
    assert await after


async def test_who_waits_is_refused_and_nothing_is_taken() -> None:
    share, mine, other = Share(100), object(), object()
    assert await share.take(90, other)
    first, second = await _asked(share, 20, mine), await _asked(share, 10, other)
    share.refuse(mine)
    assert (await first, await second, share.held) == (False, True, 100)
    third = await _asked(share, 20, mine)
    share.refuse()
    assert not await third
    share.give(100)
    assert share.held == 0


async def test_a_cancelled_ask_holds_nothing_and_blocks_nobody() -> None:
    share = Share(100)
    assert await share.take(90, None)
    large, small = await _asked(share, 50), await _asked(share, 10)
    large.cancel()
    assert await small
    late = await _asked(share, 100)
    share.give(100)  # granted, and cancelled before it is told
    late.cancel()
    await asyncio.gather(large, late, return_exceptions=True)
    assert share.held == 0


async def test_an_email_holds_until_its_last_delivery_is_done() -> None:
    share, holding, id_ = Share(100), Holding(), uuid7()
    assert await share.take(70, None)
    holding.add(share, 70, [(id_, 0), (id_, 1)])
    holding.done((id_, 0))
    holding.done((id_, 0))
    assert share.held == 70
    holding.done((id_, 1))
    assert share.held == 0
    assert await share.take(30, None)
    holding.add(share, 30, [(id_, 0)])
    assert await share.take(30, None)
    holding.add(share, 30, [(id_, 0)])  # claimed anew: the old one is over
    assert share.held == 30
    holding.done_all()
    assert share.held == 0


def test_as_many_rows_are_asked_for_as_fit() -> None:
    memory = Memory(16 * 1024 * 1024)
    assert memory.rows * weight(LIGHT_BYTES) <= memory.light.most
    assert memory.light.most + memory.heavy.most == 16 * 1024 * 1024


def test_chunks_are_bounded_in_number_and_bytes() -> None:
    small = {uuid7(): 1_000 for _ in range(2 * CHUNK + 1)}
    assert [len(chunk) for chunk in chunks(small)] == [CHUNK, CHUNK, 1]
    large = {uuid7(): CHUNK_BYTES // 2 for _ in range(3)} | {uuid7(): 9 * CHUNK_BYTES} | {uuid7(): 1}
    assert [len(chunk) for chunk in chunks(large)] == [2, 1, 1, 1]
    assert [id_ for chunk in chunks(large) for id_ in chunk] == list(large)
