"""Submission as clients see it: who may, what the message comes to, what is refused (RFC 6409, RFC 4954, reliability A1, A3, A6,
A7)."""

from __future__ import annotations

import asyncio
import base64
import json
import smtplib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID

import asyncpg
import pytest

import suites
from inbound_smtp.main import make_mx, make_submission
from inbound_smtp.settings import Smtp
from mailcore.blob.base import INLINE_BYTES, BlobStore
from mailcore.flow.sandbox import Sandbox
from mailcore.kit.errors import Refused
from mailcore.mime.compose import is_7bit
from mailcore.queue.bell import Ringer
from mailcore.store import suppressions
from mailcore.store.session import Store
from mailcore.store.suppressions import NewSuppression

from .harness import Client
from .submitting import Submitting, make_key, plain, submitting

MakeOrg = Callable[[], Awaitable[UUID]]
MakeDomain = Callable[[UUID, str], Awaitable[UUID]]
HEAD = b"From: Us <us@postroom.test>\r\nTo: you@example.com\r\nSubject: s\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\n"
MAIL = HEAD + b"Message-ID: <1@postroom.test>\r\n\r\nhello\r\n"
OWN_ID = b"Message-ID: <1@postroom.test>\r\n"


async def stored(admin: asyncpg.Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in await admin.fetch("SELECT * FROM emails ORDER BY id")]


async def recipients(admin: asyncpg.Connection) -> list[str]:
    return [row["recipient"] for row in await admin.fetch("SELECT recipient FROM deliveries ORDER BY email_id, n")]


# ---- who may --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["587", "465"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_smtplib_hands_in_a_mail(
    submission: Submitting, admin: asyncpg.Connection, token: str, tls: bool, mechanism: str
) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Us <us@postroom.test>", "you@example.com", "Grüße"
    message["Bcc"] = "blind@example.com"
    message.set_content("Grüße")

    def send(connection: smtplib.SMTP) -> None:
        connection.user, connection.password = "resend", token  # type: ignore[attr-defined]
        connection.ehlo()
        method = connection.auth_plain if mechanism == "PLAIN" else connection.auth_login
        assert connection.auth(mechanism, method)[0] == 235
        connection.send_message(message)

    await submission.by_smtplib(send, tls=tls)
    [email] = await stored(admin)
    assert (email["from_"], email["to_"], email["bcc"], email["subject"]) == (
        *("Us <us@postroom.test>", ["you@example.com"], ["blind@example.com"], "Grüße"),
    )
    assert await recipients(admin) == ["you@example.com", "blind@example.com"]
    assert b"blind@" not in email["raw"]
    assert is_7bit(email["raw"])


async def test_a6_before_tls_there_is_no_auth_and_no_mail(submission: Submitting, token: str) -> None:
    async with submission.client(tls=False) as client:
        _, offers = await client.ask("EHLO x")
        assert "STARTTLS" in offers.split("\n")
        assert "AUTH" not in offers and "REQUIRETLS" not in offers
        assert (await client.ask(f"AUTH PLAIN {plain(token)}"))[0] == 538
        assert (await client.ask("AUTH LOGIN"))[0] == 538
        assert (await client.ask("MAIL FROM:<a@postroom.test>"))[0] == 530
        assert (await client.ask("STARTTLS"))[0] == 220
        await client.writer.start_tls(submission.tls, server_hostname="127.0.0.1")
        assert (await client.ask(f"AUTH PLAIN {plain(token)}"))[0] == 503  # RFC 3207 §4.2: EHLO counts for nothing now
        _, offers = await client.ask("EHLO x")
        found = {line.split()[0] for line in offers.split("\n")[1:]}
        assert found == {
            "PIPELINING",
            "SIZE",
            "ENHANCEDSTATUSCODES",
            "8BITMIME",
            "DSN",
            "CHUNKING",
            "AUTH",
            "REQUIRETLS",
        }
        assert "AUTH PLAIN LOGIN" in offers
        assert (await client.ask("STARTTLS"))[0] == 503


async def test_a3_what_came_in_the_packet_with_starttls_counts_for_nothing(submission: Submitting, token: str) -> None:
    async with submission.client(tls=False) as client:
        await client.ask("EHLO x")
        client.send(
            b"STARTTLS\r\nEHLO injected\r\nAUTH PLAIN %b\r\nMAIL FROM:<a@postroom.test>\r\n" % plain(token).encode()
        )
        assert (await client.reply())[0] == 220
        await client.writer.start_tls(submission.tls, server_hostname="127.0.0.1")
        assert (await client.ask("RCPT TO:<v@example.com>"))[0] == 503
        assert (await client.ask("MAIL FROM:<a@postroom.test>"))[0] == 503  # no EHLO yet
        await client.ask("EHLO x")
        assert (await client.ask("MAIL FROM:<a@postroom.test>"))[0] == 530


async def test_without_a_login_there_is_no_mail(submission: Submitting) -> None:
    async with submission.client() as client:
        await client.ask("EHLO x")
        code, text = await client.ask("MAIL FROM:<us@postroom.test>")
        assert (code, text[:5]) == (530, "5.7.0")
        assert (await client.ask("RCPT TO:<you@example.com>"))[0] == 503
        assert (await client.ask("DATA"))[0] == 503


async def test_a6_the_user_decides_nothing(submission: Submitting, token: str) -> None:
    for user in ("resend", "api", "postroom.test", "", "nobody@nowhere.test"):
        async with submission.client() as client:
            await client.ask("EHLO x")
            assert (await client.ask(f"AUTH PLAIN {plain(token, user)}"))[0] == 235
            assert (await client.ask(f"AUTH PLAIN {plain(token, user)}"))[0] == 503  # RFC 4954 §4: once


async def test_challenges_and_their_odd_answers(submission: Submitting, token: str) -> None:
    async with submission.client() as client:
        await client.ask("EHLO x")
        assert await client.ask("AUTH PLAIN") == (334, "")
        assert (await client.ask("*"))[0] == 501
        assert await client.ask("AUTH LOGIN") == (334, "VXNlcm5hbWU6")
        assert (await client.ask("not base64!"))[0] == 501
        assert (await client.ask("AUTH CRAM-MD5"))[0] == 504
        assert (await client.ask("AUTH"))[0] == 501
        assert (await client.ask("AUTH LOGIN cmVzZW5k"))[0] == 334
        assert (await client.ask(base64.b64encode(token.encode())))[0] == 235


async def test_a6_three_wrong_keys_end_the_connection(submission: Submitting) -> None:
    for wrong in (b"re_wrong", b"", b"x" * 500, b"\xff"):
        answer = base64.b64encode(b"\0resend\0" + wrong).decode()
        async with submission.client() as client:
            await client.ask("EHLO x")
            replies = [await client.ask(f"AUTH PLAIN {answer}") for _ in range(3)]
            assert [(code, text[:5]) for code, text in replies] == [(535, "5.7.8"), (535, "5.7.8"), (421, "4.7.0")]
            assert await client.ends() == b""


async def test_a6_unknown_user_and_wrong_key_have_one_answer_and_no_quick_one(
    submission: Submitting, token: str
) -> None:
    answers = set()
    for user, key in (("nobody", "re_wrong"), ("postroom.test", token[:-1] + "!"), ("resend", "x" * 300)):
        async with submission.client() as client:
            await client.ask("EHLO x")
            began = perf_counter()
            answers.add(await client.ask(f"AUTH PLAIN {plain(key, user)}"))
            assert perf_counter() - began >= submission.listener.failure_seconds
    assert len(answers) == 1


async def test_a6_failures_of_an_address_are_limited(
    domain: UUID, store: Store, ringer: Ringer, blobs: BlobStore, certificates: Path, token: str
) -> None:
    async with submitting(store, ringer, blobs, certificates, max_auth_failures_per_ip=2) as running:
        for _ in range(2):
            async with running.client() as client:
                await client.ask("EHLO x")
                assert (await client.ask(f"AUTH PLAIN {plain('wrong')}"))[0] == 535
        async with running.client() as client:
            await client.ask("EHLO x")
            code, text = await client.ask(f"AUTH PLAIN {plain(token)}")
            assert (code, text[:5]) == (421, "4.7.0")


async def test_a_key_that_is_revoked_or_suspended_counts_no_more_on_an_open_connection(
    submission: Submitting, admin: asyncpg.Connection, token: str
) -> None:
    async with submission.client(token=token) as client:
        assert (await client.ask("MAIL FROM:<us@postroom.test>"))[0] == 250
        await client.ask("RSET")
        submission.listener.keys.forget(await admin.fetchval("UPDATE api_keys SET status = 'suspended' RETURNING id"))
        assert (await client.ask("MAIL FROM:<us@postroom.test>"))[0] == 530
        assert (await client.ask(f"AUTH PLAIN {plain(token)}"))[0] == 535


async def test_without_a_certificate_it_does_not_start(store: Store, ringer: Ringer, blobs: BlobStore) -> None:
    settings = Smtp(submission_port=1)
    with pytest.raises(Refused, match="TLS_CERT"):
        make_submission(settings, make_mx(settings, None, None), None, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_behind_a_load_balancer_the_client_is_whom_the_header_names(
    domain: UUID, store: Store, ringer: Ringer, blobs: BlobStore, certificates: Path, token: str, version: str
) -> None:
    header = b"PROXY TCP4 192.0.2.9 192.0.2.1 1000 465\r\n"
    if version == "v2":
        header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((192, 0, 2, 9, 192, 0, 2, 1, 3, 232, 1, 209))
    async with submitting(
        *(store, ringer, blobs, certificates), proxy_protocol=version, max_auth_failures_per_ip=1
    ) as running:
        for octets in (b"GET / HTTP/1.1\r\n\r\n", b"PROXY " + b"x" * 200):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.tls_port)
            writer.write(octets)
            with suppress(ConnectionResetError):  # what it did not read resets the connection
                assert await asyncio.wait_for(reader.read(), 60) == b""
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", running.tls_port)
        writer.write(header)
        await writer.start_tls(running.tls, server_hostname="127.0.0.1")
        client = Client(reader, writer)
        assert (await client.reply())[0] == 220
        await client.ask("EHLO x")
        assert (await client.ask(f"AUTH PLAIN {plain('re_wrong')}"))[0] == 535
        assert running.listener.failures.too_many("192.0.2.9")
        assert not running.listener.failures.too_many("127.0.0.1")
        writer.transport.abort()


# ---- the same rules as the API's ------------------------------------------------------------------------------------


async def test_what_is_stored_is_what_was_handed_in(
    submission: Submitting, admin: asyncpg.Connection, token: str
) -> None:
    code, text = await submission.submit(token, MAIL, "you@example.com", "You@example.com", "u@example.com")
    [email] = await stored(admin)
    assert (code, text) == (250, f"2.0.0 Ok: {email['id']}")
    assert email["raw"].endswith(b"\r\n" + MAIL) and email["raw"].startswith(b"Received: by mx.postroom.test")
    assert b"127.0.0.1" not in email["raw"]
    assert email["message_id"] == "<1@postroom.test>"
    assert (email["html"], email["text_"], email["bcc"]) == (None, None, ["u@example.com"])
    assert await recipients(admin) == ["you@example.com", "u@example.com"]


async def test_a_large_mail_goes_to_the_blob_store(
    submission: Submitting, admin: asyncpg.Connection, token: str, blobs: BlobStore
) -> None:
    mail = HEAD + OWN_ID + b"\r\n" + (b"y" * 900 + b"\r\n") * (1 + INLINE_BYTES // 902)
    assert (await submission.submit(token, mail, "you@example.com"))[0] == 250
    [email] = await stored(admin)
    assert email["raw"] is None
    assert (await blobs.get(email["raw_blob"])).endswith(mail)


async def test_a7_nobody_sends_from_what_is_not_theirs(
    submission: Submitting, admin: asyncpg.Connection, token: str, make_org: MakeOrg, make_domain: MakeDomain, org: UUID
) -> None:
    await make_domain(await make_org(), "bank.test")
    second = await make_domain(org, "second.test")
    held = await make_key(admin, org, second)
    for key, sender in (
        (token, b"bank.test"),
        (token, b"nowhere.test"),
        (token, b"sub.postroom.test"),
        (held, b"postroom.test"),
    ):
        mail = MAIL.replace(b"postroom.test>\r\nTo", b"%b>\r\nTo" % sender)
        code, text = await submission.submit(key, mail, "you@example.com", mail_from="us@postroom.test")
        assert (code, text[:5]) == (550, "5.7.1"), sender
    code, text = await submission.submit(token, b"Sender: ceo@bank.test\r\n" + MAIL, "you@example.com")
    assert (code, text[:5]) == (550, "5.7.1")
    assert await stored(admin) == []
    mail = MAIL.replace(b"us@postroom.test", b"us@second.test")
    assert (await submission.submit(held, mail, "you@example.com", mail_from="ceo@bank.test"))[0] == 250


@pytest.mark.parametrize(
    "from_",
    [
        b"From: us@postroom.test\r\nFrom: <admin@bank.test>\r\n",
        b"From: <us@postroom.test>, <admin@bank.test>\r\n",
        b"From: <admin@bank.test>\r\n",
    ],
    ids=["two From", "two addresses", "another's"],
)
async def test_b6_espoofer_an_account_speaks_for_nobody_else(
    submission: Submitting,
    admin: asyncpg.Connection,
    token: str,
    make_org: MakeOrg,
    make_domain: MakeDomain,
    from_: bytes,
) -> None:
    """Its three cases of a client; nineteen of a server: test_espoofer.py."""
    await make_domain(await make_org(), "bank.test")
    mail = from_ + b"To: you@example.com\r\nSubject: s\r\n\r\nx\r\n"
    code, _ = await submission.submit(token, mail, "you@example.com", mail_from="us@postroom.test")
    assert code == 550
    assert await stored(admin) == []


async def test_the_sandbox_is_a_sender_to_members_only(
    submission: Submitting, token: str, admin: asyncpg.Connection, make_org: MakeOrg, make_domain: MakeDomain
) -> None:
    """Sender names who sent it (RFC 5322 §3.6.2): the sandbox's owner vouches for mail to an organization's own people."""
    await make_domain(await make_org(), "sandbox.test")
    submits = submission.listener.submits
    submits._sandbox = Sandbox(submits._store, "sandbox.test")
    code, text = await submission.submit(token, b"Sender: x@sandbox.test\r\n" + MAIL, "you@example.com")
    assert (code, text[:5]) == (550, "5.7.1"), text
    assert await stored(admin) == []


REFUSED: list[tuple[bytes, int, str]] = [
    (b"Subject: no sender\r\n\r\nx\r\n", 550, "5.6.0"),
    (b"From: a@postroom.test\r\n" + MAIL, 550, "5.6.0"),
    (b"no header\r\n" + MAIL, 550, "5.6.0"),
    (HEAD + b"\r\nbare\nline\r\n", 550, "5.6.11"),
    (HEAD + b"Resend-Tags: sp ace=x\r\n\r\nx\r\n", 550, "5.6.0"),
    (HEAD + b"Resend-Scheduled-At: 2099-01-01T00:00:00Z\r\n\r\nx\r\n", 550, "5.6.0"),
    (HEAD + b"Resend-Track-Opens: perhaps\r\n\r\nx\r\n", 550, "5.6.0"),
    (HEAD + b"Resend-Idempotency-Key:\r\n\r\nx\r\n", 550, "5.6.0"),
    (b"Received: x\r\n" * 50 + MAIL, 554, "5.4.6"),
    (
        b"From: us@postroom.test\r\nContent-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\n\xfc\r\n--x--\r\n",
        *(554, "5.6.3"),
    ),
]


async def test_messages_that_are_refused(submission: Submitting, admin: asyncpg.Connection, token: str) -> None:
    for mail, code, enhanced in REFUSED:
        got, text = await submission.submit(token, mail, "you@example.com")
        assert (got, text.split()[0]) == (code, enhanced), text
    assert await stored(admin) == []


RECIPIENTS = [
    ("RCPT TO:<you>", 553, "5.1.3"),
    ("RCPT TO:<>", 553, "5.1.3"),
    ("RCPT TO:you@example.com", 501, "5.5.4"),
    ("RCPT TO:<jürgen@example.com>", 553, "5.6.7"),
    ("RCPT TO:<you@[127.0.0.1]>", 553, "5.1.3"),
    ("RCPT TO:<@a.test:you@example.com>", 553, "5.1.3"),
    ("RCPT TO:<you@example.com> NOTIFY=NEVER,FAILURE", 501, "5.5.4"),
    ("RCPT TO:<you@example.com> NOTIFY=NEVER NOTIFY=DELAY", 501, "5.5.4"),
    ("RCPT TO:<you@example.com> ORCPT=you@example.com", 501, "5.5.4"),
    ("RCPT TO:<you@example.com> HOLDFOR=60", 555, "5.5.4"),
]


async def test_envelopes_that_are_refused(submission: Submitting, token: str) -> None:
    async with submission.client(token=token) as client:
        assert (await client.ask("MAIL FROM:<> SIZE=10 BODY=8BITMIME AUTH=<>"))[0] == 250
        for line, code, enhanced in RECIPIENTS:
            got, text = await client.ask(line)
            assert (got, text.split()[0]) == (code, enhanced), line
        assert (await client.ask("DATA"))[0] == 554
        await client.ask("RSET")
        assert (await client.ask("MAIL FROM:<a@b.test> SMTPUTF8"))[0] == 555
        assert (await client.ask("MAIL FROM:<a@b.test> RET=SOME"))[0] == 501
        assert (await client.ask("MAIL FROM:<a@b.test> ENVID=a=b"))[0] == 501
        assert (await client.ask("MAIL FROM:<a@b.test> REQUIRETLS=YES"))[0] == 501
        assert (await client.ask("MAIL FROM:<a@b.test> SIZE=999999999"))[0] == 552


async def test_our_own_fields_are_taken_and_removed(
    submission: Submitting, admin: asyncpg.Connection, token: str
) -> None:
    fields = (
        b"Resend-Tags: campaign=spring, tier=\r\nResend-Track-Opens: no\r\nResend-Track-Clicks: yes\r\n"
        b"Resend-Scheduled-At: in 2 hours\r\nResend-Unknown: x\r\n"
    )
    assert (await submission.submit(token, fields + MAIL, "you@example.com"))[0] == 250
    [email] = await stored(admin)
    assert email["tags"] == [{"name": "campaign", "value": "spring"}, {"name": "tier", "value": ""}]
    assert (email["track_opens"], email["track_clicks"]) == (False, True)
    assert email["scheduled_at"] is not None
    assert b"esend-" not in email["raw"]


async def test_an_idempotency_key_sends_once(submission: Submitting, admin: asyncpg.Connection, token: str) -> None:
    mail = b"Resend-Idempotency-Key: order-1\r\n" + MAIL
    first = await submission.submit(token, mail, "you@example.com")
    assert first[0] == 250
    again = mail.replace(b"10:00:00", b"10:00:09").replace(b"<1@", b"<2@")  # as a library puts it together once more
    assert await submission.submit(token, again, "you@example.com") == first
    for other, to in ((mail.replace(b"hello", b"hullo"), "you@example.com"), (mail, "other@example.com")):
        code, text = await submission.submit(token, other, to)
        assert code == 550
        assert "This idempotency key has been used" in text
    assert len(await stored(admin)) == 1


async def test_a_mail_counts_as_a_request(
    domain: UUID,
    store: Store,
    ringer: Ringer,
    blobs: BlobStore,
    certificates: Path,
    token: str,
    admin: asyncpg.Connection,
) -> None:
    async with submitting(store, ringer, blobs, certificates, rate=2) as running, running.client(token=token) as client:
        codes = []
        for _ in range(40):
            codes.append((await client.ask("MAIL FROM:<us@postroom.test>"))[0])
            await client.ask("RSET")
        assert set(codes) == {250, 451}
        assert codes.count(250) < 20


async def test_quotas_and_suppressions_hold(
    org: UUID,
    domain: UUID,
    store: Store,
    ringer: Ringer,
    blobs: BlobStore,
    certificates: Path,
    token: str,
    admin: asyncpg.Connection,
) -> None:
    async with store.tenant(org) as db:
        await suppressions.add(db, [NewSuppression(org, "gone@example.com", "manual")])
    async with submitting(store, ringer, blobs, certificates, daily=2) as running:
        assert (await running.submit(token, MAIL, "you@example.com", "gone@example.com"))[0] == 250
        code, text = await running.submit(token, MAIL, "you@example.com")
        assert (code, text[:5]) == (450, "4.7.1")
    states = {row["recipient"]: row["state"] for row in await admin.fetch("SELECT recipient, state FROM deliveries")}
    assert states == {"you@example.com": "queued", "gone@example.com": "suppressed"}


# ---- what the sender wants to be told (RFC 3461) ---------------------------------------------------------------------


async def _told(
    submission: Submitting, admin: asyncpg.Connection, token: str, *lines: str, message: bytes = MAIL
) -> Any:
    async with submission.client(token=token) as client:
        for line in lines:
            assert (await client.ask(line))[0] == 250, line
        assert (await client.ask("DATA"))[0] == 354
        client.send(message + b".\r\n")
        assert (await client.reply())[0] == 250
    return (await stored(admin))[-1]["dsn"]


async def test_what_was_asked_for_is_kept(submission: Submitting, admin: asyncpg.Connection, token: str) -> None:
    assert await _told(submission, admin, token, "MAIL FROM:<me@elsewhere.test>", "RCPT TO:<you@example.com>") == {
        "from": "me@elsewhere.test"
    }
    told = await _told(
        submission,
        admin,
        token,
        "MAIL FROM:<me@elsewhere.test> RET=FULL ENVID=QQ+2B314",
        "RCPT TO:<a@example.com> NOTIFY=success,DELAY ORCPT=rfc822;a+2Btag@example.com",
        "RCPT TO:<b@example.com>",
        "RCPT TO:<c@example.com> NOTIFY=NEVER",
        "RCPT TO:<A@example.com> NOTIFY=FAILURE",
    )
    assert told == {
        "from": "me@elsewhere.test",
        "ret": "FULL",
        "envid": "QQ+314",
        "notify": ["DELAY,FAILURE,SUCCESS", None, "NEVER"],
        "orcpt": ["rfc822;a+tag@example.com", None, None],
    }
    assert await _told(submission, admin, token, "MAIL FROM:<>", "RCPT TO:<you@example.com>") == {"from": ""}


@pytest.mark.parametrize("strict", [True, False])
async def test_requiretls_is_kept_with_the_mail(
    submission: Submitting, admin: asyncpg.Connection, token: str, strict: bool
) -> None:
    mail = "MAIL FROM:<me@elsewhere.test> SIZE=100" + (" REQUIRETLS" if strict else "")
    await _told(submission, admin, token, mail, "RCPT TO:<you@example.com>")
    assert [email["requiretls"] for email in await stored(admin)] == [True if strict else None]


@pytest.mark.parametrize("field", [b"Auto-Submitted: auto-replied", b"Precedence: bulk", b"List-Id: <l.postroom.test>"])
async def test_a14_of_automatic_mail_nobody_is_told_unless_it_was_asked(
    submission: Submitting, admin: asyncpg.Connection, token: str, field: bytes
) -> None:
    opening, recipient = "MAIL FROM:<me@elsewhere.test>", "RCPT TO:<you@example.com>"
    automatic = field + b"\r\n" + MAIL
    told = await _told(submission, admin, token, opening, recipient, message=automatic)
    assert told["notify"] == ["NEVER"]
    told = await _told(submission, admin, token, opening, f"{recipient} NOTIFY=FAILURE", message=automatic)
    assert told["notify"] == ["FAILURE"]


# ---- one end of data ------------------------------------------------------------------------------------------------

SEQUENCES: dict[str, list[dict[str, str]]] = (
    json.loads((suites.suite("smtp-smuggling") / "eod_sequences.json").read_text())
    if suites.available("smtp-smuggling")
    else {}
)
SMUGGLED = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<v@example.com>\r\nDATA\r\n" + HEAD + b"\r\nsmuggled\r\n.\r\n"


async def test_a1_only_crlf_dot_crlf_ends_a_message(
    submission: Submitting, admin: asyncpg.Connection, token: str
) -> None:
    suites.suite("smtp-smuggling")
    assert len(SEQUENCES["must_not_end_data"]) == 14
    for each in SEQUENCES["must_not_end_data"]:
        async with submission.client(token=token) as client:
            for line in ("MAIL FROM:<us@postroom.test>", "RCPT TO:<you@example.com>", "DATA"):
                await client.ask(line)
            client.send(HEAD + b"\r\nbody" + bytes.fromhex(each["hex"]) + SMUGGLED)
            code, text = await client.reply()
            assert (await client.ask("NOOP"))[0] == 250, each  # one reply and no more
        found = await stored(admin)
        if code == 250:
            assert set(await recipients(admin)) == {"you@example.com"}, each
            raw = found[-1]["raw"]
            assert raw.count(b"\r") == raw.count(b"\n") == raw.count(b"\r\n")
        else:
            assert (code, text[:6]) == (550, "5.6.11"), each
    assert b"smuggled" in b"".join(email["raw"] for email in await stored(admin))  # and some were taken whole
