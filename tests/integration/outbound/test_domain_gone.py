"""Mail of a domain that its owner has removed: it ends where somebody can see it, also what was scheduled for later."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant
from mailcore.dns.required import Published
from mailcore.flow.domains import Domains
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.store.session import Store


async def test_mail_of_a_removed_domain_fails_at_once_and_says_so(
    tenant: Tenant,
    sink: SmtpServer,
    outbound: Callable[..., AbstractAsyncContextManager[Any]],
    store: Store,
    ringer: Ringer,
    keyring: Keyring,
    domain: UUID,
    make_domain: Any,
    admin: asyncpg.Connection,
) -> None:
    await make_domain(tenant.org_id, "other.test")
    later = datetime.now(UTC) + timedelta(days=3)
    scheduled = await tenant.send("a@example.com", scheduled_at=later)
    waiting = await tenant.send("b@example.com")
    kept = await tenant.send("c@example.com", domain="other.test", scheduled_at=later)
    mailbox = (
        "INSERT INTO mailboxes (id, org_id, address, domain_id) VALUES (gen_random_uuid(), $1, 'a@postroom.test', $2)"
    )
    await admin.execute(mailbox, tenant.org_id, domain)
    door = Domains(store, ringer, keyring, Published("mx.us.test", "a:mx.us.test"), most=10)
    await door.remove(tenant.org_id, domain)
    async with outbound(sink):
        for email_id in (scheduled, waiting):
            await tenant.state(email_id, "failed")
            (attempt,) = await tenant.attempts(email_id)
            assert (attempt["rule"], attempt["reply"]) == ("domain-deleted", "the sending domain has been removed")
            event = (await tenant.events(email_id))[-1]
            assert (event["type"], event["detail"]["failed"]["reason"]) == ("email.failed", "domain-deleted")
    assert sink.caught == []
    row = await tenant.queued(kept)
    assert row is not None and row["due_at"] == later, "another domain's mail waits for its time"
    assert await admin.fetchval("SELECT domain_id IS NULL FROM mailboxes"), "what was received stays"
