"""A block is a transaction: what it raised, what it lost, what it never leaves behind."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from mailcore.kit.errors import Unavailable
from mailcore.kit.ids import uuid7
from mailcore.store.session import Store


async def test_a_swallowed_error_is_not_a_commit(store: Store, org) -> None:
    with pytest.raises(Unavailable):
        async with store.tenant(org) as db:
            await db.execute("INSERT INTO mailboxes (id, org_id, address) VALUES ($1, $2, 'a@b.test')", uuid7(), org)
            try:
                await db.execute("SELECT 1 / 0")
            except asyncpg.DivisionByZeroError:
                pass
    async with store.tenant(org) as db:
        assert await db.fetchval("SELECT count(*) FROM mailboxes") == 0


async def test_scope_never_outlives_its_block(database_url: str, make_org) -> None:
    """10,000 mixed uses of few connections, with errors and cancellations between: each sees its own organization only."""
    store = await Store.open(database_url, pool_size=4, connect_seconds=60)
    orgs = [await make_org() for _ in range(8)]

    async def use(n: int) -> None:
        org = orgs[n % len(orgs)]
        try:
            async with asyncio.timeout(0.0005 if n % 97 == 0 else 30):
                async with store.tenant(org) as db:
                    if n % 13 == 0:
                        await db.execute("SELECT nonsense")
                    seen = await db.fetch("SELECT id FROM organizations")
                    assert [row["id"] for row in seen] == [org]
        except (asyncpg.UndefinedColumnError, TimeoutError):
            pass

    try:
        for start in range(0, 10_000, 100):
            await asyncio.gather(*(use(n) for n in range(start, start + 100)))
    finally:
        await store.close()


async def test_a_database_that_is_away_is_unavailable() -> None:
    store = await Store.open("postgresql://postroom:x@127.0.0.1:1/none", connect_seconds=1)
    with pytest.raises(Unavailable):
        async with store.worker():
            pass
    await store.close()
