"""Hostile mail through the table: rows of the plan of reliability that concern routing, each by its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from inbound_smtp.router import Router
from mailcore.blob.base import BlobStore
from mailcore.flow.announcing import BATCH, Announcing
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Receives
from mailcore.flow.route import Routes
from mailcore.kit.ids import uuid7
from mailcore.mime.marks import MAX_HEADER
from mailcore.queue.bell import Ringer
from mailcore.store.session import Store

from .routes import FACTS, MAIL, Desk

FORWARD = {"type": "forward", "to": ["boss@elsewhere.example"]}


@pytest.fixture
async def desk(
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    store: Store,
    receives: Receives,
    ringer: Ringer,
    blobs: BlobStore,
    lease: WorkerLease,
) -> AsyncIterator[Desk]:
    routes = Routes(store, ringer, blobs)
    yield Desk(admin, org, receives, Router(store, lease, routes, batch=50))
    routes.abandon()


async def head(desk: Desk) -> str:
    """What stands before the newest mail that was passed on."""
    found: str = await desk.admin.fetchval("SELECT passed_on->>'head' FROM emails ORDER BY id DESC LIMIT 1")
    return found


async def test_c1_what_a_peer_says_becomes_no_field_of_ours(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.table({"actions": [FORWARD]})
    for fact, evil in (
        ("helo", "x\r\nBcc: victim@x"),
        ("peer_ip", "1\r\n\r\nbody"),
        ("by", "a;b\r\nX: y"),
        ("protocol", "E\r\nX: y"),
    ):
        monkeypatch.setitem(FACTS, fact, evil)
    await desk.deliver(MAIL, "a+(x)@postroom.test")
    lines = (await head(desk)).split("\r\n")
    assert [line.partition(":")[0] for line in lines if line and line[0] not in " \t"] == ["Received"]
    assert all(line.isascii() and line.isprintable() for line in "".join(lines).split("\t"))


async def test_c2_c3_no_mail_stops_the_router_and_none_is_tried_for_ever(desk: Desk) -> None:
    """Nested, endless, without a header, with none but; and a table that asks for everything of them."""
    everything = {
        "subject": {"regex": "(a*)*b"},
        "from": "*@x",
        "headers": [{"name": "subject", "value": {"regex": "x"}}],
        "attachments": True,
        "automatic": False,
        "size": {"min": 1},
        "auth": {"dkim": ["pass"]},
        "verdict": ["spam"],
        "score": {"min": 1},
    }
    each = [
        {"match": {name: wanted}, "actions": [FORWARD, {"type": "store"}], "stop": False}
        for name, wanted in everything.items()
    ]
    await desk.table(*each)
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(800))
    raws = [
        b"",
        b"\r\n",
        b"no header at all",
        b"\x00\xff\xfe" * 500,
        b"From: " + b"(" * 5_000 + b"\r\n\r\n",
        b"To: " + b"a@b.c, " * 20_000 + b"\r\n\r\n",
        b"Subject: " + b"=?utf-8?q?x?= " * 5_000 + b"\r\n\r\n",
        b"Message-ID: <[\r\n\r\n",
        b"X: y\r\n" * 30_000 + b"\r\n",
        b"From: a\r\n b\r\n\tc\r\n\r\n.\r\n",
        nested,
        b"Content-Type: message/rfc822\r\n\r\n" * 1_000,
    ]
    ids = [await desk.take(raw, "a@postroom.test") for raw in raws]
    await desk.route()
    states = [await desk.state(id_) for id_ in ids]
    assert states == ["routed"] * len(ids)
    assert await desk.admin.fetchval("SELECT count(*) FROM arrival_queue") == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"To: a@b.c\r\nSubject: x\r\n\r\nhello\r\n",
        b"X-From: a@b.c\r\n\r\nFrom: a@b.c\r\n",
        b"no colon here\r\nFrom: a@b.c\r\n\r\nhello\r\n",
        b" a first line that goes on\r\nFrom: a@b.c\r\n\r\n",
        b"",
    ],
    ids=["no From", "only in the body", "no field", "begins in the middle", "nothing"],
)
async def test_c3_what_cannot_be_signed_is_not_forwarded_and_stays(desk: Desk, raw: bytes) -> None:
    await desk.table({"actions": [FORWARD]})
    id_ = await desk.deliver(raw)
    assert await desk.boxes(id_) == ["support@postroom.test"]
    assert "not forwarded" in await desk.told(id_, "route")
    assert await desk.admin.fetchval("SELECT count(*) FROM emails") == 0


async def test_c3_what_is_all_header_is_not_passed_on(desk: Desk) -> None:
    """Each field of it would be an object, for each recipient: 40 MB of them are gigabytes."""
    await desk.table({"actions": [FORWARD]})
    id_ = await desk.deliver(b"From: jane@sender.example\r\n" + b"a:\r\n" * (MAX_HEADER // 4) + b"\r\nhello\r\n")
    assert await desk.boxes(id_) == ["support@postroom.test"]
    assert "not forwarded" in await desk.told(id_, "route")
    assert await desk.admin.fetchval("SELECT count(*) FROM emails") == 0


@pytest.mark.parametrize(
    "charset", ["rot13", "zlib", "undefined", "utf-7", "idna", "unicode_escape", "punycode", "\x00utf-8", "x" * 70]
)
async def test_c4_a_route_reads_a_subject_in_no_alphabet(desk: Desk, charset: str) -> None:
    await desk.table(
        {
            "match": {"subject": "*", "headers": [{"name": "Subject"}]},
            "actions": [{"type": "store", "mailbox": "seen@postroom.test"}],
        }
    )
    subject = f"Subject: =?{charset}?b?+ADw-c2NyaXB0?= =?{charset}?q?=41=zz?=\r\n".encode()
    id_ = await desk.deliver(subject + b"\r\nx\r\n")
    assert await desk.boxes(id_) == ["seen@postroom.test"]


async def test_a14_a_refusal_after_the_reply_writes_to_nobody(desk: Desk) -> None:
    await desk.table({"actions": [{"type": "reject"}]})
    for mail_from in ("jane@sender.example", "", "mailer-daemon@sender.example"):
        assert await desk.state(await desk.deliver(MAIL, mail_from=mail_from)) == "refused"
    assert await desk.admin.fetchval("SELECT (SELECT count(*) FROM emails) + (SELECT count(*) FROM reports_owed)") == 0


async def test_a14_a_bounce_of_a_forward_is_the_end_of_it(desk: Desk) -> None:
    """A report that is forwarded leaves with an empty return path, so that no report about it can come to anybody."""
    await desk.table({"actions": [FORWARD]})
    await desk.deliver(MAIL, mail_from="")
    assert await desk.admin.fetchval("SELECT dsn FROM emails") == {"from": ""}


@pytest.mark.parametrize("verdict", ["spam", "infected", "listed"])
async def test_a15_spam_is_kept_and_not_forwarded(desk: Desk, monkeypatch: pytest.MonkeyPatch, verdict: str) -> None:
    async def scanned(self: Routes, mail: object) -> None:
        mail.verdicts.append(verdict)  # type: ignore[attr-defined]

    monkeypatch.setattr(Routes, "_reports", scanned)  # as a scanner would, among the steps before the table
    await desk.table({"match": {"verdict": [verdict]}, "actions": [FORWARD]})
    id_ = await desk.deliver()
    assert await desk.told(id_, "route") == ["not forwarded", "delivered", "announced"]
    assert await desk.admin.fetchval("SELECT count(*) FROM emails") == 0


async def test_a15_mail_to_guessed_addresses_is_announced_in_batches(desk: Desk) -> None:
    """One a second and domain, BATCH posts each; an address that is there is not put off."""
    await desk.admin.execute(
        "INSERT INTO webhooks (id, org_id, endpoint, events, secret_sealed) VALUES ($1, $2, 'https://x', $3, '')",
        *(uuid7(), desk.org, ["email.received"]),
    )
    # a clock that stands still: how long a test takes decides nothing
    desk.router._routes._announcing = Announcing(clock=lambda: 5.0)
    await desk.deliver(MAIL, "ann@postroom.test")
    taken = [await desk.take(MAIL, f"guess{n}@postroom.test") for n in range(2 * BATCH + 20)]
    known = await desk.take(MAIL, "ann@postroom.test")
    await desk.route()
    rows = await desk.admin.fetch(
        "SELECT e.object_id, q.due_at - a.routed_at AS late FROM webhook_queue q "
        "JOIN events e ON e.id = q.event_id JOIN arrivals a ON a.id = e.object_id"
    )
    late = {row["object_id"]: round(row["late"].total_seconds()) for row in rows}
    assert len(late) == len(taken) + 2, "every arrival is announced"
    assert Counter(late[each] for each in taken) == {0: BATCH - 1, 1: BATCH, 2: 21}, "the first was ann's"
    assert late[known] == 0


async def test_a16_a_tag_belongs_to_its_mailbox(desk: Desk) -> None:
    await desk.table({"match": {"recipient": "user@postroom.test"}, "actions": [{"type": "drop"}]})
    for tag in ("+a", "+", "+a+b"):
        assert await desk.boxes(await desk.deliver(MAIL, f"user{tag}@postroom.test")) == ["user@postroom.test"], tag
    assert await desk.state(await desk.deliver(MAIL, "User@Postroom.test")) == "dropped"
    ids = await desk.admin.fetchval("SELECT count(*) FROM mailboxes")
    assert ids == 1


async def test_c8_names_of_attachments_never_are_part_of_a_link(desk: Desk) -> None:
    from mailcore.blob.memory import MemoryBlobs
    from mailcore.events import ROUTED, Event
    from mailcore.flow.links import Links
    from mailcore.flow.parsed import Parsed

    name = b'../../etc/passwd%00\\\\x\\".htaccess'
    raw = b'Content-Type: text/csv\r\nContent-Disposition: attachment; filename="' + name + b'"\r\n\r\na;b\r\n'
    id_ = await desk.deliver(raw)
    row = dict(await desk.admin.fetchrow("SELECT * FROM arrivals WHERE id = $1", id_))
    row |= {"id": str(id_), "org_id": str(desk.org)}
    event = Event(uuid7(), ROUTED, row["created_at"], ["a@postroom.test"], {})
    told = await Parsed(MemoryBlobs(), Links(b"k", "https://x.test")).payload(event, row, (row["raw"], None))
    (file,) = told["Attachments"]
    path = file["DownloadUrl"].partition("?")[0]
    assert path == f"https://x.test/v1/downloads/received/{desk.org}/{id_}/{file['Id']}"
    assert UUID(file["Id"])
