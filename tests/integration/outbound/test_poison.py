"""What cannot be composed ends visibly and takes no other mail with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, until

BROKEN: list[tuple[str, object]] = [
    ("an attachment without content", [{"id": "x", "content": None}]),
    ("attachments that are no objects", ["x"]),
    ("a content type that is none", [{"id": "x", "content": "AA==", "content_type": ["text/plain"]}]),
]


@pytest.mark.parametrize(("what", "attachments"), BROKEN, ids=[what for what, _ in BROKEN])
async def test_an_email_that_cannot_be_read_is_an_attempt_that_failed(
    tenant: Tenant,
    sink: SmtpServer,
    outbound: Callable[..., AbstractAsyncContextManager[Any]],
    admin: asyncpg.Connection,
    what: str,
    attachments: object,
) -> None:
    bad, *good = await tenant.send_each([[f"u{n}@example.com"] for n in range(10)])
    await admin.execute("UPDATE emails SET attachments = $2 WHERE id = $1", bad, attachments)
    async with outbound(sink, retry_schedule=[3600.0]):
        for email_id in good:
            await tenant.state(email_id, "delivered")

        async def tried() -> bool:
            return bool(await tenant.attempts(bad))

        await until(tried, f"an attempt of an email with {what}")
    (attempt,) = await tenant.attempts(bad)
    assert attempt["outcome"] == "deferred"
    row = await tenant.queued(bad)
    assert row is not None
    assert (row["worker"], row["attempt"]) == (None, 1)


async def test_a_signing_key_that_cannot_be_opened_holds_up_no_other_domain(
    tenant: Tenant,
    sink: SmtpServer,
    outbound: Callable[..., AbstractAsyncContextManager[Any]],
    make_domain: Callable[[UUID, str], Awaitable[UUID]],
    admin: asyncpg.Connection,
) -> None:
    other = await make_domain(tenant.org_id, "other.test")
    await admin.execute(
        "UPDATE dkim_keys SET private_sealed = substr(private_sealed, 1, 5) WHERE domain_id = $1", other
    )
    bad = await tenant.send("a@example.com", domain="other.test")
    good = await tenant.send("b@example.com")
    async with outbound(sink, retry_schedule=[3600.0]):
        await tenant.state(good, "delivered")

        async def tried() -> bool:
            return bool(await tenant.attempts(bad))

        await until(tried, "an attempt without a key")
    (attempt,) = await tenant.attempts(bad)
    assert (attempt["outcome"], attempt["rule"]) == ("deferred", "no-signing-key")
