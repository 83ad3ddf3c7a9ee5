"""Reports that come to a return path by SMTP: read before the 250, and nothing else is taken there (reliability A14, A17)."""

from __future__ import annotations

import time
from uuid import UUID

import asyncpg
import pytest

from mailcore.blob.base import BlobStore
from mailcore.dsn.verp import Verp
from mailcore.flow.returned import Returned
from mailcore.flow.submit import NewEmail, Submits
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.store import arrivals
from mailcore.store.pages import Page
from mailcore.store.session import Store

from .harness import Server

DSN = (
    b"From: MAILER-DAEMON@mx.example\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
    b"--b\r\n\r\nSorry.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\n"
    b"Final-Recipient: rfc822; you@example.com\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    b"Diagnostic-Code: smtp; 550 5.1.1 user unknown\r\n--b--\r\n"
)


ARF = (
    b"From: <fbl@provider.example>\r\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n"
    b"--b\r\n\r\nSomebody did not like this.\r\n--b\r\nContent-Type: message/feedback-report\r\n\r\n"
    b"Feedback-Type: abuse\r\nUser-Agent: x/1\r\nVersion: 1\r\nOriginal-Mail-From: <RETURN-PATH>\r\n"
    b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: hi\r\n\r\nhi\r\n--b--\r\n"
)


@pytest.fixture
def verp(keyring: Keyring) -> Verp:
    return Verp(keyring.derive("verp"))


@pytest.fixture
async def sent(
    org: UUID, domain: UUID, store: Store, ringer: Ringer, blobs: BlobStore, admin: asyncpg.Connection
) -> UUID:
    """An email whose one recipient's server has taken it."""
    submits = Submits(store, ringer, blobs)
    email = NewEmail(
        "us@postroom.test", "postroom.test", ["you@example.com"], [parse_address("you@example.com")], "hi", text="hi"
    )
    done = await submits.submit(org, [email], door="test")
    await submits.drain()
    await admin.execute("UPDATE deliveries SET state = 'delivered'")
    await admin.execute("DELETE FROM queue")
    return UUID(str(done.ids[0]))


async def test_a_report_is_read_before_its_250(
    server: Server, store: Store, ringer: Ringer, admin: asyncpg.Connection, verp: Verp, sent: UUID
) -> None:
    server.mx.returned = Returned(store, ringer, verp)
    address = f"{verp.local_part(sent, 0)}@send.postroom.test"
    assert (await server.deliver(DSN, address, sender=""))[0] == 250
    assert await admin.fetchval("SELECT state FROM deliveries") == "bounced"
    assert await admin.fetchval("SELECT email FROM suppressions") == "you@example.com"
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 0
    # to somebody of ours beside it, it is also mail
    assert (await server.deliver(DSN, address, "someone@postroom.test", sender=""))[0] == 250
    assert await admin.fetchval("SELECT rcpt_to FROM arrivals WHERE state = 'received'") == ["someone@postroom.test"]


async def test_a_complaint_to_abuse_is_about_the_mail_in_it(
    server: Server, store: Store, ringer: Ringer, admin: asyncpg.Connection, verp: Verp, sent: UUID
) -> None:
    server.mx.returned = Returned(store, ringer, verp)
    made_up = ARF.replace(b"RETURN-PATH", b"b+aaaa@send.postroom.test")
    ours = ARF.replace(b"RETURN-PATH", f"{verp.local_part(sent, 0)}@send.postroom.test".encode())
    for raw, to in ((made_up, "abuse@postroom.test"), (ours, "someone@postroom.test")):
        assert (await server.deliver(raw, to))[0] == 250
    assert await admin.fetchval("SELECT count(*) FROM suppressions") == 0
    assert (await server.deliver(ours, "Abuse@postroom.test"))[0] == 250
    assert await admin.fetchval("SELECT origin FROM suppressions WHERE email = 'you@example.com'") == "complaint"
    assert await admin.fetchval("SELECT last_event FROM deliveries") == "complained"
    told = await admin.fetch("SELECT decisions FROM arrivals ORDER BY id")  # all of them are mail to somebody, too
    assert [[each["decision"] for each in row["decisions"]][:2] for row in told] == [
        ["ignored", "accepted"],
        ["accepted"],
        ["complained", "accepted"],
    ]
    assert "no return path of ours" in told[0]["decisions"][0]["reason"]


async def test_a17_a_late_complaint_counts_by_the_path_in_it_and_the_path_itself_takes_nothing_more(
    server: Server, store: Store, ringer: Ringer, admin: asyncpg.Connection, keyring: Keyring, verp: Verp, sent: UUID
) -> None:
    server.mx.returned = Returned(store, ringer, verp)
    for days, what in ((61, "ignored"), (59, "complained")):
        then = Verp(keyring.derive("verp"), clock=lambda days=days: time.time() - days * 86_400)
        address = f"{then.local_part(sent, 0)}@send.postroom.test"
        async with server.client() as client:
            await client.ask("EHLO x")
            await client.ask("MAIL FROM:<>")
            assert (await client.ask(f"RCPT TO:<{address}>"))[0] == 550
        assert (await server.deliver(ARF.replace(b"RETURN-PATH", address.encode()), "abuse@postroom.test"))[0] == 250
        decisions = await admin.fetchval("SELECT decisions FROM arrivals ORDER BY id DESC LIMIT 1")
        assert decisions[0]["decision"] == what
    assert await admin.fetchval("SELECT origin FROM suppressions") == "complaint"


async def test_a17_what_changes_nothing_is_kept_where_its_organization_sees_it(
    server: Server, store: Store, ringer: Ringer, admin: asyncpg.Connection, verp: Verp, sent: UUID, org: UUID
) -> None:
    server.mx.returned = Returned(store, ringer, verp)
    address = f"{verp.local_part(sent, 0)}@send.postroom.test"
    away = b"From: you@example.com\r\nSubject: Out of office\r\n\r\n" + b"Back on Monday.\r\n" * 5000
    later = DSN.replace(b"Action: failed", b"Action: delayed")
    for raw in (away, later, DSN, DSN):
        assert (await server.deliver(raw, address, sender="you@example.com"))[0] == 250
    await admin.execute("DELETE FROM deliveries")  # the mail is older than its organization keeps mail
    assert (await server.deliver(DSN, address, sender=""))[0] == 250
    async with store.tenant(org) as db:
        rows = (await arrivals.page(db, Page(None))).rows[::-1]
        assert (await arrivals.page(db, Page(None), routed=True)).rows == [], "none of them is received mail"
        assert await arrivals.numbered(db, offset=0, limit=10) == ([], 0)
        raw = (await arrivals.find(db, rows[0]["id"], raw=True))["raw"]  # type: ignore[index]
    assert [row["decisions"][0]["decision"] for row in rows] == ["ignored", "noted", "ignored", "ignored"]
    for row, words in zip(rows, ("no report", "delayed", "known already", "is gone"), strict=True):
        assert words in row["decisions"][0]["reason"]
        assert (row["org_id"], row["rcpt_to"], row["state"], row["source"]) == (org, [address], "routed", "127.0.0.1")
    assert (raw, rows[0]["size"], rows[0]["facts"]["kept_bytes"]) == (away[:65536], len(away), 65536)
    assert await admin.fetchval("SELECT count(*) FROM arrival_queue") == 0, "nothing routes them"


async def test_a17_other_addresses_of_a_return_path_take_nothing(
    server: Server, store: Store, ringer: Ringer, verp: Verp, sent: UUID
) -> None:
    server.mx.returned = Returned(store, ringer, verp)
    old = Verp(Keyring([bytes(range(32))]).derive("verp"), clock=lambda: 1_000_000_000.0)
    async with server.client() as client:
        await client.ask("EHLO x")
        await client.ask("MAIL FROM:<>")
        for local in ("b+aaaa", "bounces", old.local_part(sent, 0), Verp(b"x" * 32).local_part(sent, 0)):
            assert (await client.ask(f"RCPT TO:<{local}@send.postroom.test>"))[0] == 550
        assert (await client.ask(f"RCPT TO:<{verp.local_part(sent, 0).upper()}@send.postroom.test>"))[0] == 250
