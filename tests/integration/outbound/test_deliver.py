"""The service from submitted row to final state, against servers that answer as told."""

from __future__ import annotations

import asyncio
import base64
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import dkim
import pytest

from fakes.smtp_server import CUT, SmtpServer, Step, Talk
from integration.outbound.harness import Tenant, until
from mailcore.dsn.verp import Verp
from mailcore.flow.submit import NewAttachment
from mailcore.kit.seal import Keyring


async def test_a_mail_goes_out_signed_and_is_settled(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection, keyring: Keyring
) -> None:
    async with outbound(sink):
        email_id = await tenant.send("you@example.com")
        row = await tenant.state(email_id, "delivered")
    assert row["last_event"] == "delivered"
    assert not row["possible_duplicate"]
    assert await tenant.queued(email_id) is None
    caught = sink.caught[0]
    assert caught.rcpt_to == ["you@example.com"]
    local, _, host = caught.mail_from.partition("@")
    assert host == "send.postroom.test"
    path = Verp(keyring.derive("verp")).read(local)
    assert path is not None
    assert (path.email_id, path.n) == (email_id, 0)
    keys = {
        f"{r['selector']}._domainkey.postroom.test.": r["public_txt"].encode()
        for r in await admin.fetch("SELECT * FROM dkim_keys")
    }
    message = caught.content + b"\r\n" if not caught.content.endswith(b"\r\n") else caught.content
    assert len(re.findall(rb"(?m)^DKIM-Signature:", message)) == 2
    assert dkim.verify(
        message, dnsfunc=lambda name, timeout=5: keys.get(name.decode() if isinstance(name, bytes) else name)
    )
    assert f"<{email_id}@postroom.test>".encode() in message
    attempt = (await tenant.attempts(email_id))[0]
    assert (attempt["outcome"], attempt["code"], attempt["mx_host"]) == ("delivered", 250, "127.0.0.1")
    assert attempt["site"] == f"catch:127.0.0.1:{sink.port}"
    said = [line for _, who, line in attempt["conversation"] if who == "said"]
    assert said[0] == "EHLO outbound.test"
    assert [event["type"] for event in await tenant.events(email_id)] == ["email.sent", "email.delivered"]


async def test_every_recipient_has_its_own_transaction_and_return_path(
    tenant: Tenant, sink: SmtpServer, outbound: Any, keyring: Keyring
) -> None:
    async with outbound(sink):
        email_id = await tenant.send("a@one.example", "b@two.example", "c@two.example")
        for n in range(3):
            await tenant.state(email_id, "delivered", n)
    assert sorted(caught.rcpt_to for caught in sink.caught) == [["a@one.example"], ["b@two.example"], ["c@two.example"]]
    named = [Verp(keyring.derive("verp")).read(caught.mail_from.partition("@")[0]) for caught in sink.caught]
    assert {(path.email_id, path.n) for path in named if path} == {(email_id, 0), (email_id, 1), (email_id, 2)}
    assert len({caught.content for caught in sink.caught}) == 1


async def test_large_bodies_and_attachments_come_from_the_blob_store(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection
) -> None:
    html = "<p>" + "large " * 40_000 + "</p>"
    parts = (
        NewAttachment(b"small" * 10, "text/plain", "s.txt"),
        NewAttachment(bytes(range(256)) * 1000, "image/png", "l.png"),
    )
    async with outbound(sink):
        email_id = await tenant.send("you@example.com", html=html, text="short", attachments=parts)
        await tenant.state(email_id, "delivered")
    assert await admin.fetchval("SELECT body_blob IS NOT NULL FROM emails")
    content = sink.caught[0].content
    assert content.count(b"large ") > 1000
    assert base64.encodebytes(bytes(range(256)))[:50] in content
    assert b'filename="l.png"' in content


@pytest.mark.parametrize(
    ("reply", "state", "kind", "sub_type"),
    [
        ("550 5.1.1 user unknown", "bounced", "Permanent", "NoEmail"),
        ("552 5.2.2 mailbox full", "bounced", "Permanent", "MailboxFull"),
        ("554 no such user here", "bounced", "Permanent", "NoEmail"),
    ],
)
async def test_a_refusal_bounces_and_says_so(
    tenant: Tenant, outbound: Any, reply: str, state: str, kind: str, sub_type: str
) -> None:
    async with SmtpServer({"rcpt": Step(reply)}) as sink, outbound(sink):
        email_id = await tenant.send("you@example.com")
        row = await tenant.state(email_id, state)
    assert row["last_event"] == "bounced"
    event = (await tenant.events(email_id))[-1]
    assert event["type"] == "email.bounced"
    assert event["recipients"] == ["you@example.com"]
    bounce = event["detail"]["bounce"]
    assert (bounce["type"], bounce["subType"]) == (kind, sub_type)
    assert bounce["diagnosticCode"] == [f"smtp; {reply}"]
    assert (await tenant.attempts(email_id))[0]["outcome"] == "bounced"


async def test_a_deferral_follows_the_schedule_and_then_expires(tenant: Tenant, outbound: Any) -> None:
    async with SmtpServer({"rcpt": Step("450 4.2.0 later")}) as sink, outbound(sink, retry_schedule=[0.3, 0.3]):
        email_id = await tenant.send("you@example.com")
        row = await tenant.state(email_id, "expired")
    assert row["last_event"] == "bounced"
    attempts = await tenant.attempts(email_id)
    assert [(a["attempt"], a["outcome"]) for a in attempts] == [(1, "deferred"), (2, "deferred"), (3, "deferred")]
    events = await tenant.events(email_id)
    assert [event["type"] for event in events] == ["email.sent", "email.delivery_delayed", "email.bounced"]
    assert events[-1]["detail"]["bounce"]["type"] == "Transient"


async def test_a_delay_is_told_once_and_not_before_its_time(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection
) -> None:
    script = {"rcpt": Step("450 4.2.0 later")}
    async with (
        SmtpServer(script) as sink,
        outbound(sink, retry_schedule=[*[0.2] * 9, 18_000], delay_notice_seconds=3600),
    ):
        young, old = await tenant.send("young@example.com"), await tenant.send("old@example.com")
        await admin.execute("UPDATE emails SET created_at = now() - interval '61 minutes' WHERE id = $1", old)
        await until(lambda: _attempted(tenant, young, 4), "four attempts")
        await until(lambda: _attempted(tenant, old, 4), "four attempts")
        told = [event["type"] for event in await tenant.events(old)]
        assert told[:2] == ["email.sent", "email.delivery_delayed"]
        assert told.count("email.delivery_delayed") == 1
        assert [event["type"] for event in await tenant.events(young)] == ["email.sent"]
        assert (await tenant.delivery(young))["last_event"] == "sent"


async def _attempted(tenant: Tenant, email_id: UUID, times: int) -> bool:
    return len(await tenant.attempts(email_id)) >= times


async def test_a_deferred_mail_is_delivered_later(tenant: Tenant, outbound: Any) -> None:
    script = {"rcpt": [Step("451 4.7.1 greylisted"), Step("250 ok")]}
    async with SmtpServer(script) as sink, outbound(sink, retry_schedule=[0.2, 60]):
        email_id = await tenant.send("you@example.com")
        row = await tenant.state(email_id, "delivered")
    assert not row["possible_duplicate"]
    assert [a["outcome"] for a in await tenant.attempts(email_id)] == ["deferred", "delivered"]


async def test_a_lost_reply_marks_the_retry_as_a_possible_duplicate(tenant: Tenant, outbound: Any) -> None:
    script = {"dot": [CUT, Step("250 taken")]}
    async with SmtpServer(script) as sink, outbound(sink, retry_schedule=[0.2, 60]):
        email_id = await tenant.send("you@example.com")
        row = await tenant.state(email_id, "delivered")
    assert row["possible_duplicate"]
    first, second = await tenant.attempts(email_id)
    assert (first["outcome"], first["rule"], first["possible_duplicate"]) == ("deferred", "reply-lost", False)
    assert (second["outcome"], second["possible_duplicate"]) == ("delivered", True)
    event = (await tenant.events(email_id))[-1]
    assert (event["type"], event["detail"]) == ("email.delivered", {"possible_duplicate": True})


async def test_without_a_signing_key_it_waits_and_is_never_unsigned(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection
) -> None:
    await admin.execute("UPDATE dkim_keys SET state = 'retiring'")
    async with outbound(sink, retry_schedule=[60, 60]):
        email_id = await tenant.send("you@example.com")
        await until(lambda: tenant.attempts(email_id), "an attempt")
    assert sink.caught == []
    attempt = (await tenant.attempts(email_id))[0]
    assert (attempt["outcome"], attempt["rule"]) == ("deferred", "no-signing-key")


async def test_a_site_that_cannot_be_reached_rests_and_only_one_mail_pays(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection
) -> None:
    async with SmtpServer({"greeting": Step("554 no mail here")}) as sink, outbound(sink, retry_schedule=[60, 60]):
        ids = await tenant.send_each([[f"u{n}@example.com"] for n in range(30)])
        await until(
            lambda: admin.fetchval("SELECT suspended_until > now() FROM sites WHERE key LIKE 'catch:%'"), "suspended"
        )
        site = await admin.fetchrow("SELECT * FROM sites WHERE key LIKE 'catch:%'")
        await until(
            lambda: admin.fetchval("SELECT count(*) = 0 FROM queue WHERE worker IS NOT NULL"), "rows given back"
        )
    assert site is not None
    assert site["failures"] == 1
    assert "554 no mail here" in site["last_reply"]
    attempts = await admin.fetch("SELECT * FROM attempts")
    assert len(attempts) == 1
    assert attempts[0]["rule"] == "greeting-refused"
    rows = await admin.fetch("SELECT * FROM queue")
    assert len(rows) == len(ids)
    assert sorted(row["attempt"] for row in rows) == [0] * 29 + [1]
    # when it is up again, one mail tries, and its success lets the others go
    async with SmtpServer() as up:
        await admin.execute("UPDATE sites SET suspended_until = now() WHERE key LIKE 'catch:%'")
        await admin.execute("UPDATE queue SET due_at = now()")
        await admin.execute("UPDATE sites SET key = $1 WHERE key LIKE 'catch:%'", f"catch:127.0.0.1:{up.port}")
        async with outbound(up):
            for email_id in ids:
                await tenant.state(email_id, "delivered")
            await until(
                lambda: admin.fetchval(
                    "SELECT failures = 0 AND suspended_until IS NULL FROM sites WHERE key LIKE 'catch:%'"
                ),
                "cleared",
            )
    assert len(up.talks) >= 1


async def test_a_drain_finishes_what_is_under_way_and_gives_back_the_rest(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection
) -> None:
    answer = asyncio.Event()
    async with SmtpServer({"dot": Step("250 ok", wait=answer)}) as sink:
        async with outbound(sink, max_connections=2) as drain:
            ids = await tenant.send_each([[f"u{n}@example.com"] for n in range(40)])
            await until(lambda: admin.fetchval("SELECT count(*) FROM queue WHERE dot_sent"), "a dot under way")
            draining = asyncio.ensure_future(drain())
            await until(
                lambda: admin.fetchval("SELECT count(*) < 40 FROM queue WHERE worker IS NOT NULL"), "rows given back"
            )
            answer.set()
            await draining
            assert await admin.fetchval("SELECT count(*) FROM queue WHERE worker IS NOT NULL") == 0
            assert await admin.fetchval("SELECT count(*) FROM workers WHERE service = 'outbound'") == 0
        delivered = await admin.fetchval("SELECT count(*) FROM deliveries WHERE state = 'delivered'")
    assert delivered == len(sink.caught)
    waiting = await admin.fetch("SELECT * FROM queue")
    assert len(waiting) == len(ids) - delivered
    assert {row["attempt"] for row in waiting} <= {0}


async def test_a_flood_of_one_tenant_does_not_hold_up_another(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection, make_org: Any, make_domain: Any
) -> None:
    other = await make_org()
    await make_domain(other, "other.test")
    seen: list[str] = []
    gate = asyncio.Event()

    def slow(talk: Talk) -> Step | None:
        seen.append(talk.recipient)
        return None if gate.is_set() else Step("250 ok", wait=gate)

    async with SmtpServer({"dot": slow}) as sink, outbound(sink, max_connections=2):
        await tenant.send_each([[f"u{n}@example.com"] for n in range(3_000)])
        await until(lambda: admin.fetchval("SELECT count(*) > 0 FROM queue WHERE dot_sent"), "the flood under way")
        email_id = await tenant.send("vip@example.com", org_id=other, domain="other.test")
        gate.set()
        await tenant.state(email_id, "delivered")
        place = seen.index("vip@example.com")
        await until(lambda: admin.fetchval("SELECT NOT EXISTS (SELECT FROM queue)"), "all delivered")
    assert len(seen) == 3_001
    # behind what its site had in hand when it was noticed (at most deliver.MOST; some 20 to 40 as a rule), not behind the flood
    assert place < 600


async def test_scheduled_mail_waits_for_its_time(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection
) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    async with outbound(sink):
        later = await tenant.send("later@example.com", scheduled_at=at)
        now = await tenant.send("now@example.com")
        await tenant.state(now, "delivered")
        assert (await tenant.delivery(later))["state"] == "scheduled"
        await admin.execute("UPDATE queue SET due_at = now() WHERE email_id = $1", later)
        await tenant.state(later, "delivered")
    assert b"Date: " + at.strftime("%a, %d %b %Y %H:%M:%S").encode() in sink.caught[-1].content
