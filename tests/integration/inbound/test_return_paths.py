"""Reports that come to a return path by SMTP: read before the 250, and nothing else is taken there (reliability A14, A17)."""

from __future__ import annotations

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
    assert await admin.fetchval("SELECT rcpt_to FROM arrivals") == ["someone@postroom.test"]


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
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 3  # all of them are mail to somebody, too


async def test_other_addresses_of_a_return_path_take_nothing(
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
