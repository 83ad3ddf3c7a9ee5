"""Test addresses: every end that a mail can have, the same each time, and nothing on the network."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant


@pytest.mark.parametrize(
    ("address", "state", "types", "code"),
    [
        ("delivered@resend.dev", "delivered", ["email.sent", "email.delivered"], 250),
        ("Delivered+label@resend.dev", "delivered", ["email.sent", "email.delivered"], 250),
        ("bounced+x@resend.dev", "bounced", ["email.sent", "email.bounced"], 550),
        ("complained@resend.dev", "delivered", ["email.sent", "email.delivered", "email.complained"], 250),
        ("suppressed@resend.dev", "suppressed", ["email.sent", "email.suppressed"], 550),
        ("suppressed+x@resend.dev", "bounced", ["email.sent", "email.bounced"], 550),
        ("somebody@resend.dev", "bounced", ["email.sent", "email.bounced"], 550),
    ],
)
async def test_each_behaves_as_named_and_does_so_again(
    tenant: Tenant,
    sink: SmtpServer,
    outbound: Any,
    admin: asyncpg.Connection,
    address: str,
    state: str,
    types: list[str],
    code: int,
) -> None:
    ids: list[UUID] = []
    async with outbound(sink):
        for _ in range(2):
            email_id = await tenant.send(address)
            ids.append(email_id)
            delivery = await tenant.state(email_id, state)
            assert delivery["last_event"] == types[-1].removeprefix("email.")
    for email_id in ids:
        assert [row["type"] for row in await tenant.events(email_id)] == types
        (attempt,) = await tenant.attempts(email_id)
        assert (attempt["code"], attempt["site"]) == (code, "test:resend.dev")
        assert bool(attempt["conversation"]) == (state != "suppressed")
    assert sink.caught == []
    assert await admin.fetchval("SELECT count(*) FROM suppressions") == 0
    assert await admin.fetchval("SELECT count(*) FROM queue") == 0


async def test_a_bounce_reads_like_one(tenant: Tenant, sink: SmtpServer, outbound: Any) -> None:
    async with outbound(sink):
        email_id = await tenant.send("bounced@resend.dev")
        await tenant.state(email_id, "bounced")
    detail = (await tenant.events(email_id))[-1]["detail"]["bounce"]
    assert (detail["type"], detail["subType"]) == ("Permanent", "NoEmail")
    assert detail["message"].startswith("550 5.1.1")


async def test_the_domains_are_the_operators_choice(tenant: Tenant, sink: SmtpServer, outbound: Any) -> None:
    async with outbound(sink, test_domains=["Try.Example"]):
        theirs = await tenant.send("bounced@resend.dev")
        ours = await tenant.send("bounced@try.example")
        await tenant.state(ours, "bounced")
        await tenant.state(theirs, "delivered")
    assert len(sink.caught) == 1


async def test_who_was_suppressed_while_the_mail_waited_gets_none(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection
) -> None:
    email_id = await tenant.send("a@example.com", "b@example.com", "c@example.com")
    await admin.execute(
        "INSERT INTO suppressions (id, org_id, email, origin) SELECT gen_random_uuid(), $1, x, 'bounce' "
        "FROM unnest(ARRAY['b@example.com', 'c@example.com']) x",
        tenant.org_id,
    )
    # one that saw a crash goes another way
    await admin.execute("UPDATE queue SET crashes = 1 WHERE n = 2")
    async with outbound(sink):
        await tenant.state(email_id, "delivered")
        for n in (1, 2):
            await tenant.state(email_id, "suppressed", n)
    assert [mail.rcpt_to for mail in sink.caught] == [["a@example.com"]]
    rows = [row for row in await tenant.events(email_id) if row["type"] == "email.suppressed"]
    assert sorted(row["recipients"][0] for row in rows) == ["b@example.com", "c@example.com"]
    assert {row["detail"]["suppressed"]["reason"] for row in rows} == {"previous_bounce"}
    (attempt,) = await tenant.attempts(email_id, 1)
    assert (attempt["outcome"], attempt["rule"], attempt["conversation"]) == ("suppressed", "suppression-list", None)
