"""A warming address overflows to a provider: end to end with the provider's double, and what happens when that one fails."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.provider_api import ProviderApi
from fakes.smtp_server import SmtpServer
from integration.outbound.harness import until
from integration.outbound.sources_lab import NEW, OLD, Add, add, pool, senders
from integration.outbound.test_ways import Run, Setup, by, setup
from mailcore.dsn.wishes import Wishes
from mailcore.store import sources
from mailcore.store.session import Store

__all__ = ["add", "pool", "setup"]
RAW = b"From: us@postroom.test\r\nTo: a@example.com\r\nSubject: hi\r\nMessage-ID: <1@postroom.test>\r\n\r\nHello.\r\n"


@pytest.fixture
async def way(setup: Setup, store: Store, pool: UUID, admin: asyncpg.Connection) -> UUID:
    """Resend, of the installation; the pool's mail takes it when there is no room."""
    made = await setup.way("resend")
    await admin.execute("UPDATE ways SET org_id = NULL WHERE id = $1", made)
    async with store.worker() as db:
        await sources.change_pool(db, pool, name=None, serves=None, overflow=(made,))
    return made


async def by_site(admin: asyncpg.Connection, *outcomes: str) -> Counter[str]:
    rows = await admin.fetch("SELECT site FROM attempts WHERE outcome = ANY ($1::text[])", list(outcomes))
    return Counter(row["site"].partition(":")[0] for row in rows)


async def test_the_provider_takes_what_has_no_room_and_its_reports_end_in_our_events(
    setup: Setup, outbound: Run, sink: SmtpServer, add: Add, way: UUID, admin: asyncpg.Connection
) -> None:
    tenant = setup.tenant
    await add(NEW, cap=4)
    async with ProviderApi("resend") as api:
        async with outbound(sink, **by(api)):
            to = {f"u{n}@d{n % 3}.example": n for n in range(12)}
            ids = dict(zip(to, await tenant.send_each([[each] for each in to]), strict=True))
            await until(lambda: _none_queued(admin), "all have left")
        assert senders(sink) == {NEW: 4}
        taken = [recipient for each in api.accepted for recipient in each.recipients]
        assert len(taken) == len(set(taken)) == 8
        assert {each.reference for each in api.accepted} == {UUID(str(ids[each])).hex for each in taken}
    assert await by_site(admin, "delivered") == {"catch": 4}
    assert await by_site(admin, "relayed") == {"resend": 8}
    for n, recipient in enumerate(taken):
        assert (await tenant.delivery(ids[recipient]))["state"] == "relayed"
        assert await setup.report(way, "resend", "delivered", ids[recipient], recipient, id_=str(n)) == 1
    for email_id in ids.values():
        assert (await tenant.delivery(email_id))["state"] == "delivered"
        assert [event["type"] for event in await tenant.events(email_id)] == ["email.sent", "email.delivered"]
    # the room that the address had is used up by its own mail alone
    assert await admin.fetchval("SELECT sum(leased) FROM warmup_days") == 4


async def test_while_the_provider_refuses_the_account_mail_waits_for_room_and_finds_it(
    setup: Setup, outbound: Run, sink: SmtpServer, add: Add, way: UUID, admin: asyncpg.Connection
) -> None:
    tenant = setup.tenant
    await add(NEW, cap=2)
    async with ProviderApi("resend") as api:
        api.always = "suspended_key"
        async with outbound(sink, **by(api)):
            ids = await tenant.send_each([[f"u{n}@d{n % 2}.example"] for n in range(6)])
            await until(lambda: _waiting(admin, 4), "four wait for room")
            await add(OLD)
            for id_ in ids:
                await tenant.state(id_, "delivered")
        assert api.accepted == []
    assert senders(sink) == {NEW: 2, OLD: 4}
    assert (await by_site(admin, "deferred")).keys() == {"resend"}
    assert [row["type"] for id_ in ids for row in await tenant.events(id_)].count("email.delivered") == 6


async def test_mail_that_must_stay_under_tls_waits_for_room(
    setup: Setup, outbound: Run, sink: SmtpServer, add: Add, way: UUID, admin: asyncpg.Connection
) -> None:
    """A provider's API would fail it (RFC 8689): an address of ours may not."""
    tenant = setup.tenant
    await add(NEW, cap=1)
    async with ProviderApi("resend") as api, outbound(sink, **by(api)):
        await tenant.state(await tenant.send("first@example.com"), "delivered")
        strict = await tenant.send(
            "a@example.com",
            **{"html": None, "text": None, "raw": RAW, "dsn": Wishes("").as_json(), "requiretls": True},
        )
        plain = await tenant.send("b@example.com")
        await tenant.state(plain, "relayed")
        await until(lambda: _waiting(admin, 1), "it waits for room")
        assert (await tenant.delivery(strict))["state"] == "queued" and await tenant.attempts(strict) == []
        assert [each.recipients for each in api.accepted] == [["b@example.com"]]


async def _none_queued(admin: asyncpg.Connection) -> bool:
    return not await admin.fetchval("SELECT count(*) FROM queue")


async def _waiting(admin: asyncpg.Connection, rows: int) -> Any:
    """Nothing else is queued."""
    return await admin.fetchval(
        "SELECT count(*) = $1 AND count(*) FILTER (WHERE waits_for IS NULL) = 0 FROM queue", rows
    )
