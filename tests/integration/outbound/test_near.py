"""Mail for a site that had some lately does not wait for the look at all lanes, which many lanes make rare."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, until
from mailcore.store import holds
from mailcore.store.session import Store


async def test_a_known_lane_is_looked_at_alone(
    tenant: Tenant, sink: SmtpServer, outbound: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with outbound(sink):
        await tenant.state(await tenant.send("a@example.com"), "delivered")
        for name in ("SPACING", "MAX_SPACING"):
            monkeypatch.setattr(f"outbound.runner.{name}", 600.0)
        await tenant.state(await tenant.send("b@example.com"), "delivered")  # with it the last look at all begins
        for n in range(5):
            await tenant.state(await tenant.send(f"c{n}@example.com"), "delivered")
        unknown = await tenant.send("d@another.example")
        # what holds in a look at all holds in this one
        async with store.worker() as db:
            await holds.place(db, None, None, origin="operator", reason="maintenance")
        held = await tenant.send("e@example.com")
        async with store.worker() as db:
            await holds.lift(db, None, None)
        await tenant.state(await tenant.send("f@example.com"), "delivered")
        await tenant.state(held, "delivered")
        assert (await tenant.delivery(unknown))["state"] == "queued"
    assert len(sink.caught) == 9


async def test_a_site_that_was_opened_again_waits_for_no_heartbeat(
    tenant: Tenant,
    sink: SmtpServer,
    outbound: Any,
    store: Store,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One has told that all is held; that it no longer is shows with the first look that finds mail due there."""
    monkeypatch.setattr("outbound.site_shares.BEAT_SECONDS", 0.1)
    async with outbound(sink):
        await tenant.state(await tenant.send("a@example.com"), "delivered")
        async with store.worker() as db:
            await holds.place(db, None, None, origin="operator", reason="maintenance")
        beat = "SELECT bool_and(renewed_at > $1) FROM site_shares"
        for _ in range(2):  # the first may have begun before the hold
            now = await admin.fetchval("SELECT clock_timestamp()")
            await until(lambda since=now: admin.fetchval(beat, since), "a heartbeat")  # type: ignore[misc]
        monkeypatch.setattr("outbound.site_shares.BEAT_SECONDS", 600.0)
        await asyncio.sleep(0.3)  # one that was under way
        async with store.worker() as db:
            await holds.lift(db, None, None)
        await tenant.state(await tenant.send("b@example.com"), "delivered", seconds=20)
    assert len(sink.caught) == 2
