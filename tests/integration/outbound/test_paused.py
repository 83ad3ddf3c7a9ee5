"""Mail of a paused domain that waits already: it stays, says why, and leaves when the pause is over."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, until
from mailcore.flow import reputation
from mailcore.queue.bell import Ringer
from mailcore.store import explain
from mailcore.store.session import Store

Run = Callable[..., AbstractAsyncContextManager[Any]]


async def test_a_pause_holds_what_waits_and_its_end_lets_it_go(
    tenant: Tenant, store: Store, ringer: Ringer, domain: UUID, sink: SmtpServer, outbound: Run
) -> None:
    id_ = await tenant.send("you@example.com")
    alarm = await reputation.pause(store, ringer, domain, "for the test")
    async with outbound(sink, retry_schedule=[3600]):
        await until(lambda: tenant.attempts(id_), "an attempt")
    (attempt,) = await tenant.attempts(id_)
    assert (attempt["outcome"], attempt["rule"]) == ("deferred", "domain-paused")
    assert sink.caught == []
    async with store.tenant(tenant.org_id) as db:
        (told,) = await explain.deliveries(db, id_)
    assert told["state"] == "queued" and "the sending domain is paused" in told["next_attempt"]["why"]
    await reputation.end(store, ringer, alarm["id"])
    await tenant.admin.execute("UPDATE queue SET due_at = now()")
    async with outbound(sink):
        await tenant.state(id_, "delivered")
    assert len(sink.caught) == 1
