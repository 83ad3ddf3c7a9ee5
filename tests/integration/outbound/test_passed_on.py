"""Mail of others that goes on: forwards as they came and sealed, relays to another server by SMTP and LMTP, loops that end."""

from __future__ import annotations

import asyncio
import imaplib
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.dovecot import PASSWORD, Dovecot
from fakes.smtp_server import Caught, SmtpServer, Step
from integration.flow.arriving import Desk, desk
from integration.outbound.harness import Tenant, until
from mailcore.blob.local import LocalBlobs
from mailcore.dns.resolver import StaticResolver
from mailcore.flow import ways as kinds
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.mailauth.arc.validate import validate
from mailcore.mailauth.dkim.keys import SigningKey, generate_rsa
from mailcore.mailauth.dkim.sign import sign
from mailcore.mailauth.dkim.verify import Status, verify
from mailcore.queue.bell import Ringer
from mailcore.store import routes, sites, ways
from mailcore.store.session import Store

Run = Callable[..., AbstractAsyncContextManager[Any]]
HEAD = b"From: Ann <ann@sender.example>\r\nTo: support@postroom.test\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
USED = "SELECT (SELECT coalesce(sum(sent), 0) FROM usage) + (SELECT coalesce(sum(sent), 0) FROM usage_deltas)"
BODY = "Grüße, 8 Bit.\r\n.a dot\r\n".encode()


@pytest.fixture(scope="module")
def signer() -> tuple[SigningKey, str]:
    private, public = generate_rsa()
    return SigningKey.load("s1", "sender.example", private), public


@pytest.fixture
async def resolver(signer: tuple[SigningKey, str], tenant: Tenant) -> StaticResolver:
    ours = await tenant.admin.fetch("SELECT selector, public_txt FROM dkim_keys")
    zones = {
        "s1._domainkey.sender.example": {"TXT": [signer[1]]},
        "sender.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
        **{f"{key['selector']}._domainkey.postroom.test": {"TXT": [key["public_txt"]]} for key in ours},
    }
    return StaticResolver(zones)


@pytest.fixture
async def door(tenant: Tenant, store: Store, ringer: Ringer, tmp_path: Path, resolver: StaticResolver) -> Desk:
    blobs = LocalBlobs(tmp_path / "blobs")
    return await desk(tenant.admin, tenant.org_id, store, ringer, blobs, resolver, patience=60.0)


def signed(signer: tuple[SigningKey, str], head: bytes = HEAD, body: bytes = BODY) -> bytes:
    head += b"Message-ID: <%b@sender.example>\r\nDate: Sat, 21 Nov 2026 09:00:00 +0000\r\n" % uuid7().hex.encode()
    return sign(head, body, (signer[0],), now=int(time.time())) + head + b"\r\n" + body


async def table(
    admin: asyncpg.Connection, org: UUID, *actions: dict[str, Any], match: dict[str, Any] | None = None
) -> None:
    await admin.execute(
        "INSERT INTO routes (id, org_id, position, name, match, actions) "
        "VALUES ($1, $2, (SELECT count(*) + 1 FROM routes WHERE org_id = $2), 'r', $3, $4)",
        *(uuid7(), org, match or {}, list(actions)),
    )


async def relay(door: Desk, store: Store, keyring: Keyring, kind: str, **settings: Any) -> UUID:
    """A way, and a route that relays everything by it."""
    account = kinds.check(kind, {"host": "127.0.0.1", **settings})
    shown, secrets = kinds.parted(account)
    way_id = uuid7()
    async with store.worker() as db:
        site = await sites.ensure(db, f"{kind}:{way_id}", 5)
        await ways.add(
            db,
            way_id=way_id,
            org_id=door.org_id,
            name=kind,
            kind=kind,
            settings=shown,
            secrets_sealed=kinds.seal(keyring, secrets),
            reports=False,
            site_id=site.id,
        )
        await routes.ensure_lanes(db, door.org_id, [way_id])
    # an operator's may be anywhere; a tenant's only on the ports of its kind
    await door.admin.execute("UPDATE ways SET org_id = NULL WHERE id = $1", way_id)
    await table(door.admin, door.org_id, {"type": "relay", "way_id": str(way_id)})
    return way_id


async def caught(sink: SmtpServer, count: int = 1) -> list[Caught]:
    async def there() -> bool:
        return len(sink.caught) >= count

    await until(there, f"{count} mails at the sink")
    await asyncio.sleep(0.1)
    return sink.caught


def parts(raw: bytes) -> tuple[bytes, bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return head + b"\r\n", body


async def test_a_forward_is_the_mail_as_it_came_under_a_seal_and_our_return_path(
    door: Desk,
    tenant: Tenant,
    outbound: Run,
    sink: SmtpServer,
    resolver: StaticResolver,
    signer: tuple[SigningKey, str],
) -> None:
    await table(
        door.admin, door.org_id, {"type": "forward", "to": ["boss@elsewhere.example", "aide@elsewhere.example"]}
    )
    raw = signed(signer)
    row = await door.arrive(raw, "support@postroom.test")
    assert (row["state"], row["auth"]["dkim"][0]["result"]) == ("routed", "pass")
    assert row["decisions"][-2]["decision"] == "forwarded"
    async with outbound(sink, retry_schedule=[30]):
        first, second = await caught(sink, 2)
    assert {mail.rcpt_to[0] for mail in (first, second)} == {"boss@elsewhere.example", "aide@elsewhere.example"}
    assert first.mail_from != second.mail_from and first.mail_from.endswith("@send.postroom.test")
    assert (first.content.endswith(raw), first.content == second.content) == (True, True)
    ours, _ = parts(first.content.removesuffix(raw) + b"\r\n")
    names = [line.partition(b":")[0] for line in ours.split(b"\r\n") if line and line[:1] not in b" \t"]
    assert names == [b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results", b"Received", b"Delivered-To"]
    assert b"i=1; mx.postroom.test;\r\n spf=pass" in ours and b"dkim=pass header.d=sender.example" in ours
    assert b"\tfor <support@postroom.test>;" in ours and b"Delivered-To: support@postroom.test\r\n" in ours
    head, body = parts(first.content)
    chain = await validate(head, body, resolver)
    assert chain.reason == ""
    (again,) = await verify(head, body, resolver, now=int(time.time()))
    assert again.status is Status.PASS, "the author's signature is good behind us"
    # the mailbox has none of it, what leaves is counted, and one finds it by its arrival
    assert await door.admin.fetchval("SELECT count(*) FROM messages") == 0
    assert await door.admin.fetchval(USED) == 2
    assert await door.admin.fetchval("SELECT tags FROM emails") == [{"name": "forward_of", "value": str(row["id"])}]


async def test_two_forwards_make_a_chain_of_two(
    door: Desk, outbound: Run, sink: SmtpServer, resolver: StaticResolver, signer: tuple[SigningKey, str]
) -> None:
    await table(door.admin, door.org_id, {"type": "forward", "to": ["boss@elsewhere.example"]})
    await door.arrive(signed(signer), "a@postroom.test")
    async with outbound(sink, retry_schedule=[30]):
        (once,) = await caught(sink)
        await door.arrive(once.content, "b@postroom.test", mail_from=once.mail_from)
        _, twice = await caught(sink, 2)
    chain = await validate(*parts(twice.content), resolver)
    assert (chain.status, chain.highest) == ("pass", 2)


async def test_a_report_is_forwarded_without_a_return_path(door: Desk, outbound: Run, sink: SmtpServer) -> None:
    await table(door.admin, door.org_id, {"type": "forward", "to": ["boss@elsewhere.example"]})
    await door.arrive(HEAD + b"\r\nundelivered\r\n", "a@postroom.test", mail_from="")
    async with outbound(sink, retry_schedule=[30]):
        (mail,) = await caught(sink)
    assert mail.mail_from == ""


@pytest.mark.parametrize("large", [False, True])
async def test_a_relay_keeps_the_return_path_and_counts_for_nothing(
    large: bool, door: Desk, tenant: Tenant, store: Store, keyring: Keyring, outbound: Run, sink: SmtpServer
) -> None:
    """Though its domain may not send, and its recipient is on the list of those who get no mail."""
    refusal = Step("550 5.1.1 no such user")
    async with SmtpServer({"rcpt": lambda talk: refusal if talk.recipient.startswith("b@") else None}) as inner:
        way = await relay(door, store, keyring, "smarthost", port=inner.port, tls="none")
        await door.admin.execute("UPDATE domains SET status = 'failed', sending = false")
        await door.admin.execute(
            "INSERT INTO suppressions (id, org_id, email, origin) VALUES ($1, $2, 'a@postroom.test', 'bounce')",
            *(uuid7(), door.org_id),
        )
        forged = b"Authentication-Results: mx.postroom.test; dmarc=pass\r\n"
        body = BODY + (b"y" * 70 + b"\r\n") * (2000 if large else 1)
        row = await door.arrive(forged + HEAD + b"\r\n" + body, "a@postroom.test", "b@postroom.test")
        assert [each["decision"] for each in row["decisions"] if each["step"] == "route"] == [
            "relayed",
            "relayed",
            "announced",
        ]
        async with outbound(sink, retry_schedule=[30]):
            (mail,) = await caught(inner)
            by_to = "SELECT to_[1], id FROM emails"
            emails = dict(tuple(each) for each in await door.admin.fetch(by_to))
            await tenant.state(emails["a@postroom.test"], "delivered")
            await tenant.state(emails["b@postroom.test"], "bounced")
        assert (mail.mail_from, mail.rcpt_to) == ("x@sender.example", ["a@postroom.test"])
        assert mail.content.startswith(b"Authentication-Results: mx.postroom.test;\r\n\tspf=pass")
        assert mail.content.endswith(b"\r\n" + HEAD + b"\r\n" + body)
        assert mail.content.count(b"Authentication-Results: mx.postroom.test") == 1
        assert b"DKIM-Signature" not in mail.content
        attempt = (await tenant.attempts(emails["a@postroom.test"]))[0]
        assert attempt["site"] == f"smarthost:{way}"
    assert sink.caught == []
    assert await door.admin.fetchval(USED) == 0
    listed = await door.admin.fetch("SELECT email FROM suppressions")
    assert [row["email"] for row in listed] == ["a@postroom.test"], "a user of ours is never suppressed"


async def test_a_relay_by_lmtp_lands_in_dovecot(
    door: Desk, tenant: Tenant, store: Store, keyring: Keyring, outbound: Run, sink: SmtpServer, dovecot_server: Dovecot, user: str,
    make_domain: Callable[[UUID, str], Awaitable[UUID]],
) -> None:  # fmt: skip
    if not dovecot_server.lmtp:
        pytest.skip("dovecot-lmtpd is not installed: make peers")
    await make_domain(door.org_id, "mail.test")
    await relay(door, store, keyring, "lmtp", port=dovecot_server.lmtp)
    await door.arrive(HEAD + b"\r\n" + BODY, user)
    await door.arrive(HEAD + b"\r\n" + BODY, "nobody-here@mail.test")
    async with outbound(sink, retry_schedule=[30]):
        emails = [row["id"] for row in await door.admin.fetch("SELECT id FROM emails ORDER BY id")]
        await tenant.state(emails[0], "delivered")
        await tenant.state(emails[1], "bounced")
    (attempt,) = await tenant.attempts(emails[0])
    said = [line for _, who, line in attempt["conversation"] if who == "said"]
    assert said[1] == "LHLO outbound.test"
    (refused,) = await tenant.attempts(emails[1])
    assert refused["enhanced_code"] == "5.1.1"
    with imaplib.IMAP4("127.0.0.1", dovecot_server.imap) as client:
        client.login(user, PASSWORD)
        client.select("INBOX", readonly=True)
        _, found = client.fetch("1:*", "(BODY.PEEK[])")
    (octets,) = [part[1] for part in found if isinstance(part, tuple)]
    assert octets.startswith(b"Return-Path: <x@sender.example>\r\n")
    assert octets.endswith(HEAD + b"\r\n" + BODY)


# ---- loops --------------------------------------------------------------------------------------------------------------


async def test_two_organizations_that_forward_to_each_other_stop(
    door: Desk,
    tenant: Tenant,
    store: Store,
    ringer: Ringer,
    outbound: Run,
    sink: SmtpServer,
    resolver: StaticResolver,
    tmp_path: Path,
    make_org: Callable[[], Awaitable[UUID]],
    make_domain: Callable[[UUID, str], Awaitable[UUID]],
) -> None:
    """What leaves is handed to the other's door, as an MX on loopback would."""
    other = await make_org()
    await make_domain(other, "other.test")
    there = await desk(door.admin, other, store, ringer, LocalBlobs(tmp_path / "blobs"), resolver)
    await table(door.admin, door.org_id, {"type": "forward", "to": ["b@other.test"]})
    await table(door.admin, other, {"type": "forward", "to": ["a@postroom.test"]})
    await door.arrive(HEAD + b"\r\nround\r\n", "a@postroom.test")
    async with outbound(sink, retry_schedule=[30]):
        for count in range(1, 10):
            mail = (await caught(sink, count))[count - 1]
            (to,) = mail.rcpt_to
            next_one = there if to == "b@other.test" else door
            row = await next_one.arrive(mail.content, to, mail_from=mail.mail_from)
            if not any(each["decision"] == "forwarded" for each in row["decisions"]):
                break
    assert len(sink.caught) == 2
    refusal = next(each for each in row["decisions"] if each["decision"] == "not forwarded")
    assert refusal["reason"] == "It has been passed on for a@postroom.test before: that is a loop."
    box = await door.admin.fetchval("SELECT b.address FROM messages m JOIN mailboxes b ON b.id = m.mailbox_id")
    assert box == "a@postroom.test", "it lies where it came back, and is not lost"


async def test_a_mail_that_has_been_everywhere_is_passed_on_no_more(door: Desk) -> None:
    await table(door.admin, door.org_id, {"type": "forward", "to": ["b@elsewhere.example"]})
    for hops, decision in ((49, "forwarded"), (50, "not forwarded")):
        row = await door.arrive(
            b"Received: from x by y; Sat, 21 Nov 2026 09:00:00 +0000\r\n" * hops + HEAD + b"\r\nx\r\n"
        )
        assert decision in [each["decision"] for each in row["decisions"]]


async def test_a_relay_to_ourselves_ends_at_once(
    door: Desk, store: Store, keyring: Keyring, outbound: Run, sink: SmtpServer
) -> None:
    await relay(door, store, keyring, "smarthost", port=sink.port, tls="none")
    await door.arrive(HEAD + b"\r\nround\r\n", "a@postroom.test")
    async with outbound(sink, retry_schedule=[30]):
        (mail,) = await caught(sink)
    row = await door.arrive(mail.content, "a@postroom.test", mail_from=mail.mail_from)
    assert "not relayed" in [each["decision"] for each in row["decisions"]]
    assert await door.admin.fetchval("SELECT count(*) FROM messages") == 1


# ---- what was thought of it --------------------------------------------------------------------------------------------


async def test_b43_spam_is_relayed_with_its_verdict_and_a_tag_in_its_subject(
    door: Desk, store: Store, keyring: Keyring, outbound: Run, sink: SmtpServer
) -> None:
    """Exchange and its like sort by these fields: a sender's own copies of them are gone."""
    trial = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\r\nSubject: in the body\r\n"
    forged = b"X-MS-Exchange-Organization-SCL: -1\r\nX-Spam-Flag:\r\n NO\r\n"
    await door.admin.execute(
        "UPDATE domains SET spam_action = 'tag', subject_tag = '[SPAM]', compatible_headers = true WHERE org_id = $1",
        door.org_id,
    )
    async with SmtpServer() as inner:
        await relay(door, store, keyring, "smarthost", port=inner.port, tls="none")
        raw = forged + HEAD + b"\r\n" + trial
        row = await door.arrive(raw, "a@postroom.test")
        async with outbound(sink, retry_schedule=[30]):
            (mail,) = await caught(inner)
    head, body = parts(mail.content)
    fields = [line.decode() for line in head.splitlines() if line[:2] == b"X-"]
    assert fields == [
        "X-Postroom-Verdict: spam",
        "X-Postroom-Reason: gtube",
        "X-Postroom-Scanners: gtube",
        "X-Mailbridge-Reason: gtube",
        "X-Spam-Flag: YES",
        "X-Spam-Status: Yes",
        "X-MS-Exchange-Organization-SCL: 9",
        "X-Forefront-Antispam-Report: SCL:9;",
        "X-Microsoft-Antispam: BCL:9;PCL:8;SCL:9;",
        "X-MS-Exchange-Organization-BypassSpamFiltering: 0",
    ]
    assert b"\r\nSubject: [SPAM] =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n" in head
    assert body == trial
    assert row["raw"] == raw, "what is kept is as it came"
