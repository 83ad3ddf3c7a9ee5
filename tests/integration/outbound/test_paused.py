"""Mail of a paused domain that waits already: it stays, says why, costs no attempt, and leaves when the pause is over."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, until
from mailcore.flow import delays, reputation, settle, waiting
from mailcore.kit.ids import uuid7
from mailcore.kit.settings import Reputation
from mailcore.queue.bell import Ringer
from mailcore.store import explain
from mailcore.store import waiting as store_waiting
from mailcore.store.session import Store

Run = Callable[..., AbstractAsyncContextManager[Any]]


async def _put_off(admin: asyncpg.Connection, rows: int) -> None:
    """So many wait for the end of a pause, and nothing else is queued."""
    await until(
        lambda: admin.fetchval("SELECT count(*) = $1 AND count(*) FILTER (WHERE turn = 5) = $1 FROM queue", rows),
        f"{rows} rows wait",
    )


async def test_a_pause_holds_what_waits_and_its_end_lets_it_go(
    tenant: Tenant,
    store: Store,
    ringer: Ringer,
    domain: UUID,
    sink: SmtpServer,
    outbound: Run,
    admin: asyncpg.Connection,
) -> None:
    """While the process that put it off goes on: it remembers no pause."""
    id_ = await tenant.send("you@example.com")
    alarm = await reputation.pause(store, ringer, domain, "too many complaints")
    async with outbound(sink, retry_schedule=[3600]):
        await _put_off(admin, 1)
        row = await tenant.queued(id_)
        assert row is not None and (row["attempt"], row["worker"], row["waits_for"]) == (0, None, domain)
        assert row["due_at"] > datetime.now(UTC) + timedelta(hours=20), "it is not looked at again and again"
        assert await tenant.attempts(id_) == [] and sink.caught == []
        async with store.worker() as db:
            waits = await store_waiting.of_email(db, tenant.org_id, id_)
        async with store.tenant(tenant.org_id) as db:
            (told,) = await explain.deliveries(db, id_, waits=waits)
        assert told["state"] == "queued"
        assert "the sending domain is paused: too many complaints" in told["next_attempt"]["why"]
        await reputation.end(store, ringer, alarm["id"])
        await tenant.state(id_, "delivered")
    (attempt,) = await tenant.attempts(id_)
    assert (attempt["attempt"], attempt["outcome"]) == (1, "delivered")
    assert len(sink.caught) == 1


async def test_mail_of_other_domains_in_the_lane_leaves_past_it(
    tenant: Tenant, store: Store, ringer: Ringer, domain: UUID, sink: SmtpServer, outbound: Run, admin: asyncpg.Connection,
    make_domain: Any,
) -> None:  # fmt: skip
    await make_domain(tenant.org_id, "shop.test")
    await tenant.send_each([[f"u{n}@example.com"] for n in range(30)])
    await reputation.pause(store, ringer, domain, "for the test")
    other = await tenant.send("you@example.com", domain="shop.test")
    async with outbound(sink):
        await tenant.state(other, "delivered")
        await _put_off(admin, 30)
    assert await admin.fetchval("SELECT count(*) FROM attempts") == 1


async def test_a_pause_of_days_makes_nothing_expire_and_is_told_once(
    tenant: Tenant,
    store: Store,
    ringer: Ringer,
    domain: UUID,
    sink: SmtpServer,
    outbound: Run,
    admin: asyncpg.Connection,
) -> None:
    id_ = await tenant.send("you@example.com")
    alarm = await reputation.pause(store, ringer, domain, "for the test")
    async with outbound(sink):
        await _put_off(admin, 1)
    assert (await delays.tell(store, -60, thorough=True))[0] == 1
    assert (await delays.tell(store, -60, thorough=True))[0] == 0
    assert (await tenant.events(id_))[-1]["detail"]["delayed"]["reason"].startswith("the sending domain is paused")
    later = datetime.now(UTC) + timedelta(days=30)
    assert await settle.expire(store, later) == (0, 0)
    await admin.execute("UPDATE sites SET failures = 3")
    await admin.execute("UPDATE queue SET due_at = now() - interval '1 hour'")
    assert await settle.expire(store, later) == (0, 0), "nor where its site is down when it is looked at again"
    await reputation.end(store, ringer, alarm["id"])
    async with outbound(sink):
        await tenant.state(id_, "delivered")


async def test_what_waits_is_let_go_by_whatever_ended_its_pause(
    tenant: Tenant,
    store: Store,
    ringer: Ringer,
    domain: UUID,
    sink: SmtpServer,
    outbound: Run,
    admin: asyncpg.Connection,
) -> None:
    """And not before: of two pauses the second one holds."""
    await tenant.send_each([[f"u{n}@example.com"] for n in range(3)])
    manual = await reputation.pause(store, ringer, domain, "for the test")
    await admin.execute(
        "INSERT INTO alarms (id, org_id, domain_id, domain, kind, action, text, facts) "
        "SELECT $1::uuid, org_id, domain_id, domain, 'bounces', 'paused', 'half of it bounced', '{}' FROM alarms",
        uuid7(),
    )
    async with outbound(sink):
        await _put_off(admin, 3)
    await reputation.end(store, ringer, manual["id"])
    assert await waiting.release(store) == 0
    await reputation.guard(store, Reputation())  # no rate is bad any more
    assert await waiting.release(store) == 3
    assert await waiting.release(store) == 0
    assert (
        await admin.fetchval("SELECT count(*) FROM queue WHERE due_at <= now() AND waits_for IS NULL AND attempt = 0")
        == 3
    )


async def test_mail_of_a_domain_that_is_removed_while_paused_waits_no_longer(
    tenant: Tenant,
    store: Store,
    ringer: Ringer,
    domain: UUID,
    sink: SmtpServer,
    outbound: Run,
    admin: asyncpg.Connection,
) -> None:
    id_ = await tenant.send("you@example.com")
    await reputation.pause(store, ringer, domain, "for the test")
    async with outbound(sink):
        await _put_off(admin, 1)
    await admin.execute("DELETE FROM domains WHERE id = $1", domain)
    async with outbound(sink):
        await tenant.state(id_, "failed")
    (attempt,) = await tenant.attempts(id_)
    assert (attempt["attempt"], attempt["rule"]) == (1, "domain-deleted")
