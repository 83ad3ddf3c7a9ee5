"""Delivery reports to who handed mail in by SMTP (RFC 3461): who gets one, of what, once. And how replies are classed."""

from __future__ import annotations

import asyncio
import email
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.smtp_server import SmtpServer, Step
from integration.outbound.harness import Tenant, until
from mailcore.blob.local import LocalBlobs
from mailcore.dsn.parse import parse
from mailcore.dsn.report import Action
from mailcore.dsn.wishes import Wishes
from mailcore.flow import delays, settle
from mailcore.flow.owed import Reports
from mailcore.smtp.dsn import DsnRequest, Notify, Ret
from mailcore.store import explain, suppressions
from mailcore.store.session import Store
from mailcore.store.suppressions import NewSuppression

RAW = b"From: us@postroom.test\r\nTo: you@example.com\r\nSubject: hi\r\nMessage-ID: <1@postroom.test>\r\n\r\nHello.\r\n"
NOBODY = Step("550 5.1.1 no such user here")


async def _hand_in(tenant: Tenant, *to: str, **wishes: Any) -> UUID:
    """As the submission port does."""
    asked = {"mail_from": "me@sender.example", **wishes}
    return await tenant.send(
        *to, html=None, text=None, raw=RAW, message_id="<1@postroom.test>", dsn=Wishes(**asked).as_json()
    )


async def _owed(admin: asyncpg.Connection) -> list[tuple[Any, ...]]:
    return [
        tuple(row)
        for row in await admin.fetch(
            "SELECT n, action, report_id IS NOT NULL, given_up FROM reports_owed ORDER BY n, action"
        )
    ]


async def test_a_refusal_is_reported_to_the_sender(tenant: Tenant, admin: asyncpg.Connection, outbound: Any) -> None:
    request = DsnRequest(Ret.FULL, "QQ314159", orcpt="you+tag@example.com")
    async with SmtpServer({"rcpt": [NOBODY, Step("250 ok")]}) as sink, outbound(sink):
        email_id = await _hand_in(tenant, "you@example.com", recipients=(request,))
        await tenant.state(email_id, "bounced")
        await until(lambda: _caught(sink), "a report")
        [caught] = sink.caught
    # RFC 3464 §2: the report has an empty return path, so that there is none about it
    assert (caught.mail_from, caught.rcpt_to) == ("", ["me@sender.example"])
    message = email.message_from_bytes(caught.content)
    assert message["From"] == "Mail Delivery System <mailer-daemon@postroom.test>"
    assert message["DKIM-Signature"] is not None
    report = parse(caught.content)
    assert report is not None
    [one] = report.recipients
    assert (one.original, one.final, one.action) == ("you+tag@example.com", "you@example.com", Action.FAILED)
    assert one.reply is not None
    assert (str(one.reply), one.remote_mta) == ("550 5.1.1 no such user here", "127.0.0.1")
    assert (report.reporting_mta, report.envelope_id, report.message_id) == (
        "outbound.test",
        "QQ314159",
        "<1@postroom.test>",
    )
    assert b"\r\nHello.\r\n" in caught.content  # RET=FULL
    assert await _owed(admin) == [(0, "failed", True, None)]
    async with tenant.store.tenant(tenant.org_id) as db:
        [told] = await explain.deliveries(db, UUID(str(email_id)))
    assert [(each["action"], each["email_id"] is not None, each["given_up"]) for each in told["reports"]] == [
        ("failed", True, None)
    ]
    [attempt] = await tenant.attempts(email_id)
    assert (attempt["category"], attempt["category_rule"]) == ("hard", "no-mailbox")
    assert await admin.fetchval("SELECT origin FROM suppressions WHERE email = 'you@example.com'") == "bounce"


async def _caught(sink: SmtpServer) -> bool:
    return bool(sink.caught)


async def test_recipients_of_one_mail_share_a_report(
    tenant: Tenant, admin: asyncpg.Connection, store: Store, outbound: Any, tmp_path: Any
) -> None:
    async with SmtpServer({"rcpt": NOBODY}) as sink, outbound(sink):
        email_id = await _hand_in(tenant, "a@example.com", "b@example.com")
        await tenant.state(email_id, "bounced")
        await tenant.state(email_id, "bounced", 1)
        await until(lambda: _all_told(admin), "reports")
    reports = await admin.fetch("SELECT DISTINCT report_id FROM reports_owed")
    raws = [await admin.fetchval("SELECT raw FROM emails WHERE id = $1", row["report_id"]) for row in reports]
    told = [one.address for raw in raws for one in (parse(raw) or pytest.fail("no report")).recipients]
    assert sorted(told) == ["a@example.com", "b@example.com"]
    # the report's own recipient is refused here too: that is the end of it
    assert await admin.fetchval("SELECT count(*) FROM reports_owed WHERE email_id <> $1", email_id) == 0
    again = Reports(store, tenant.submits, LocalBlobs(tmp_path / "blobs"), reporter="x", lifetime_seconds=1)
    assert await again.tell_due() == 0


async def _all_told(admin: asyncpg.Connection) -> bool:
    owed = await _owed(admin)
    return len(owed) == 2 and all(told for _, _, told, _ in owed)


@pytest.mark.parametrize(
    "wishes",
    [
        {"mail_from": ""},
        {"recipients": (DsnRequest(notify=frozenset((Notify.NEVER,))),)},
        {"recipients": (DsnRequest(notify=frozenset((Notify.SUCCESS, Notify.DELAY))),)},
    ],
    ids=["null sender", "never", "only success and delay"],
)
async def test_who_did_not_ask_is_not_told(
    tenant: Tenant, admin: asyncpg.Connection, outbound: Any, wishes: dict[str, Any]
) -> None:
    async with SmtpServer({"rcpt": NOBODY}) as sink, outbound(sink):
        by_smtp, by_api = await _hand_in(tenant, "you@example.com", **wishes), await tenant.send("you@example.com")
        await tenant.state(by_smtp, "bounced")
        await tenant.state(by_api, "bounced")
        said = sink.commands("MAIL FROM:<>")
    assert await _owed(admin) == []
    # what came with an empty return path leaves with one
    assert bool(said) == (wishes.get("mail_from") == "")


async def test_delay_and_success_are_told_when_asked_for(
    tenant: Tenant, admin: asyncpg.Connection, outbound: Any
) -> None:
    request = DsnRequest(notify=frozenset((Notify.SUCCESS, Notify.DELAY)))
    script = {"rcpt": [Step("450 4.2.0 greylisted"), Step("250 ok")]}
    async with SmtpServer(script) as sink, outbound(sink, retry_schedule=[0.5, 60], delay_notice_seconds=0):
        email_id = await _hand_in(tenant, "you@example.com", recipients=(request,))
        await tenant.state(email_id, "delivered")
        await until(lambda: _all_told(admin), "both reports")
        await until(lambda: _three(sink), "the mail and its reports")
        reports = [parse(caught.content) for caught in sink.caught if caught.rcpt_to == ["me@sender.example"]]
    told = {one.action for report in reports if report for one in report.recipients}
    assert told == {Action.DELAYED, Action.RELAYED}
    assert {row[:2] for row in await _owed(admin)} == {(0, "delayed"), (0, "relayed")}


async def _three(sink: SmtpServer) -> bool:
    return len(sink.caught) == 3


async def test_without_its_domain_a_report_is_given_up_and_says_why(
    tenant: Tenant, admin: asyncpg.Connection, store: Store, domain: UUID, tmp_path: Any
) -> None:
    email_id = await _hand_in(tenant, "you@example.com")
    await admin.execute(
        "INSERT INTO reports_owed (email_id, n, action, org_id) VALUES ($1, 0, 'failed', $2)", email_id, tenant.org_id
    )
    await admin.execute("DELETE FROM domains WHERE id = $1", domain)
    reports = Reports(store, tenant.submits, LocalBlobs(tmp_path / "blobs"), reporter="x", lifetime_seconds=1)
    assert await reports.tell_due() == 0
    [(_, _, told, why)] = await _owed(admin)
    assert (told, why) == (False, "The domain it would come from has been removed.")


async def test_what_could_never_be_tried_is_reported_when_it_expires(
    tenant: Tenant, admin: asyncpg.Connection, store: Store, tmp_path: Any
) -> None:
    await _hand_in(tenant, "you@example.com")
    await admin.execute("UPDATE sites SET failures = 3, last_reply = 'connection refused'")
    assert (await settle.expire(store, datetime.now(UTC) + timedelta(hours=1)))[0] == 1
    reports = Reports(store, tenant.submits, LocalBlobs(tmp_path / "blobs"), reporter="x", lifetime_seconds=1)
    assert await reports.tell_due() == 1
    report = parse(await admin.fetchval("SELECT raw FROM emails ORDER BY id DESC LIMIT 1"))
    assert report is not None
    [one] = report.recipients
    assert (one.action, one.reply and one.reply.enhanced) == (Action.FAILED, "5.4.7")


async def test_a_delay_at_a_site_that_rests_is_told_to_who_asked(
    tenant: Tenant, admin: asyncpg.Connection, store: Store
) -> None:
    asked = DsnRequest(notify=frozenset((Notify.DELAY,)))
    email_id = await _hand_in(tenant, "you@example.com", recipients=(asked,))
    await _hand_in(tenant, "you@example.com")
    await asyncio.sleep(0.01)
    assert (await delays.tell(store, 0, thorough=True))[0] == 2
    owed = await admin.fetch("SELECT email_id, action FROM reports_owed")
    assert [(str(row["email_id"]), row["action"]) for row in owed] == [(str(email_id), "delayed")]


async def test_who_is_suppressed_already_is_reported(
    tenant: Tenant, admin: asyncpg.Connection, store: Store, tmp_path: Any
) -> None:
    async with store.tenant(tenant.org_id) as db:
        await suppressions.add(db, [NewSuppression(tenant.org_id, "gone@example.com", "manual")])
    await _hand_in(tenant, "you@example.com", "gone@example.com")
    await _hand_in(tenant, "gone@example.com", mail_from="")
    await tenant.send("gone@example.com")
    assert [row[:2] for row in await _owed(admin)] == [(1, "failed")]
    reports = Reports(store, tenant.submits, LocalBlobs(tmp_path / "blobs"), reporter="x", lifetime_seconds=1)
    assert await reports.tell_due() == 1
    report = parse(await admin.fetchval("SELECT raw FROM emails ORDER BY id DESC LIMIT 1"))
    assert report is not None
    [one] = report.recipients
    assert (one.address, one.reply and one.reply.enhanced) == ("gone@example.com", "5.7.1")


async def test_two_processes_tell_once(tenant: Tenant, admin: asyncpg.Connection, store: Store, tmp_path: Any) -> None:
    email_id = await _hand_in(tenant, "you@example.com")
    await admin.execute(
        "INSERT INTO reports_owed (email_id, n, action, org_id) VALUES ($1, 0, 'failed', $2)", email_id, tenant.org_id
    )
    both = [
        Reports(store, tenant.submits, LocalBlobs(tmp_path / "blobs"), reporter="x", lifetime_seconds=1)
        for _ in range(2)
    ]
    assert sum(await asyncio.gather(*(each.tell(email_id) for each in both))) == 1
    assert await admin.fetchval("SELECT count(*) FROM emails") == 2
    # and after a crash between claim and commit it is told by the next try
    await admin.execute("UPDATE reports_owed SET report_id = NULL, due_at = now()")
    assert await both[0].tell_due() == 1


@pytest.mark.parametrize(
    ("reply", "category", "rule", "suppressed"),
    [
        ("550 5.1.1 user unknown", "hard", "no-mailbox", True),
        ("550 5.1.1 your IP is listed at zen.spamhaus.org", "block", "list-spamhaus", False),
        ("550 5.7.1 message refused: spam", "content", "spam", False),
        ("552 5.2.2 over quota", "recipient", "mailbox-full", False),
        ("550 5.7.26 unauthenticated", "policy", "authentication-failed", False),
    ],
)
async def test_only_who_is_not_there_is_suppressed(
    tenant: Tenant, admin: asyncpg.Connection, outbound: Any, reply: str, category: str, rule: str, suppressed: bool
) -> None:
    async with SmtpServer({"rcpt": Step(reply)}) as sink, outbound(sink):
        email_id = await tenant.send("you@example.com")
        await tenant.state(email_id, "bounced")
    [attempt] = await tenant.attempts(email_id)
    assert (attempt["category"], attempt["category_rule"], attempt["reply"]) == (category, rule, reply.split(" ", 2)[2])
    assert (await admin.fetchval("SELECT count(*) FROM suppressions") == 1) is suppressed
