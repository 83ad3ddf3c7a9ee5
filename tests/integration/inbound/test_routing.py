"""What becomes of mail that has arrived: once, whatever happens, and told why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from uuid import UUID

import asyncpg
import pytest

from inbound_smtp.router import Router
from mailcore.blob.base import INLINE_BYTES, BlobStore
from mailcore.blob.memory import MemoryBlobs
from mailcore.dsn import tls_report
from mailcore.flow import route
from mailcore.flow.in_hand import attachment_id
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Arrival, Received, Receives
from mailcore.flow.route import RETRY_SECONDS, Routes
from mailcore.kit.errors import Unavailable
from mailcore.kit.ids import uuid7, uuid7_time
from mailcore.queue.bell import Ringer
from mailcore.smtp.envelope import Envelope
from mailcore.store import arrivals
from mailcore.store.session import Store

MAIL = (
    b"Received: from a by b for <list@forwarder.example>; Sat, 21 Nov 2026 08:00:00 +0000\r\n"
    b"From: =?utf-8?q?J=C3=BCrgen?= <j@sender.example>\r\n"
    b"To: Support <support@postroom.test>, other@elsewhere.example\r\n"
    b"Cc: c@postroom.test\r\nSubject: =?utf-8?b?SGVsbMO2?=\r\nMessage-ID: <1@sender.example>\r\n"
    b"Date: Sat, 21 Nov 2026 09:00:00 +0100\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\n\r\nHi\r\n--b\r\nContent-Type: image/png; name=a.png\r\nContent-ID: <img>\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\nAAEC\r\n--b--\r\n"
)


@pytest.fixture(autouse=True)
def _much_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put off is not due again while a busy machine looks whether it was."""
    monkeypatch.setattr(route, "RETRY_SECONDS", (600.0,) * len(RETRY_SECONDS))


def arrival(tenants: dict[UUID, list[str]], raw: bytes = MAIL, *, source_id: str | None = None) -> Arrival:
    rcpt_to = tuple(address for addresses in tenants.values() for address in addresses)
    return Arrival(raw, Envelope("j@sender.example", rcpt_to), {}, "192.0.2.7", source_id, "smtp", tenants)


def router_of(store: Store, routes: Routes, lease: WorkerLease, *, batch: int = 50) -> Router:
    return Router(store, lease, routes, batch=batch)


async def test_a_mail_becomes_a_message_an_event_and_a_webhook_delivery(
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    store: Store,
    receives: Receives,
    routes: Routes,
    lease: WorkerLease,
) -> None:
    await admin.execute(
        "INSERT INTO webhooks (id, org_id, endpoint, events, secret_sealed) VALUES ($1, $2, 'https://x', $3, '')",
        *(uuid7(), org, ["email.received"]),
    )
    got = await receives.receive(
        arrival({org: ["support+tag@postroom.test", "Support@postroom.test", "c@postroom.test"]})
    )
    id_ = got.ids[org]
    router = router_of(store, routes, lease)
    while await router.work(None):
        pass
    row = await admin.fetchrow("SELECT * FROM arrivals WHERE id = $1", id_)
    assert row["state"] == "routed"
    assert row["routed_at"] is not None
    summary = row["summary"]
    assert summary["from"] == "j@sender.example"
    assert summary["from_display"] == "Jürgen <j@sender.example>"
    assert summary["to"] == ["support@postroom.test", "other@elsewhere.example"]
    assert summary["cc"] == ["c@postroom.test"]
    assert summary["bcc"] == summary["reply_to"] == []
    assert (summary["subject"], summary["message_id"]) == ("Hellö", "<1@sender.example>")
    assert summary["received_for"][-1] == "list@forwarder.example"
    assert summary["attachments"] == [
        {
            "id": str(attachment_id(id_, 0)),
            "filename": "a.png",
            "content_type": "image/png",
            "content_disposition": "inline",
            "content_id": "img",
            "size": 3,
        }
    ]
    boxes = await admin.fetch("SELECT address, domain_id FROM mailboxes ORDER BY address")
    assert [(box["address"], box["domain_id"]) for box in boxes] == [
        ("c@postroom.test", domain),
        ("support@postroom.test", domain),
    ]
    messages = await admin.fetch("SELECT * FROM messages")
    assert len(messages) == 2
    assert {message["arrival_id"] for message in messages} == {id_}
    assert messages[0]["from_"] == "Jürgen <j@sender.example>"
    assert messages[0]["date"].isoformat() == "2026-11-21T08:00:00+00:00"
    event = await admin.fetchrow("SELECT * FROM events")
    assert (event["type"], event["object_id"], len(event["recipients"])) == ("email.received", id_, 3)
    assert await admin.fetchval("SELECT count(*) FROM webhook_queue") == 1
    assert await admin.fetchval("SELECT count(*) FROM arrival_queue") == 0
    assert [(one["step"], one["decision"]) for one in row["decisions"]] == [
        ("receive", "accepted"),
        ("route", "delivered"),
        ("route", "delivered"),
        ("route", "announced"),
    ]


async def test_routing_twice_makes_nothing_twice(
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    store: Store,
    receives: Receives,
    routes: Routes,
    lease: WorkerLease,
) -> None:
    id_ = (await receives.receive(arrival({org: ["a@postroom.test"]}))).ids[org]
    async with store.worker() as db:
        claimed = await arrivals.claim(db, lease.id, 10)
    assert [one.arrival_id for one in claimed] == [id_]
    assert await routes.route(lease.id, claimed) == 1
    assert await routes.route(lease.id, claimed) == 0  # its lease is over
    # a queue row that came back after the mail was routed: it leaves the queue and nothing else happens
    await admin.execute("INSERT INTO arrival_queue (arrival_id, org_id, due_at) VALUES ($1, $2, now())", id_, org)
    async with store.worker() as db:
        again = await arrivals.claim(db, lease.id, 10)
    assert await routes.route(lease.id, again) == 0
    for table in ("messages", "mailboxes", "events"):
        assert await admin.fetchval(f"SELECT count(*) FROM {table}") == 1, table
    assert await admin.fetchval("SELECT count(*) FROM arrival_queue") == 0


async def test_routers_side_by_side_share_the_work(
    admin: asyncpg.Connection, org: UUID, domain: UUID, store: Store, receives: Receives, routes: Routes
) -> None:
    raws = [MAIL + b"%d\r\n" % n for n in range(60)]
    await asyncio.gather(
        *(receives.receive(arrival({org: [f"box{n % 3}@postroom.test"]}, raw)) for n, raw in enumerate(raws))
    )

    async def one() -> None:
        lease = WorkerLease(store, "inbound_smtp")
        await lease.enrol()
        router = router_of(store, routes, lease, batch=7)
        while await router.work(None):
            pass

    await asyncio.gather(*(one() for _ in range(4)))
    assert await admin.fetchval("SELECT count(*) FROM arrivals WHERE state = 'routed'") == 60
    assert await admin.fetchval("SELECT count(*) FROM mailboxes") == 3
    assert await admin.fetchval("SELECT count(*) FROM messages") == 60
    assert await admin.fetchval("SELECT count(*) FROM events") == 60


async def test_a_dead_routers_mail_is_taken_back_and_one_that_kills_thrice_alone_is_set_aside(
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    store: Store,
    receives: Receives,
    routes: Routes,
    lease: WorkerLease,
) -> None:
    ids = [
        (await receives.receive(arrival({org: ["a@postroom.test"]}, MAIL + b"%d\r\n" % n))).ids[org] for n in range(2)
    ]
    router = router_of(store, routes, lease)

    async def die(claimed: list[UUID], *, crashed: bool) -> None:
        other = WorkerLease(store, "inbound_smtp")
        await other.enrol()
        async with store.worker() as db:
            taken = await arrivals.claim(db, other.id, 10, crashed=crashed)
        assert sorted(one.arrival_id for one in taken) == sorted(claimed)
        await admin.execute("UPDATE workers SET heartbeat_at = now() - interval '1 hour' WHERE id = $1", other.id)

    await die(ids, crashed=False)
    await router._sweep()  # it takes back, and routes nothing yet
    await admin.execute("UPDATE arrival_queue SET due_at = now() + interval '1 day' WHERE arrival_id = $1", ids[1])
    for _ in range(3):
        await die([ids[0]], crashed=True)
        await router._sweep()
    row = await admin.fetchrow("SELECT state, decisions FROM arrivals WHERE id = $1", ids[0])
    assert row["state"] == "quarantined"
    assert row["decisions"][-1]["decision"] == "quarantined"
    await admin.execute("UPDATE arrival_queue SET due_at = now()")
    while await router.work(None):
        pass
    assert await admin.fetchval("SELECT state FROM arrivals WHERE id = $1", ids[1]) == "routed"
    assert await admin.fetchval("SELECT count(*) FROM arrival_queue") == 0


async def test_a_mail_that_cannot_be_routed_holds_up_no_other(
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    store: Store,
    receives: Receives,
    routes: Routes,
    lease: WorkerLease,
    blobs: BlobStore,
) -> None:
    large = (await receives.receive(arrival({org: ["a@postroom.test"]}, MAIL + b"x" * INLINE_BYTES + b"\r\n"))).ids[org]
    small = (await receives.receive(arrival({org: ["b@postroom.test"]}))).ids[org]
    # the database refuses what this one would become
    bad = (await receives.receive(arrival({org: ["c@postroom.test"]}, MAIL + b"bad\r\n"))).ids[org]
    await admin.execute("ALTER TABLE messages ADD CHECK (arrival_id <> '" + str(bad) + "')")
    await blobs.delete(await admin.fetchval("SELECT raw_blob FROM arrivals WHERE id = $1", large))
    router = router_of(store, routes, lease)
    while await router.work(None):
        pass
    states = {row["id"]: row["state"] for row in await admin.fetch("SELECT id, state FROM arrivals")}
    assert states == {large: "received", small: "routed", bad: "received"}
    waiting = await admin.fetch("SELECT arrival_id, worker, due_at > now() AS later FROM arrival_queue")
    assert {(row["arrival_id"], row["worker"], row["later"]) for row in waiting} == {
        (large, None, True),
        (bad, None, True),
    }
    # what cannot be routed for a day is set aside, where it can be seen
    await admin.execute("UPDATE arrival_queue SET due_at = now(), attempt = $1", len(RETRY_SECONDS))
    while await router.work(None):
        pass
    rows = await admin.fetch("SELECT id, decisions FROM arrivals WHERE state = 'quarantined'")
    reasons = {row["id"]: row["decisions"][-1]["reason"] for row in rows}
    assert reasons.keys() == {large, bad}
    assert "no longer where it was kept" in reasons[large]


async def test_a_mail_that_another_holds_now_is_not_set_aside(
    admin: asyncpg.Connection,
    org: UUID,
    store: Store,
    receives: Receives,
    routes: Routes,
    lease: WorkerLease,
    blobs: BlobStore,
) -> None:
    await receives.receive(arrival({org: ["a@postroom.test"]}, MAIL + b"x" * INLINE_BYTES + b"\r\n"))
    await blobs.delete(await admin.fetchval("SELECT raw_blob FROM arrivals"))
    await admin.execute("UPDATE arrival_queue SET attempt = $1", len(RETRY_SECONDS))
    async with store.worker() as db:
        claimed = await arrivals.claim(db, lease.id, 10)
    other = WorkerLease(store, "inbound_smtp")
    await other.enrol()
    await admin.execute("UPDATE arrival_queue SET worker = $1", other.id)
    await routes.route(lease.id, claimed)
    assert await admin.fetchval("SELECT state FROM arrivals") == "received"
    assert await admin.fetchval("SELECT worker FROM arrival_queue") == other.id
    await routes.route(other.id, claimed)
    assert await admin.fetchval("SELECT state FROM arrivals") == "quarantined"
    assert await admin.fetchval("SELECT count(*) FROM arrival_queue") == 0


class Away(MemoryBlobs):
    async def get(self, key: str) -> bytes:
        raise Unavailable("The blob store does not answer just now. Try again in a moment.")


async def test_mail_whose_blob_store_is_away_waits_as_long_as_that_lasts(
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    store: Store,
    receives: Receives,
    routes: Routes,
    ringer: Ringer,
    lease: WorkerLease,
) -> None:
    await receives.receive(arrival({org: ["a@postroom.test"]}, MAIL + b"x" * INLINE_BYTES + b"\r\n"))
    await admin.execute("UPDATE arrival_queue SET attempt = 1000")
    while await router_of(store, Routes(store, ringer, Away()), lease).work(None):
        pass
    assert await admin.fetchval("SELECT state FROM arrivals") == "received"
    assert await admin.fetchval("SELECT worker IS NULL AND due_at > now() FROM arrival_queue")
    await admin.execute("UPDATE arrival_queue SET due_at = now()")
    while await router_of(store, routes, lease).work(None):
        pass
    assert await admin.fetchval("SELECT state FROM arrivals") == "routed"


async def test_what_was_in_hand_when_the_database_went_away_is_routed_at_the_next_round(
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    store: Store,
    receives: Receives,
    lease: WorkerLease,
    ringer: Ringer,
) -> None:
    from mailcore import blob
    from mailcore.kit.errors import Unavailable

    class Away(Routes):
        async def route(self, *_: object) -> int:
            raise Unavailable("away")

    await receives.receive(arrival({org: ["a@postroom.test"]}))
    memory = blob.open("memory://")
    router = router_of(store, Away(store, ringer, memory), lease)
    try:
        await router.work(None)
    except Unavailable:
        pass
    router._routes = Routes(store, ringer, memory)
    while await router.work(None):
        pass
    row = await admin.fetchrow("SELECT state FROM arrivals")
    assert row["state"] == "routed"


# ---- repeats ------------------------------------------------------------------------------------------------------------


async def test_the_same_mail_again_within_an_hour_is_one_arrival_and_says_so(
    admin: asyncpg.Connection, org: UUID, domain: UUID, receives: Receives
) -> None:
    first = await receives.receive(arrival({org: ["a@postroom.test", "b@postroom.test"]}))
    again = await receives.receive(arrival({org: ["b@postroom.test", "a@postroom.test"]}))
    assert again == Received(first.ids, repeat=True)
    others = [
        await receives.receive(arrival({org: ["a@postroom.test"]})),
        await receives.receive(arrival({org: ["a@postroom.test", "b@postroom.test"]}, MAIL + b"x\r\n")),
    ]
    assert not any(other.repeat for other in others)
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 3
    decisions = await admin.fetchval("SELECT decisions FROM arrivals WHERE id = $1", first.ids[org])
    assert [one["decision"] for one in decisions] == ["accepted", "repeat"]
    await admin.execute("UPDATE arrival_keys SET at = at - interval '61 minutes'")
    later = await receives.receive(arrival({org: ["a@postroom.test", "b@postroom.test"]}))
    assert not later.repeat
    assert later.ids != first.ids


async def test_repeats_side_by_side_are_one_arrival(
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    receives: Receives,
    store: Store,
    ringer: Ringer,
    blobs: BlobStore,
) -> None:
    doors = [receives, Receives(store, ringer, blobs), Receives(store, ringer, blobs)]
    large = MAIL + b"x" * INLINE_BYTES + b"\r\n"
    got = await asyncio.gather(
        *(doors[n % 3].receive(arrival({org: ["a@postroom.test"]}, raw)) for n in range(30) for raw in (MAIL, large))
    )
    assert len({one.ids[org] for one in got}) == 2
    assert sum(not one.repeat for one in got) == 2
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 2
    kept = [row["raw_blob"] for row in await admin.fetch("SELECT raw_blob FROM arrivals WHERE raw_blob IS NOT NULL")]
    from datetime import UTC, datetime, timedelta

    assert [key async for key in blobs.keys(older_than=datetime.now(UTC) + timedelta(hours=1))] == kept


class Together(MemoryBlobs):
    """Keeps nothing before so many are being written at once; refuses those of `refused`."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.wanted, self.now, self.most = wanted, 0, 0
        self.refused: UUID | None = None
        self.all_here = asyncio.Event()

    async def put(self, key: str, content: bytes) -> None:
        if self.refused is not None and key.startswith(str(self.refused)):
            raise Unavailable("The blob store does not answer just now. Try again in a moment.")
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == self.wanted:
            self.all_here.set()
        try:
            await self.all_here.wait()
            await asyncio.sleep(0)
            await super().put(key, content)
        finally:
            self.now -= 1


async def test_the_blobs_of_many_organizations_are_written_side_by_side(
    admin: asyncpg.Connection, make_org: Callable[[], Awaitable[UUID]], store: Store, ringer: Ringer
) -> None:
    tenants = {await make_org(): ["a@x.test"] for _ in range(20)}
    blobs = Together(8)
    large = MAIL + b"x" * INLINE_BYTES + b"\r\n"
    receives = Receives(store, ringer, blobs)
    async with asyncio.timeout(60):
        got = await receives.receive(arrival(tenants, large))
    assert (got.ids.keys(), blobs.most) == (tenants.keys(), 8)
    rows = await admin.fetch("SELECT org_id, raw_blob FROM arrivals")
    assert {row["org_id"] for row in rows} == tenants.keys()
    for row in rows:
        assert row["raw_blob"].startswith(str(row["org_id"]))
        assert await blobs.get(row["raw_blob"]) == large
    # one that cannot be written: nothing is taken, and the others are not waited for
    blobs = Together(1_000)
    blobs.refused = min(tenants)
    with pytest.raises(Unavailable):
        async with asyncio.timeout(60):
            await Receives(store, ringer, blobs).receive(arrival(tenants, large + b"again\r\n"))
    assert (await admin.fetchval("SELECT count(*) FROM arrivals"), blobs.now) == (20, 0)


async def test_a_source_that_gives_ids_is_known_by_them_for_good(
    admin: asyncpg.Connection, org: UUID, make_org: Callable[[], Awaitable[UUID]], receives: Receives
) -> None:
    first = await receives.receive(arrival({org: ["a@x.test"]}, source_id="evt_1"))
    await admin.execute("UPDATE arrival_keys SET at = at - interval '1 year'")
    again = await receives.receive(arrival({org: ["other@x.test"]}, b"changed\r\n", source_id="evt_1"))
    assert again == Received(first.ids, repeat=True)
    assert not (await receives.receive(arrival({org: ["a@x.test"]}, source_id="evt_2"))).repeat
    assert not (await receives.receive(arrival({await make_org(): ["a@x.test"]}, source_id="evt_1"))).repeat


async def test_who_asks_again_for_what_is_stored_already_finds_it_to_be_his(
    admin: asyncpg.Connection, org: UUID, store: Store, receives: Receives
) -> None:
    """The connection broke after the commit: the same rows are given again, and are no repeats of themselves."""
    id_, key = uuid7(), b"k" * 32
    row = arrivals.NewArrival(
        id_,
        org,
        "smtp",
        "192.0.2.7",
        None,
        "j@sender.example",
        ("a@x.test",),
        {},
        2,
        b"",
        b"x\n",
        None,
        [],
        uuid7_time(id_),
    )._replace(key=key)
    for _ in range(2):
        assert await arrivals.take(store, [row], seconds=3600.0) == {}
        assert [id_] == [each["id"] for each in await admin.fetch("SELECT id FROM arrivals")]
        assert await admin.fetchval("SELECT count(*) FROM arrival_queue") == 1
    assert await arrivals.take(store, [row._replace(id=uuid7())], seconds=3600.0) == {key: id_}


async def test_taking_mail_in_leaves_no_role_behind(org: UUID, store: Store) -> None:
    id_ = uuid7()
    row = arrivals.NewArrival(
        id_, org, "smtp", "192.0.2.7", None, "", ("a@x.test",), {}, 2, b"", b"x\n", None, [], uuid7_time(id_)
    )._replace(key=b"r" * 32)
    assert await arrivals.take(store, [row], seconds=None) == {}
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await store.call("INSERT INTO arrival_queue (arrival_id, org_id, due_at) VALUES ($1, $2, now())", uuid7(), org)


async def test_a_mail_for_an_organization_that_is_gone_is_routed_to_nobody(
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    store: Store,
    receives: Receives,
    routes: Routes,
    lease: WorkerLease,
) -> None:
    gone = uuid7()
    await receives.receive(arrival({gone: ["a@gone.test"], org: ["a@postroom.test"]}))
    router = router_of(store, routes, lease)
    while await router.work(None):
        pass
    rows = {row["org_id"]: row for row in await admin.fetch("SELECT org_id, state, decisions FROM arrivals")}
    assert {row["state"] for row in rows.values()} == {"routed"}
    assert (
        rows[gone]["decisions"][-2]["decision"] == "no mailbox"
        or rows[gone]["decisions"][-1]["decision"] == "no mailbox"
    )
    assert await admin.fetchval("SELECT count(*) FROM messages") == 1


async def test_a_tls_report_by_mail_is_stored_and_read_like_any_mail(
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    receives: Receives,
    routes: Routes,
    lease: WorkerLease,
    store: Store,
) -> None:
    about = [{"policy-type": "sts", "policy-domain": name} for name in ("postroom.test", "elsewhere.example")]
    report = tls_report.compose(
        [tls_report.Count(policy, None, 5) for policy in about],
        day=date(2026, 3, 1),
        organization="Sender",
        contact="c@sender.example",
        report_id="1@sender.example",
    )
    letter = tls_report.Letter(
        *("tls@sender.example", "reports@postroom.test", "sender.example", "postroom.test", date(2026, 3, 1)),
        *("1@sender.example", "<1@sender.example>", datetime(2026, 3, 2, tzinfo=UTC)),
    )
    raw = tls_report.as_mail(letter, tls_report.packed(report))
    broken = raw.replace(b"H4sI", b"AAAA", 1)
    got = [await receives.receive(arrival({org: ["reports@postroom.test"]}, each)) for each in (raw, broken)]
    router = router_of(store, routes, lease)
    while await router.work(None):
        pass
    (row,) = await admin.fetch("SELECT * FROM received_tls_reports")
    assert (row["domain_id"], row["door"], row["source"], row["successful"]) == (domain, "mail", "j@sender.example", 10)
    told = []
    for each in got:
        (id_,) = each.ids.values()
        decisions = await admin.fetchval("SELECT decisions FROM arrivals WHERE id = $1", id_)
        told.append([one["decision"] for one in decisions if one["step"] == "report"])
    assert told == [["TLS report stored"], ["no TLS report"]]
    assert await admin.fetchval("SELECT count(*) FROM messages") == 2
