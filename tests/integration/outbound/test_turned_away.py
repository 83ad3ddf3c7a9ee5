"""A 421 to MAIL costs a mail nothing and is told all the same; one that never gets further pays for it after a while."""

from __future__ import annotations

from typing import Any

import asyncpg

from fakes.smtp_server import CUT, SmtpServer, Step, Talk
from integration.outbound.harness import Tenant, until
from mailcore.store import explain
from mailcore.store.session import Store
from outbound.bearing import PATIENCE
from outbound.paces import Paces

SHORT_RESTS = Paces(busy_first=0.1)


async def test_it_is_due_again_at_once_and_says_why(
    tenant: Tenant, outbound: Any, store: Store, admin: asyncpg.Connection
) -> None:
    refusing = True

    def mail(_: Talk) -> Step | None:
        return Step("421 4.3.2 going down\r\n", cut=True) if refusing else None

    async with SmtpServer({"mail": mail}) as sink, outbound(sink, retry_schedule=[3600]):
        email_id = await tenant.send("a@example.com")
        resting = "SELECT suspended_until > now() FROM sites WHERE key LIKE 'catch:%'"
        await until(lambda: admin.fetchval(resting), "it was turned away ten times in a row")
        await until(lambda: _free(tenant, email_id), "given back")
        row = await tenant.queued(email_id)
        assert row is not None and row["attempt"] == 0 and not row["possible_duplicate"]
        async with store.tenant(tenant.org_id) as db:
            [shown] = await explain.deliveries(db, email_id)
        assert shown["next_attempt"]["attempt"] == 1
        assert "turned away by 127.0.0.1: 421 4.3.2 going down. That does not count" in shown["next_attempt"]["why"]
        refusing = False
        await tenant.state(email_id, "delivered")
    told, counted = await tenant.attempts(email_id)
    assert (told["attempt"], told["outcome"], told["rule"], told["code"]) == (0, "deferred", "turned-away", 421)
    assert (told["category"], told["mx_ip"]) == ("infrastructure", "127.0.0.1")
    assert (counted["attempt"], counted["outcome"]) == (1, "delivered")
    assert [event["type"] for event in await tenant.events(email_id)] == ["email.sent", "email.delivered"]
    assert await admin.fetchval("SELECT failures FROM sites WHERE key LIKE 'catch:%'") == 0


async def test_one_that_is_always_turned_away_pays_and_the_others_go_on(
    tenant: Tenant, outbound: Any, make_domain: Any
) -> None:
    """By its sender, which is all that the site knows of it then."""
    await make_domain(tenant.org_id, "bad.test")

    def mail(talk: Talk) -> Step | None:
        return Step("421 4.7.0 not you\r\n", cut=True) if "bad.test>" in talk.commands[-1] else None

    async with (
        SmtpServer({"mail": mail}) as sink,
        outbound(sink, SHORT_RESTS, retry_schedule=[3600], max_connections=4),
    ):
        bad = await tenant.send("bad@example.com", domain="bad.test")
        others = await tenant.send_each([[f"u{n}@example.com"] for n in range(50)])
        for email_id in others:
            await tenant.state(email_id, "delivered")
        await until(lambda: _counted(tenant, bad), "it has paid")
    told, counted = await tenant.attempts(bad)
    lines = [line for _, who, line in told["conversation"] if who == "said"]
    assert len(lines) == PATIENCE
    assert (counted["attempt"], counted["outcome"], counted["rule"], counted["code"]) == (1, "deferred", "closing", 421)
    assert [len(await tenant.attempts(email_id)) for email_id in others] == [1] * 50
    row = await tenant.queued(bad)
    assert row is not None and row["attempt"] == 1


async def test_what_is_said_of_a_sender_is_told_to_nobody_else(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection
) -> None:
    """Why a site rests stands with the mail of all who send there."""

    def mail(talk: Talk) -> Step | None:
        return Step(f"421 4.7.0 {talk.commands[-1]} sends too much\r\n", cut=True)

    async with SmtpServer({"mail": mail}) as sink, outbound(sink, SHORT_RESTS, retry_schedule=[3600]):
        email_id = await tenant.send("a@example.com")
        of_site = "SELECT last_reply FROM sites WHERE key LIKE 'catch:%' AND failures > 0"
        await until(lambda: admin.fetchval(of_site), "the site rests")
        assert await admin.fetchval(of_site) == "421 4.7.0 the peer closes its connections"
        await until(lambda: tenant.attempts(email_id), "told")
    assert "MAIL FROM:<" in (await tenant.attempts(email_id))[0]["reply"], "its own sender reads it"


async def test_a_site_that_cuts_at_mail_rests_ever_longer_like_one_that_says_421(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection
) -> None:
    """Each mail pays with an attempt, and not all of them with one after the other."""
    cutting = True

    def mail(_: Talk) -> Step | None:
        return CUT if cutting else None

    async with (
        SmtpServer({"mail": mail}) as sink,
        outbound(sink, SHORT_RESTS, retry_schedule=[0.1] * 30, max_connections=4),
    ):
        mails = await tenant.send_each([[f"u{n}@example.com"] for n in range(60)])
        failures = "SELECT failures >= 4 FROM sites WHERE key LIKE 'catch:%'"
        await until(lambda: admin.fetchval(failures), "it rested again and again")
        left = await admin.fetchval("SELECT last_reply FROM sites WHERE key LIKE 'catch:%'")
        tried = await admin.fetchval("SELECT count(*) FROM attempts")
        cutting = False
        for email_id in mails:
            await tenant.state(email_id, "delivered")
    assert "the peer closes its connections" in left
    assert tried < 60, "two a rest, after the first that found it out"
    assert await admin.fetchval("SELECT failures FROM sites WHERE key LIKE 'catch:%'") == 0


async def _free(tenant: Tenant, email_id: Any) -> bool:
    row = await tenant.queued(email_id)
    return row is not None and row["worker"] is None


async def _counted(tenant: Tenant, email_id: Any) -> bool:
    return len(await tenant.attempts(email_id)) == 2
