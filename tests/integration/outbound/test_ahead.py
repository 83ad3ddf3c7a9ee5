"""Little is made ready for a site before it says what it takes."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from fakes.smtp_server import SmtpServer, Step
from integration.outbound.harness import Tenant, until


async def test_few_mails_are_made_ready_for_a_site_that_has_said_nothing(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection
) -> None:
    go = asyncio.Event()
    async with SmtpServer({"greeting": Step("220 at last", wait=go)}) as sink, outbound(sink):
        await tenant.send_each([[f"u{n}@example.com"] for n in range(50)])
        await until(lambda: _true(sink.talks), "it is connected to")
        await asyncio.sleep(0.3)
        assert 1 <= await admin.fetchval("SELECT count(*) FROM queue WHERE worker IS NOT NULL") <= 2
        go.set()
        await until(lambda: _true(len(sink.caught) == 50), "all are there")


async def _true(what: object) -> bool:
    return bool(what)
