"""Bells over a real Valkey: no ring is lost, none pile up, and without it nothing breaks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop
from redis.asyncio.connection import Connection as RedisConnection

from chassis.bells import Bells
from mailcore.queue import bell
from mailcore.queue.bell import NAMED, Ringer
from mailcore.queue.jobs import OUTBOUND, ROUTE, VERIFY, arq_queue, bell_key


async def _until(condition, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_ring_wakes_with_its_key_and_the_next_one_too(redis_url: str, ringer: Ringer) -> None:
    woken: list[str] = []
    task = asyncio.create_task(Bells(redis_url, "outbound", bells={OUTBOUND: woken.append}).run())
    try:
        for n in range(3):
            ringer.ring(OUTBOUND, n)
            await _until(lambda n=n: str(n) in woken)
            ringer.ring(OUTBOUND, "same")
            await _until(lambda n=n: woken.count("same") == n + 1)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_rings_that_nobody_answers_do_not_pile_up(
    redis_url: str, ringer: Ringer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell, "BELL_MS", 600_000)  # nothing of it ends while the machine stands still
    for _ in range(50):
        ringer.ring(ROUTE)
        await asyncio.sleep(0.002)
    await ringer.drain()
    assert await ringer.redis.zcard(arq_queue("inbound_smtp")) == 1
    assert await ringer.redis.exists(bell_key(ROUTE, ""))


async def test_many_keys_at_once_are_few_rings(redis_url: str, ringer: Ringer) -> None:
    """The first keep their names; for the others everything is looked at."""
    woken: list[str] = []
    task = asyncio.create_task(Bells(redis_url, "outbound", bells={OUTBOUND: woken.append}).run())
    try:
        for n in range(500):
            ringer.ring(OUTBOUND, n)
        await ringer.drain()
        await _until(lambda: len(woken) > NAMED)
        ringer.ring(OUTBOUND, "last")
        await _until(lambda: "last" in woken)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert sorted(woken) == sorted(["", *map(str, range(NAMED)), "last"])


async def test_who_attends_a_bell_is_woken_without_redis_and_others_are_told_now_and_then(
    ringer: Ringer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell, "ATTENDED_SECONDS", 1.5)  # in less a machine that stands still has missed it
    woken: list[str] = []
    away = Ringer("redis://127.0.0.1:1/0")
    for one in (ringer, away):
        one.attend(ROUTE, woken.append)
    away.ring(ROUTE, "a")
    assert woken == ["a"]
    await away.close()

    async def told() -> int:
        """Jobs for the others since the last time."""
        count = await ringer.redis.zcard(arq_queue("inbound_smtp"))
        await ringer.redis.delete(arq_queue("inbound_smtp"), bell_key(ROUTE, "b"))
        return int(count)

    async def quiet() -> None:
        while ringer._ringing is not None:
            await asyncio.sleep(0.01)

    for _ in range(50):
        ringer.ring(ROUTE, "b")
    assert woken == ["a", *["b"] * 50]
    await quiet()
    assert await told() == 1
    # what was rung meanwhile is told once it has been a while, whatever becomes of our own runner
    await _until(lambda: not ringer._untold)
    await quiet()
    assert await told() == 1
    # and when the process ends, at once
    ringer.ring(ROUTE, "b")
    assert ringer._untold
    await ringer.drain()
    assert await told() == 1
    await asyncio.sleep(1.1 * bell.ATTENDED_SECONDS)
    await quiet()
    assert await told() == 0


async def test_a_chore_gets_its_id(redis_url: str, ringer: Ringer) -> None:
    done: list[str] = []

    async def verify(id_: str) -> None:
        done.append(id_)

    assert await ringer.enqueue(VERIFY, "some-id")
    task = asyncio.create_task(Bells(redis_url, "outbound", chores={VERIFY: verify}).run())
    try:
        await _until(lambda: done == ["some-id"])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_without_redis_ringing_neither_fails_nor_waits() -> None:
    ringer = Ringer("redis://127.0.0.1:1/0")
    ringer.ring(OUTBOUND, 1)
    assert not await ringer.enqueue(VERIFY, "x")
    assert ringer.broken
    await ringer.close()


async def test_a_redis_that_stops_for_a_while_is_rung_again(
    redis_url: str, ringer: Ringer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was rung meanwhile is the sweep's; nothing stays stuck, and nobody waits."""
    monkeypatch.setattr(bell, "BELL_MS", 600_000)
    hasty = Ringer(redis_url, timeout_seconds=0.05)
    hasty.ring(OUTBOUND, "before")
    await hasty.drain()
    await _until(lambda: not hasty.broken)
    await ringer.redis.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
    try:
        hasty.ring(OUTBOUND, "lost")
        for n in range(50):
            hasty.ring(OUTBOUND, n)
        await hasty.drain()
        assert hasty.broken
        hasty.ring(OUTBOUND, "not heard")
    finally:
        await ringer.redis.execute_command("CLIENT", "UNPAUSE")
    async with asyncio.timeout(60):
        while not await ringer.redis.exists(bell_key(OUTBOUND, "after")):  # a slow machine is a silent Redis, too
            await _until(lambda: not hasty.broken)
            hasty.ring(OUTBOUND, "after")
            await hasty.drain()
    assert await ringer.redis.exists(bell_key(OUTBOUND, "after")) == 1
    assert await ringer.redis.exists(bell_key(OUTBOUND, "not heard")) == 0
    await hasty.close()


class Dying(RedisConnection):
    """Its server goes away between two commands."""

    dying = False

    async def _send_packed_command(self, command: Any) -> None:
        if self.dying:
            assert self._writer is not None
            self._writer.transport.abort()
            await asyncio.sleep(0.01)
        await super()._send_packed_command(command)


def test_a_connection_that_dies_loses_no_more_than_its_rings(
    redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With uvloop, as the services run: it says RuntimeError of a transport that is gone, which is none of Redis's errors."""
    monkeypatch.setattr(bell, "BELL_MS", 600_000)

    async def ring() -> None:
        ringer = Ringer(redis_server, timeout_seconds=30)
        ringer.redis.connection_pool.connection_class = Dying
        try:
            assert await ringer.enqueue(VERIFY, "x")
            for connection in ringer.redis.connection_pool._available_connections:
                connection.dying = True  # type: ignore[attr-defined]
            assert not await ringer.enqueue(VERIFY, "x")
            assert ringer.broken
            await _until(lambda: not ringer.broken)
            for connection in ringer.redis.connection_pool._available_connections:
                connection.dying = True  # type: ignore[attr-defined]
            ringer.ring(OUTBOUND, "lost")
            await ringer.drain()
            assert ringer.broken
            await _until(lambda: not ringer.broken)
            for connection in ringer.redis.connection_pool._available_connections:
                connection.dying = False  # type: ignore[attr-defined]
            ringer.ring(OUTBOUND, "dying-after")
            await ringer.drain()
            assert await ringer.redis.delete(bell_key(OUTBOUND, "dying-after")) == 1
        finally:
            await ringer.close()

    uvloop.run(ring())


async def test_a_flush_costs_nothing_but_the_ring(redis_url: str, ringer: Ringer) -> None:
    woken: list[str] = []
    task = asyncio.create_task(Bells(redis_url, "outbound", bells={OUTBOUND: woken.append}).run())
    try:
        ringer.ring(OUTBOUND, "a")
        await _until(lambda: woken == ["a"])
        await ringer.redis.flushall()
        ringer.ring(OUTBOUND, "b")
        await _until(lambda: "b" in woken)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
