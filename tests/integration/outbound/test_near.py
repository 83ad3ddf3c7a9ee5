"""Mail for a site that had some lately does not wait for the look at all lanes, which many lanes make rare."""

from __future__ import annotations

from typing import Any

import asyncpg

from fakes.smtp_server import SmtpServer, Step
from integration.outbound.harness import Tenant, until
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import OUTBOUND
from mailcore.store import holds, sites
from mailcore.store.session import Store
from outbound.paces import Paces


async def test_a_known_lane_is_looked_at_alone(
    tenant: Tenant, sink: SmtpServer, outbound: Any, store: Store, ringer: Ringer, admin: asyncpg.Connection
) -> None:
    async with outbound(sink):
        await tenant.state(await tenant.send("a@example.com"), "delivered")
    site = await admin.fetchval("SELECT id FROM sites WHERE key LIKE 'catch:%'")
    seen = await tenant.send("b@example.com")
    async with outbound(sink, Paces(spacing=600.0)):  # one look at all, which sees it, and no other

        async def leaves() -> bool:
            """As soon as a ring comes behind the question where it goes."""
            ringer.ring(OUTBOUND, site)
            return bool((await tenant.delivery(seen))["state"] == "delivered")

        await until(leaves, "what the look has seen is delivered")
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
    tenant: Tenant, sink: SmtpServer, outbound: Any, store: Store, admin: asyncpg.Connection
) -> None:
    """One has told that it rests; that it no longer does shows with the first look that finds mail due there."""
    sink.script["greeting"] = Step("554 5.3.2 no", cut=True)
    async with outbound(sink, Paces(beat=600.0), max_connections=1):
        await tenant.send("a@example.com")
        # it rests for half a minute, and a heartbeat comes soon after that was written
        told = "SELECT renewed_at > suspended_until - interval '30 seconds' FROM site_shares JOIN sites ON sites.id = site_id"
        await until(lambda: admin.fetchval(told), "a heartbeat")
        sink.script.clear()
        async with store.worker() as db:
            await sites.clear(db, await admin.fetchval("SELECT id FROM sites WHERE suspended_until IS NOT NULL"))
        await tenant.state(await tenant.send("b@example.com"), "delivered")
    assert len(sink.caught) == 1
