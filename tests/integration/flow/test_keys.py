"""Keys are looked for by their token."""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg

from mailcore.flow.keys import Keys
from mailcore.store.session import Store


async def test_who_guesses_tokens_leaves_connections_for_mail(
    store: Store, admin: asyncpg.Connection, org: UUID
) -> None:
    keys = Keys(store)
    async with admin.transaction():
        await admin.execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")  # no look ends while this lasts
        guesses = [asyncio.create_task(keys.find(f"re_guess_{n}")) for n in range(50)]
        await asyncio.sleep(0.2)
        async with store.tenant(org) as db:
            assert await db.fetchval("SELECT 1") == 1
        assert not any(guess.done() for guess in guesses)
    assert await asyncio.gather(*guesses) == [None] * 50
