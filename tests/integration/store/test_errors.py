"""Which errors say that the database is away, and how long one waits to learn it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import asyncpg
import pytest

from mailcore.flow.group import GroupCommit
from mailcore.kit.errors import MailError, Unavailable
from mailcore.store.session import Store


async def test_a_value_that_cannot_be_sent_is_a_fault_of_ours_and_no_outage(store: Store) -> None:
    with pytest.raises(asyncpg.DataError):
        async with store.worker() as db:
            await db.fetchval("SELECT $1::smallint", 100_000)
    async with store.worker() as db:
        assert await db.fetchval("SELECT 1") == 1


async def test_one_bad_value_does_not_fail_its_group(store: Store) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def commit(members: Sequence[int]) -> list[int | MailError]:
        started.set()
        await go.wait()
        async with store.worker() as db:
            return [await db.fetchval("SELECT $1::smallint + 1", member) for member in members]

    group: GroupCommit[int, int] = GroupCommit(commit, in_flight=1)
    first = asyncio.create_task(group.join(0))
    await started.wait()
    others = [asyncio.create_task(group.join(n)) for n in (1, 100_000, 2)]
    go.set()
    results = await asyncio.gather(first, *others, return_exceptions=True)
    assert results[:2] == [1, 2]
    assert isinstance(results[2], Unavailable)
    assert results[3] == 3


async def test_a_server_that_never_answers_keeps_nobody_waiting_in_line() -> None:
    """Connects and is silent: what a broken network or a stopped host looks like."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()  # also of one that came when nobody waited any more

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = await Store.open(f"postgresql://postroom:x@127.0.0.1:{port}/x", pool_size=2, connect_seconds=0.5)
    try:
        async with asyncio.timeout(60):  # in line behind each other, two at a time, it would be 250 s
            answers = await asyncio.gather(*(store.check() for _ in range(1_000)), return_exceptions=True)
        assert all(isinstance(answer, Unavailable) for answer in answers)
    finally:
        store.terminate()
        server.close()
