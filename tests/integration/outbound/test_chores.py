"""Chores do not hang on each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date, datetime
from typing import Any
from uuid import UUID

import asyncpg

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import until
from mailcore.blob.memory import MemoryBlobs
from mailcore.dns.required import Published
from mailcore.dns.resolver import Records, StaticResolver
from mailcore.kit.errors import Unavailable
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.store import retention
from mailcore.store.session import Store
from outbound.chores import Chores


class Unlisted(MemoryBlobs):
    """A bucket whose policy allows everything but listing it."""

    listings = 0

    async def keys(self, *, older_than: datetime) -> AsyncIterator[str]:
        self.listings += 1
        raise Unavailable("The blob store does not answer just now. Try again in a moment.")
        yield ""


class Stumbling(StaticResolver):
    """Fails in a way that nobody foresaw."""

    async def txt(self, name: str) -> Records[str]:
        if name.endswith("bad.test"):
            raise RuntimeError("unforeseen")
        return await super().txt(name)


async def test_a_chore_that_fails_holds_up_no_other(
    store: Store, ringer: Ringer, keyring: Keyring, admin: asyncpg.Connection, org: UUID
) -> None:
    for name in ("bad.test", "new.test"):
        await admin.execute(
            "INSERT INTO domains (id, org_id, name, status, check_due_at) VALUES ($1, $2, $3, 'pending', now())",
            *(uuid7(), org, name),
        )
    blobs = Unlisted()
    chores = Chores(
        store,
        ringer,
        resolver=Stumbling({"new.test": {}}),
        keyring=keyring,
        blobs=blobs,
        lifetime_seconds=3600,
        published=Published("mx.us.test", "include:spf.us.test"),
    )
    watch = asyncio.create_task(chores.watch())
    try:

        async def checked() -> bool:
            return await admin.fetchval("SELECT checked_at FROM domains WHERE name = 'new.test'") is not None

        await until(checked, "a look at the domain")

        async def tried() -> bool:
            return blobs.listings == 1

        await until(tried, "upkeep, which fails")
    finally:
        watch.cancel()
    assert await admin.fetchval("SELECT checked_at FROM domains WHERE name = 'bad.test'") is None


async def test_outbound_drops_the_history_that_its_settings_say(
    outbound: Any, sink: SmtpServer, admin: asyncpg.Connection
) -> None:
    low, high = retention.bounds(date(2025, 3, 1))
    for parent in ("emails", "events"):
        await admin.execute(
            f"CREATE TABLE {parent}_2025_03 PARTITION OF {parent} FOR VALUES FROM ('{low}') TO ('{high}')"
        )
    there = "SELECT to_regclass('emails_2025_03') IS NOT NULL, to_regclass('events_2025_03') IS NOT NULL"
    async with outbound(sink, retention={"sent_days": 365}):

        async def dropped() -> bool:
            return tuple(await admin.fetchrow(there) or ()) == (False, True)

        await until(dropped, "the month is dropped, and events stay")
