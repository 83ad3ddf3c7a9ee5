"""What comes back to a return path: believed when it is ours and at most a week old, once, about nobody else (reliability A17)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from integration.outbound.harness import Tenant
from mailcore.dsn.verp import Verp
from mailcore.flow.returned import Returned
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.store.session import Store

NOW = 1_800_000_000.0
DAY = 86_400.0


def _dsn(recipient: str, action: str = "failed", said: str = "550 5.1.1 user unknown", status: str = "5.1.1") -> bytes:
    return (
        "From: MAILER-DAEMON@mx.example\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
        "--b\r\n\r\nSorry.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\n"
        f"Final-Recipient: rfc822; {recipient}\r\nAction: {action}\r\nStatus: {status}\r\n"
        f"Diagnostic-Code: smtp; {said}\r\n--b--\r\n"
    ).encode()


COMPLAINT = (
    b"From: fbl@provider.example\r\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n"
    b"--b\r\n\r\nSpam!\r\n--b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nVersion: 1\r\n--b--\r\n"
)


@pytest.fixture
def verp(keyring: Keyring) -> Verp:
    return Verp(keyring.derive("verp"), clock=lambda: NOW)


@pytest.fixture
def door(store: Store, ringer: Ringer, verp: Verp) -> Returned:
    return Returned(store, ringer, verp)


@pytest.fixture
async def email_id(tenant: Tenant, admin: asyncpg.Connection) -> UUID:
    """Taken by its server."""
    id_ = UUID(str(await tenant.send("you@example.com")))
    await admin.execute("UPDATE deliveries SET state = 'delivered', last_event = 'delivered' WHERE email_id = $1", id_)
    await admin.execute("DELETE FROM queue WHERE email_id = $1", id_)
    return id_


async def _suppressed(admin: asyncpg.Connection) -> list[tuple[str, str]]:
    return [tuple(row) for row in await admin.fetch("SELECT email, origin FROM suppressions ORDER BY email")]


async def test_a_mail_that_comes_back_has_bounced(
    tenant: Tenant, admin: asyncpg.Connection, door: Returned, verp: Verp, email_id: UUID
) -> None:
    address = f"{verp.local_part(email_id, 0)}@send.postroom.test"
    assert (await door.take(address, _dsn("you@example.com"))).what == "bounced"
    assert (await tenant.delivery(email_id))["state"] == "bounced"
    event = (await tenant.events(email_id))[-1]
    assert (event["type"], event["recipients"]) == ("email.bounced", ["you@example.com"])
    assert event["detail"]["bounce"]["diagnosticCode"] == ["smtp; 550 5.1.1 user unknown"]
    attempt = (await tenant.attempts(email_id))[-1]
    assert (attempt["rule"], attempt["category"], attempt["mx_host"], attempt["reply"]) == (
        "report",
        "hard",
        "mx.example",
        "user unknown",
    )
    assert await _suppressed(admin) == [("you@example.com", "bounce")]
    # the same once more, and after the suppression was lifted: a used return path does nothing
    await admin.execute("DELETE FROM suppressions")
    assert (await door.take(address, _dsn("you@example.com"))).what == "ignored"
    assert await _suppressed(admin) == []


def _changed(path: str) -> str:
    """In one place, of which every bit counts."""
    return path[:-2] + ("b" if path[-2] == "a" else "a") + path[-1]


@pytest.mark.parametrize(
    "made",
    [
        lambda verp, id_: "b+" + "a" * 45,
        lambda verp, id_: "bounces",
        lambda verp, id_: Verp(b"x" * 32, clock=lambda: NOW).local_part(id_, 0),
        lambda verp, id_: _changed(verp.local_part(id_, 0)),
        lambda verp, id_: Verp(verp_key(), clock=lambda: NOW - 8 * DAY).local_part(id_, 0),
    ],
    ids=["made up", "another", "foreign", "changed", "expired"],
)
async def test_a_forged_return_path_suppresses_nobody(
    tenant: Tenant, admin: asyncpg.Connection, door: Returned, verp: Verp, email_id: UUID, made: Any
) -> None:
    address = f"{made(verp, email_id)}@send.postroom.test"
    assert (await door.take(address, _dsn("you@example.com"))).what == "ignored"
    assert (await door.take(address, COMPLAINT)).what == "ignored"
    assert (await tenant.delivery(email_id))["state"] == "delivered"
    assert await _suppressed(admin) == []


def verp_key() -> bytes:
    return Keyring([bytes(range(32))]).derive("verp")


@pytest.mark.parametrize(
    ("raw", "what", "state"),
    [
        (
            _dsn("you@example.com", said="550 5.7.1 blocked using zen.spamhaus.org", status="5.7.1"),
            "bounced",
            "bounced",
        ),
        (_dsn("you@example.com", said="552 5.2.2 mailbox full", status="5.2.2"), "bounced", "bounced"),
        (_dsn("you@example.com", "delayed", "450 4.2.2 mailbox full", "4.2.2"), "noted", "delivered"),
        (_dsn("you@example.com", "delivered", "250 2.0.0 ok", "2.0.0"), "noted", "delivered"),
        (b"From: you@example.com\r\nSubject: Out of office\r\n\r\nBack on Monday.\r\n", "ignored", "delivered"),
    ],
    ids=["our address on a list", "full", "delayed", "delivered", "out of office"],
)
async def test_only_the_address_itself_suppresses(
    tenant: Tenant,
    admin: asyncpg.Connection,
    door: Returned,
    verp: Verp,
    email_id: UUID,
    raw: bytes,
    what: str,
    state: str,
) -> None:
    assert (await door.take(f"{verp.local_part(email_id, 0)}@send.postroom.test", raw)).what == what
    assert (await tenant.delivery(email_id))["state"] == state
    assert await _suppressed(admin) == []


async def test_a_report_says_nothing_about_others(
    tenant: Tenant, admin: asyncpg.Connection, door: Returned, verp: Verp, email_id: UUID
) -> None:
    """Whom the return path names bounces, whoever the report speaks of: his mail was forwarded there."""
    await door.take(f"{verp.local_part(email_id, 0)}@send.postroom.test", _dsn("victim@example.net"))
    assert await _suppressed(admin) == [("you@example.com", "bounce")]


async def test_a_complaint_suppresses(
    tenant: Tenant, admin: asyncpg.Connection, door: Returned, verp: Verp, email_id: UUID
) -> None:
    assert (await door.take(f"{verp.local_part(email_id, 0)}@send.postroom.test", COMPLAINT)).what == "complained"
    assert [event["type"] for event in await tenant.events(email_id)][-1] == "email.complained"
    assert await _suppressed(admin) == [("you@example.com", "complaint")]
