"""Reports about what we sent that come to ordinary addresses: each to its table, each once, believed where there is reason to."""

from __future__ import annotations

import gzip
import io
import resource
import time
import zipfile
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from uuid import UUID

import asyncpg
import pytest

from mailcore.blob.memory import MemoryBlobs
from mailcore.dns.resolver import StaticResolver
from mailcore.dsn import dmarc_report
from mailcore.dsn.verp import Verp
from mailcore.flow import dmarc_reports
from mailcore.flow.dmarc_reports import MAX_UNPROVEN_A_DAY, Letter
from mailcore.flow.submit import NewEmail, Submits
from mailcore.flow.upkeep import forget
from mailcore.kit.errors import Exceeded
from mailcore.kit.ids import lower_bound, uuid7
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.store.session import Store

from .arriving import Desk, desk, told

MX = "198.51.100.7"
"""Where our mail went."""
ZONES = {
    "example.com": {"TXT": ["v=spf1 ip4:198.51.100.50 -all"]},
    "mx.example.com": {"TXT": ["v=spf1 ip4:198.51.100.50 -all"]},
    "evil.example": {"TXT": ["v=spf1 +all"]},
    "big.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "_dmarc.big.example": {"TXT": ["v=DMARC1; p=reject"]},
}


@pytest.fixture
def verp(keyring: Keyring) -> Verp:
    return Verp(keyring.derive("verp"))


@pytest.fixture
async def door(admin: asyncpg.Connection, org: UUID, domain: UUID, store: Store, ringer: Ringer, verp: Verp) -> Desk:
    return await desk(admin, org, store, ringer, MemoryBlobs(), StaticResolver(ZONES), verp)


# ---- DMARC reports ---------------------------------------------------------------------------------------------------

XML = (
    "<feedback><report_metadata><org_name>Big</org_name><email>d@big.example</email><report_id>7</report_id>"
    "<date_range><begin>1790000000</begin><end>1790086399</end></date_range></report_metadata>"
    "<policy_published><domain>postroom.test</domain><p>none</p></policy_published>"
    "<record><row><source_ip>203.0.113.9</source_ip><count>12</count><policy_evaluated><disposition>none</disposition>"
    "<dkim>fail</dkim><spf>fail</spf></policy_evaluated></row><identifiers><header_from>postroom.test</header_from>"
    "</identifiers></record></feedback>"
)


def letter(xml: str = XML, name: str = "big.example!postroom.test!1790000000!1790086399.xml.gz") -> bytes:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "d@big.example", "dmarc@postroom.test", "Report Domain: postroom.test"
    mail.set_content("A report.")
    mail.add_attachment(gzip.compress(xml.encode()), "application", "gzip", filename=name)
    return mail.as_bytes().replace(b"\n", b"\r\n")


async def test_a_dmarc_report_is_stored_once(door: Desk, domain: UUID) -> None:
    row = await door.arrive(letter(), "dmarc@postroom.test", mail_from="d@big.example")
    assert told(row, "report") == ["DMARC report stored"]
    stored = await door.admin.fetchrow("SELECT * FROM dmarc_reports")
    assert (stored["domain_id"], stored["arrival_id"], stored["source"], stored["proven"]) == (
        *(domain, row["id"], "d@big.example", "big.example"),
    )
    assert (stored["organization"], stored["report_id"], stored["messages"], stored["passed"]) == ("Big", "7", 12, 0)
    (kept,) = await door.admin.fetch("SELECT * FROM dmarc_rows")
    assert (str(kept["source_ip"]), kept["messages"], kept["dkim"], kept["spf"]) == ("203.0.113.9", 12, False, False)
    # it comes again, in another mail
    again = await door.arrive(letter(name="big.example!postroom.test!1!2.xml.gz"), "dmarc@postroom.test")
    assert "here already" in next(each["reason"] for each in again["decisions"] if each["step"] == "report")
    assert await door.admin.fetchval("SELECT count(*) FROM dmarc_rows") == 1
    assert again["state"] == "routed", "and it is mail"


def _zip(*files: tuple[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return packed.getvalue()


def _nested(depth: int) -> bytes:
    """As 42.zip: zips of zips, and at the bottom much of nothing."""
    octets = _zip(("r.xml", b" " * 20_000_000))
    for n in range(depth):
        octets = _zip(*((f"{n}-{m}.zip", octets) for m in range(8)))
    return octets


def _overlapping(files: int) -> bytes:
    """Every entry of the directory names the same octets (Fifield 2019)."""
    one = bytearray(_zip(("r.xml", b" " * 10_000_000)))
    end = one.rfind(b"PK\x05\x06")
    begin = int.from_bytes(one[end + 16 : end + 20], "little")
    entry, tail = bytes(one[begin:end]), one[end:]
    tail[8:10] = tail[10:12] = files.to_bytes(2, "little")
    tail[12:16] = (len(entry) * files).to_bytes(4, "little")
    return bytes(one[:begin]) + entry * files + bytes(tail)


def _zeros(megabytes: int) -> bytes:
    pack, million = zlib.compressobj(9, wbits=31), b"\0" * 1_000_000
    first, block = (pack.compress(million) + pack.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + block * (megabytes - 1)


BOMBS = {
    "a gigabyte of nothing": lambda: _zeros(1_000),
    "ten gigabytes": lambda: _zeros(10_000),
    "five deep": lambda: _nested(5),
    "files that overlap": lambda: _overlapping(40),
    "very many files": lambda: _overlapping(60_000),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize(
    ("kind", "name"), [("dmarc", "a!postroom.test!1!2.zip"), ("tls", "a!postroom.test!1!2!x.json.gz")]
)
async def test_c5_a_report_that_is_a_bomb_is_mail_and_nothing_else(door: Desk, bomb: str, kind: str, name: str) -> None:
    octets = BOMBS[bomb]()
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "d@big.example", f"{kind}@postroom.test", "Report Domain: postroom.test"
    mail.set_content("A report.")
    subtype = "tlsrpt+gzip" if kind == "tls" else "zip"
    mail.add_attachment(octets, "application", subtype, filename=name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row = await door.arrive(mail.as_bytes(policy=SMTP), f"{kind}@postroom.test", mail_from="d@big.example")
    assert row["state"] == "routed"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024, "KiB"
    assert [each for each in told(row, "report") if "stored" in each] == []
    assert await door.admin.fetchval("SELECT count(*) FROM messages") == 1, "somebody may look at it"


async def test_of_a_stranger_and_of_no_domain_of_ours(door: Desk) -> None:
    await door.arrive(letter(), mail_from="x@evil.example")
    assert await door.admin.fetchval("SELECT proven IS NULL FROM dmarc_reports")
    row = await door.arrive(letter(XML.replace("postroom.test", "other.test")))
    assert told(row, "report") == ["DMARC report refused"]
    row = await door.arrive(letter("unused"))
    assert told(row, "report") == ["no DMARC report"]
    assert await door.admin.fetchval("SELECT count(*) FROM dmarc_reports") == 1


@pytest.mark.parametrize(
    ("policy_of", "header_from", "about"),
    [
        ("mail.postroom.test", "mail.postroom.test", "postroom.test"),
        ("news.own.test", "news.own.test", "news.own.test"),
        ("own.test", "a.news.own.test", "news.own.test"),
        ("own.test", "other.own.test", None),
    ],
)
async def test_which_domain_it_is_about(
    door: Desk,
    org: UUID,
    make_domain: Callable[[UUID, str], Awaitable[UUID]],
    policy_of: str,
    header_from: str,
    about: str | None,
) -> None:
    await make_domain(org, "news.own.test")
    xml = XML.replace("<domain>postroom.test", f"<domain>{policy_of}").replace(
        "<header_from>postroom.test", f"<header_from>{header_from}"
    )
    await door.arrive(letter(xml))
    found = await door.admin.fetchval("SELECT d.name FROM dmarc_reports r JOIN domains d ON d.id = r.domain_id")
    assert found == about


async def test_strangers_do_not_fill_the_table(door: Desk, org: UUID, domain: UUID) -> None:
    stranger = Letter(org, None, "x@evil.example", None)
    report = dmarc_report.read(XML.encode())
    await door.admin.executemany(
        "INSERT INTO dmarc_reports (id, org_id, domain_id, source, organization, contact, report_id, begins_at, ends_at, "
        "messages, passed, quarantined, rejected, policy) "
        "VALUES ($1, $2, $3, '', 'x', '', $4, now(), now(), 0, 0, 0, 0, '{}')",
        [(uuid7(), org, domain, str(n)) for n in range(MAX_UNPROVEN_A_DAY)],
    )
    with pytest.raises(Exceeded):
        await dmarc_reports.receive(door.store, stranger, report)
    name, id_ = await dmarc_reports.receive(door.store, Letter(org, None, "", "big.example"), report)
    assert (name, id_ is None) == ("postroom.test", False)


async def test_old_reports_go(door: Desk) -> None:
    await door.arrive(letter())
    await door.admin.execute("UPDATE dmarc_reports SET ends_at = now() - interval '399 days'")
    await forget(door.store)
    assert await door.admin.fetchval("SELECT count(*) FROM dmarc_reports") == 1
    await door.admin.execute("UPDATE dmarc_reports SET ends_at = now() - interval '401 days'")
    await forget(door.store)
    assert await door.admin.fetchval("SELECT count(*) FROM dmarc_rows") == 0


# ---- delivery reports and complaints ---------------------------------------------------------------------------------


def dsn(message_id: str, *recipients: str, action: str = "failed") -> bytes:
    told_of = "".join(
        f"\r\nFinal-Recipient: rfc822; {each}\r\nAction: {action}\r\nStatus: 5.1.1\r\n"
        "Diagnostic-Code: smtp; 550 5.1.1 user unknown\r\n"
        for each in recipients
    )
    return (
        "From: MAILER-DAEMON@mx.example.com\r\nSubject: Undelivered\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
        "--b\r\n\r\nSorry.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example.com\r\n"
        f"{told_of}--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: hi\r\nMessage-ID: {message_id}\r\n\r\nhi\r\n--b--\r\n"
    ).encode()


def arf(message_id: str, rcpt_to: str = "", mail_from: str = "") -> bytes:
    fields = "".join(
        f"{name}: <{value}>\r\n"
        for name, value in (("Original-Rcpt-To", rcpt_to), ("Original-Mail-From", mail_from))
        if value
    )
    return (
        "From: fbl@example.com\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n"
        "--b\r\n\r\nSpam!\r\n--b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nVersion: 1\r\n"
        f"{fields}--b\r\nContent-Type: text/rfc822-headers\r\n\r\nMessage-ID: {message_id}\r\n--b--\r\n"
    ).encode()


class Sent:
    def __init__(self, id_: UUID, message_id: str) -> None:
        self.id = id_
        self.message_id = message_id


@pytest.fixture
def send(door: Desk, store: Store, ringer: Ringer, org: UUID) -> Callable[..., Awaitable[Sent]]:
    async def send(*to: str, message_id: str | None = None) -> Sent:
        """Mail whose recipients' host has taken it."""
        submits = Submits(store, ringer, MemoryBlobs())
        email = NewEmail(
            "us@postroom.test", "postroom.test", list(to), [parse_address(each) for each in to], "hi", text="hi"
        )
        if message_id is not None:
            email.message_id = message_id
        done = await submits.submit(org, [email], door="test")
        id_ = UUID(str(done.ids[0]))
        await door.admin.execute("UPDATE deliveries SET state = 'delivered', last_event = 'delivered'")
        await door.admin.execute("DELETE FROM queue")
        await door.admin.execute(
            "INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, site, mx_host, mx_ip, code) "
            "SELECT email_id, n, 1, org_id, now(), 'delivered', 'mx', 'mx.example.com', $2, 250 FROM deliveries "
            "WHERE email_id = $1",
            *(id_, MX),
        )
        return Sent(id_, await door.admin.fetchval("SELECT message_id FROM emails WHERE id = $1", id_))

    return send


async def states(door: Desk) -> dict[str, str]:
    rows = await door.admin.fetch("SELECT recipient, last_event FROM deliveries ORDER BY email_id, n")
    return {row["recipient"]: row["last_event"] for row in rows}


async def counted(door: Desk) -> dict[str, int]:
    rows = await door.admin.fetch("SELECT type, count(*) FROM events WHERE type <> 'email.received' GROUP BY type")
    return {row["type"]: row["count"] for row in rows if row["type"] not in ("email.sent", "email.delivered")}


SendMail = Callable[..., Awaitable[Sent]]


async def test_the_message_id_finds_the_delivery_once(door: Desk, send: SendMail) -> None:
    sent = await send("you@example.com", "me@example.com")
    for n in range(2):
        row = await door.arrive(dsn(sent.message_id, "YOU@example.com"), "us@postroom.test", mail_from="", peer_ip=MX)
        assert told(row, "report") == [["bounced"], ["ignored"]][n]
        await door.admin.execute("DELETE FROM arrival_keys")  # the very same mail, an hour later
    assert await states(door) == {"you@example.com": "bounced", "me@example.com": "delivered"}
    assert await counted(door) == {"email.bounced": 1, "suppression.added": 1}
    assert await door.admin.fetchval("SELECT email FROM suppressions") == "you@example.com"


async def test_one_report_of_several_recipients(door: Desk, send: SendMail) -> None:
    sent = await send("a@example.com", "b@example.com", "c@example.com")
    raw = dsn(sent.message_id, "a@example.com", "c@example.com", "stranger@example.com")
    row = await door.arrive(raw, mail_from="", peer_ip=MX)
    assert told(row, "report") == ["bounced", "bounced"]
    assert await states(door) == {"a@example.com": "bounced", "b@example.com": "delivered", "c@example.com": "bounced"}


async def test_an_alias_of_the_only_recipient(door: Desk, send: SendMail) -> None:
    sent = await send("you@example.com")
    await door.arrive(dsn(sent.message_id, "you@internal.example.com"), mail_from="", peer_ip=MX)
    assert await states(door) == {"you@example.com": "bounced"}


async def test_a_message_id_that_the_sender_chose(door: Desk, send: SendMail) -> None:
    sent = await send("you@example.com", message_id="<chosen@laptop>")
    assert sent.message_id == "<chosen@laptop>"
    await door.arrive(dsn("<chosen@laptop>", "you@example.com"), mail_from="", peer_ip=MX)
    assert await states(door) == {"you@example.com": "bounced"}
    async with door.admin.transaction():
        await door.admin.execute("SET LOCAL enable_seqscan = off")  # a few rows are read faster than an index
        plan = await door.admin.fetch(
            "EXPLAIN SELECT id FROM emails WHERE message_id = 'x' AND left(message_id, 38) <> '<' || id::text || '@'"
        )
    assert "Index Cond: (message_id = 'x'::text)" in "\n".join(row[0] for row in plan)


async def test_a17_a_forged_report_changes_nothing(door: Desk, send: SendMail) -> None:
    """Who knows the Message-ID, as every reader of a list does, and is not where the mail went."""
    sent = await send("you@example.com")
    for raw, more in (
        (dsn(sent.message_id, "you@example.com"), {"peer_ip": "203.0.113.9", "mail_from": ""}),
        (dsn(sent.message_id, "you@example.com"), {"peer_ip": "203.0.113.9", "mail_from": "x@evil.example"}),
        (arf(sent.message_id, "you@example.com"), {"peer_ip": "203.0.113.9", "mail_from": "x@evil.example"}),
    ):
        row = await door.arrive(raw, **more)
        assert told(row, "report") == ["noted"]
    for message_id in ("<made-up@postroom.test>", f"<{sent.id}@evil.example>", "", "<" + "x" * 5_000 + ">"):
        row = await door.arrive(dsn(message_id, "you@example.com"), mail_from="", peer_ip=MX)
        assert told(row, "report") == ["ignored"]
    row = await door.arrive(dsn(sent.message_id, "me@example.com", action="delayed"), mail_from="", peer_ip=MX)
    assert told(row, "report") == ["ignored"]
    assert await states(door) == {"you@example.com": "delivered"}
    assert await counted(door) == {}
    assert await door.admin.fetchval("SELECT count(*) FROM suppressions") == 0


async def test_who_is_proven_to_belong_there_is_believed(door: Desk, send: SendMail) -> None:
    sent = await send("you@example.com")
    row = await door.arrive(
        dsn(sent.message_id, "you@example.com"), mail_from="", peer_ip="198.51.100.50", helo="mx.example.com"
    )
    assert row["auth"]["spf"]["result"] == "pass"
    assert await states(door) == {"you@example.com": "bounced"}


async def test_another_organization_learns_nothing(
    door: Desk, send: SendMail, make_org: Callable[[], Awaitable[UUID]]
) -> None:
    sent = await send("you@example.com")
    door.org_id = await make_org()
    row = await door.arrive(dsn(sent.message_id, "you@example.com"), mail_from="", peer_ip=MX)
    assert told(row, "report") == ["ignored"]
    assert await states(door) == {"you@example.com": "delivered"}


async def test_a_complaint_counts_once(door: Desk, send: SendMail, verp: Verp) -> None:
    sent = await send("you@example.com", "me@example.com")
    path = f"{verp.local_part(sent.id, 1)}@send.postroom.test"
    for raw in (
        *(arf(sent.message_id, "you@example.com"), arf(sent.message_id, "you@example.com") + b"x\r\n"),
        arf("<unknown@x>", mail_from=path),
    ):
        row = await door.arrive(raw, "complaints@postroom.test", mail_from="fbl@example.com", peer_ip=MX)
        assert told(row, "report") == ["complained"]
    assert await states(door) == {"you@example.com": "complained", "me@example.com": "complained"}
    assert await counted(door) == {"email.complained": 2, "suppression.added": 2}
    # of two recipients, which one is not said
    row = await door.arrive(arf(sent.message_id), mail_from="fbl@example.com", peer_ip=MX)
    assert told(row, "report") == ["ignored"]


async def test_a_complaint_may_come_late_and_a_bounce_may_not(door: Desk, send: SendMail, keyring: Keyring) -> None:
    """By the return path and by the Message-ID: loops report what somebody found in his mailbox weeks later."""
    weeks = 20 * 86_400
    then = Verp(keyring.derive("verp"), clock=lambda: time.time() - weeks)
    by_path, by_id = await send("you@example.com"), await send("me@example.com", message_id="<chosen@laptop>")
    old = lower_bound(datetime.now(UTC) - timedelta(seconds=weeks))
    for table, column in (("emails", "id"), ("deliveries", "email_id"), ("attempts", "email_id")):
        await door.admin.execute(f"UPDATE {table} SET {column} = $1 WHERE {column} = $2", old, by_id.id)
    path = f"{then.local_part(by_path.id, 0)}@send.postroom.test"
    row = await door.arrive(dsn("<chosen@laptop>", "me@example.com"), mail_from="", peer_ip=MX)
    assert told(row, "report") == ["ignored"]
    for raw in (arf("<unknown@x>", mail_from=path), arf("<chosen@laptop>", "me@example.com")):
        row = await door.arrive(raw, "complaints@postroom.test", mail_from="fbl@example.com", peer_ip=MX)
        assert told(row, "report") == ["complained"]
    assert await states(door) == {"you@example.com": "complained", "me@example.com": "complained"}
    assert await counted(door) == {"email.complained": 2, "suppression.added": 2}


async def test_ordinary_mail_is_no_report(door: Desk) -> None:
    for mail_from in ("", "x@sender.example"):
        row = await door.arrive(b"From: <a@sender.example>\r\nSubject: Re: hi\r\n\r\nthanks\r\n", mail_from=mail_from)
        assert told(row, "report") == []
