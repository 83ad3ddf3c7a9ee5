"""Pools and warm-up with the service running: what a server on loopback sees, how caps hold, who goes first, who waits."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from prometheus_client import REGISTRY

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer, Step, Talk
from integration.outbound.harness import KEY, Tenant, until
from mailcore.flow import sources as flow
from mailcore.flow import suppress, warmup
from mailcore.flow.sources import WarmupChange
from mailcore.flow.ways import seal
from mailcore.kit.clock import FixedClock
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import contents as stored
from mailcore.store import deliveries, queue_orders, scheduled, sites, sources, warmups, ways, workers
from mailcore.store.deliveries import Leased
from mailcore.store.session import Store
from mailcore.store.sites import Site
from mailcore.transport import Hop, TlsPolicy
from outbound.binding import bind_error
from outbound.paces import Paces
from outbound.placement import Placed, Source
from outbound.routes import Way
from outbound.shares import ServerClock
from outbound.sources import Sources

ROOT = Path(__file__).parents[3]
DELIVERED = Outcome(Result.DELIVERED, Reply(250, "ok", "2.0.0"), dot_sent=True)
NEW, OLD = "127.0.0.2", "127.0.0.3"
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
Add = Callable[..., Awaitable[UUID]]


@pytest.fixture
async def pool(store: Store) -> UUID:
    async with store.worker() as db:
        return await sources.add_pool(db, "all", [("", 0), ("", 1)], None)


@pytest.fixture
def add(store: Store, pool: UUID) -> Add:
    async def add(ip: str, *, cap: int | None = None, now: datetime | None = None, **values: Any) -> UUID:
        """A source of the pool: in warm-up with that cap on its first day, then three times as much; or warm."""
        schedule = values.pop("schedule", [cap or 1, 3 * (cap or 1)])
        of = {"pool_id": pool, "ipv4": ip, "ehlo_name": f"out{ip.rpartition('.')[2]}.test", **values}
        return await flow.add_source(store, of, schedule=schedule, warm=cap is None, now=now or datetime.now(UTC))

    return add


def senders(sink: SmtpServer) -> Counter[str]:
    """Mails by the address they came from."""
    return Counter(
        talk.peer[0] for talk in sink.talks for command in talk.commands if command.upper().startswith("RCPT")
    )


async def _quiet(admin: asyncpg.Connection, waiting: int) -> None:
    """Nothing is leased or due any more, and so many rows wait for room."""
    await until(
        lambda: admin.fetchval(
            "SELECT count(*) = $1 AND count(*) FILTER (WHERE waits_for IS NULL) = 0 FROM queue", waiting
        ),
        f"{waiting} rows wait",
    )


async def test_the_address_and_the_name_are_those_of_the_source(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add
) -> None:
    await add(NEW)
    async with outbound(sink):
        email_id = await tenant.send("you@example.com")
        await tenant.state(email_id, "delivered")
    talk = sink.talks[0]
    assert talk.peer[0] == NEW
    assert talk.commands[0] == "EHLO out2.test"
    assert (await tenant.attempts(email_id))[0]["source_ip"] == NEW


async def test_without_pools_all_is_as_the_settings_say(tenant: Tenant, sink: SmtpServer, outbound: Any) -> None:
    async with outbound(sink, source_ip="127.0.0.9"):
        await tenant.state(await tenant.send("you@example.com"), "delivered")
    assert (sink.talks[0].peer[0], sink.talks[0].commands[0]) == ("127.0.0.9", "EHLO outbound.test")


async def test_mail_that_would_come_back_to_a_source_of_a_pool(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, admin: asyncpg.Connection
) -> None:
    """RFC 5321 §5.1: its name is one of ours."""
    await add(NEW)
    zones = {"back.example": {"MX": ["10 out2.test."]}, "out2.test": {"A": ["127.0.0.1"]}}
    settings = {"route": "mx", "mx_port": sink.port, "network": {"allow": {"mx": ["127.0.0.0/8"]}}}
    async with (
        DnsServer(zones) as dns,
        outbound(**settings, dns={"nameservers": [dns.address], "timeout_seconds": 1}),
    ):
        await until(lambda: admin.fetchval("SELECT count(*) FROM source_hosts"), "the pool is known")
        email_id = await tenant.send("you@back.example")
        await tenant.state(email_id, "bounced")
    assert (await tenant.attempts(email_id))[0]["rule"] == "mail-loop"
    assert sink.talks == []


async def test_a_domains_own_pool_comes_before_everybodys(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, store: Store, make_domain: Any
) -> None:
    await make_domain(tenant.org_id, "shop.test")
    await add(OLD)
    async with store.worker() as db:
        own = await sources.add_pool(db, "shop", [("shop.test", 0)], None)
    await add(NEW, pool_id=own)
    async with outbound(sink):
        ours = await tenant.send("a@example.com")
        theirs = await tenant.send("a@example.com", domain="shop.test")
        news = await tenant.send("a@example.com", domain="shop.test", broadcast=True)
        for id_ in (ours, theirs, news):
            await tenant.state(id_, "delivered")
    from_ = {id_: (await tenant.attempts(id_))[0]["source_ip"] for id_ in (ours, theirs, news)}
    assert from_ == {ours: OLD, theirs: NEW, news: OLD}


async def test_what_has_no_room_goes_to_an_older_address(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add
) -> None:
    await add(NEW, cap=5)
    await add(OLD)
    async with outbound(sink):
        ids = await tenant.send_each([[f"u{n}@d{n % 4}.example"] for n in range(40)])
        for id_ in ids:
            await tenant.state(id_, "delivered")
    assert senders(sink) == {NEW: 5, OLD: 35}


async def test_metrics_show_what_warm_up_does(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, store: Store
) -> None:
    new = await add(NEW, cap=5)
    await add(OLD)
    await flow.add_domain(store, tenant.domain, schedule=[70])

    async def shown(subject: str, *wanted: float | None) -> None:
        names = ("postroom_warmup_cap", "postroom_warmup_used", "postroom_warmup_paused")

        async def seen() -> bool:
            return wanted == tuple(REGISTRY.get_sample_value(name, {"subject": subject}) for name in names)

        await until(seen, f"{subject}: {wanted}")

    async with outbound(sink, Paces(sources_tick=0.1)):
        ids = await tenant.send_each([[f"u{n}@example.com"] for n in range(8)])
        for id_ in ids:
            await tenant.state(id_, "delivered")
        await shown(NEW, 5, 5, 0)
        await shown(OLD, None, None, None)  # warm
        await shown(tenant.domain, 70, 8, 0)
        await flow.change_source(store, new, {}, WarmupChange(paused=True))
        await shown(NEW, 5, 5, 1)
        await flow.remove_source(store, new)
        await shown(NEW, None, None, None)


async def test_what_has_no_room_goes_the_way_that_the_pool_names(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, admin: asyncpg.Connection, store: Store, pool: UUID,
    keyring: Keyring,
) -> None:  # fmt: skip
    await add(NEW, cap=3)
    async with SmtpServer() as smart_host:
        async with store.worker() as db:
            site = await sites.ensure(db, f"smarthost:{(way := uuid7())}", 5)
            of = {"org_id": None, "name": "old", "kind": "smarthost", "reports": False, "site_id": site.id}
            at = {"host": "127.0.0.1", "port": smart_host.port, "tls": "none"}
            await ways.add(db, way_id=way, settings=at, secrets_sealed=seal(keyring, {}), **of)
            await sources.change_pool(db, pool, name=None, serves=None, overflow=(way,))
        async with outbound(sink):
            ids = await tenant.send_each([[f"u{n}@d{n % 2}.example"] for n in range(10)])
            for id_ in ids:
                await tenant.state(id_, "delivered")
        assert senders(sink) == {NEW: 3}
        assert senders(smart_host) == {"127.0.0.1": 7}
    by_site = Counter(row["site"] for row in await admin.fetch("SELECT site FROM attempts"))
    assert by_site == {f"catch:127.0.0.1:{sink.port}": 3, f"smarthost:{way}": 7}
    async with store.worker() as db:
        await sources.change_pool(db, pool, name=None, serves=None, overflow=(None,))
    async with outbound(sink):
        await tenant.send("more@d1.example")
        await _quiet(admin, 1)


async def test_what_finds_no_room_waits_and_nobody_is_told(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, admin: asyncpg.Connection, store: Store, pool: UUID
) -> None:
    await add(NEW, cap=7)
    async with outbound(sink):
        ids = await tenant.send_each([[f"u{n}@example.com"] for n in range(20)])
        await _quiet(admin, 13)
    assert senders(sink) == {NEW: 7}
    rows = await admin.fetch("SELECT * FROM queue")
    assert {(row["attempt"], row["worker"], row["waits_for"], row["turn"]) for row in rows} == {(0, None, pool, 0)}
    assert all(row["due_at"] > datetime.now(UTC) + timedelta(hours=20) for row in rows)
    waiting = {row["email_id"] for row in rows}
    for id_ in ids:
        types = [event["type"] for event in await tenant.events(id_)]
        assert types == (["email.sent"] if id_ in waiting else ["email.sent", "email.delivered"])
        assert len(await tenant.attempts(id_)) == (id_ not in waiting)
    async with store.worker() as db:
        shown = await sources.pool(db, pool)
    assert shown is not None and shown["waiting"] == 13


async def test_a_cap_holds_across_two_processes(
    tenant: Tenant,
    sink: SmtpServer,
    add: Add,
    admin: asyncpg.Connection,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    await add(NEW, cap=60)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("POSTROOM_")},
        "POSTROOM_ENCRYPTION_KEY": KEY,
        "POSTROOM_DATABASE__URL": database_url,
        "POSTROOM_REDIS__URL": redis_url,
        "POSTROOM_BLOB__URL": f"file://{tmp_path / 'blobs'}",
        "POSTROOM_OPS__PORT": "0",
        "POSTROOM_OUTBOUND__ROUTE": "catch",
        "POSTROOM_OUTBOUND__CATCH_HOST": f"127.0.0.1:{sink.port}",
        "POSTROOM_OUTBOUND__EHLO_NAME": "outbound.test",
        "POSTROOM_QUEUE__SWEEP_SECONDS": "0.2",
    }
    with (tmp_path / "outbound.log").open("ab") as log:
        both = [
            subprocess.Popen([sys.executable, "-m", "outbound"], env=env, cwd=ROOT, stdout=log, stderr=log)
            for _ in range(2)
        ]
    try:
        await until(
            lambda: admin.fetchval("SELECT count(*) = 2 FROM workers WHERE service = 'outbound'"), "two workers"
        )
        for at in range(0, 200, 20):
            await tenant.send_each([[f"u{n}@d{n % 8}.example"] for n in range(at, at + 20)])
        await _quiet(admin, 140)
    finally:
        for process in both:
            process.terminate()
        ended = [await asyncio.to_thread(process.wait, 40) for process in both]
    assert ended == [0, 0], (tmp_path / "outbound.log").read_text()[-3000:]
    assert senders(sink) == {NEW: 60}
    assert dict(await admin.fetchrow("SELECT cap, leased, attempts, delivered FROM warmup_days")) == {  # type: ignore[arg-type]
        "cap": 60,
        "leased": 60,
        "attempts": 60,
        "delivered": 60,
    }


async def test_bad_signs_pause_an_address_and_its_mail_takes_the_other(
    tenant: Tenant, outbound: Any, add: Add, admin: asyncpg.Connection, store: Store
) -> None:
    new = await add(NEW, cap=50)
    await add(OLD)

    def judge(talk: Talk) -> Step | None:
        return Step("554 5.7.1 blocked using zen.spamhaus.org") if talk.peer[0] == NEW else None

    async def state() -> str:
        return str(await admin.fetchval("SELECT state FROM warmups WHERE source_id = $1", new))

    async with SmtpServer({"rcpt": judge}) as sink, outbound(sink, Paces(sources_tick=0.1)):
        for id_ in await tenant.send_each([[f"u{n}@example.com"] for n in range(3)]):
            await tenant.state(id_, "bounced")

        async def paused() -> bool:
            return await state() == "paused"

        await until(paused, "a pause")
        await asyncio.sleep(0.3)  # until the process has read it
        ids = await tenant.send_each([[f"v{n}@example.com"] for n in range(10)])
        for id_ in ids:
            await tenant.state(id_, "delivered")
        assert senders(sink) == {NEW: 3, OLD: 10}
        assert await admin.fetchval("SELECT count(*) FROM suppressions") == 0, "it was about us"
        decided = await admin.fetchrow("SELECT * FROM warmup_decisions ORDER BY id DESC LIMIT 1")
        assert decided is not None and decided["what"] == "paused"
        assert "3 of 3" in decided["why"] and "zen.spamhaus.org" in decided["why"]

        sink.script.clear()
        await flow.change_source(store, new, {}, flow.WarmupChange(paused=False), now=datetime.now(UTC))
        await asyncio.sleep(0.3)
        await tenant.state(await tenant.send("w@example.com"), "delivered")
    assert senders(sink) == {NEW: 4, OLD: 10}
    assert await state() == "warming"


async def test_an_address_that_is_not_here_takes_nothing_with_it(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, admin: asyncpg.Connection
) -> None:
    elsewhere = await add("198.51.100.7", cap=50)
    await add(OLD)
    async with outbound(sink):
        await tenant.state(await tenant.send("you@example.com"), "delivered")
    assert senders(sink) == {OLD: 1}
    error = await admin.fetchval("SELECT error FROM source_hosts WHERE source_id = $1", elsewhere)
    assert error is not None and error.startswith("198.51.100.7: ")
    assert await admin.fetchval("SELECT failures FROM sites WHERE key LIKE 'catch:%'") == 0


async def test_of_two_addresses_one_may_be_elsewhere(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, admin: asyncpg.Connection
) -> None:
    await add(NEW, ipv6="2001:db8::7")
    async with outbound(sink):
        await tenant.state(await tenant.send("you@example.com"), "delivered")
    assert senders(sink) == {NEW: 1}
    seen = await admin.fetchrow("SELECT usable, error FROM source_hosts")
    assert seen is not None and seen["usable"] and seen["error"].startswith("2001:db8::7: ")


async def test_a_site_that_refuses_one_address_gets_the_others(
    tenant: Tenant, outbound: Any, add: Add, admin: asyncpg.Connection
) -> None:
    await add(NEW, cap=50)
    await add(OLD)

    def greet(talk: Talk) -> Step | None:
        return Step("554 5.7.1 your IP is listed at spamhaus\r\n", cut=True) if talk.peer[0] == NEW else None

    async with SmtpServer({"greeting": greet}) as sink, outbound(sink, retry_schedule=[0.3] * 10):
        ids = await tenant.send_each([[f"u{n}@example.com"] for n in range(6)])
        for id_ in ids:
            await tenant.state(id_, "delivered")
    assert senders(sink) == {OLD: 6}
    assert await admin.fetchval("SELECT failures FROM sites WHERE key LIKE 'catch:%'") == 0


async def test_a_site_that_refuses_the_only_address_rests(
    tenant: Tenant, outbound: Any, add: Add, admin: asyncpg.Connection
) -> None:
    await add(NEW, cap=50)
    step = Step("554 5.7.1 your IP is listed at spamhaus\r\n", cut=True)
    async with SmtpServer({"greeting": step}) as sink, outbound(sink):
        email_id = await tenant.send("you@example.com")
        await until(lambda: admin.fetchval("SELECT failures = 1 FROM sites WHERE key LIKE 'catch:%'"), "the site rests")
    assert len(sink.talks) == 1
    (attempt,) = await tenant.attempts(email_id)
    assert (attempt["outcome"], attempt["code"], attempt["source_ip"]) == ("deferred", 554, NEW)
    assert await admin.fetchval("SELECT attempts FROM warmup_days") == 0, "nothing was sent: no room is used up"
    assert await admin.fetchval("SELECT blocked FROM warmup_days") == 1


# ---- one process's choice, with a clock that moves --------------------------------------------------------------------


class Desk:
    """A process that sends, without network: claims what is due, places it, and says what became of it."""

    def __init__(self, store: Store, clock: FixedClock, worker: int, lanes: list[int]) -> None:
        self.store = store
        self.sources = Sources(store, Source(), clock=clock, host="desk")
        self.worker = worker
        self.lanes = lanes
        site = Site(1, "mx:mx.test", 20, None, 0)
        self.way = Way(site, "", (Hop("mx.test", ("127.0.0.1",)),), TlsPolicy.NONE, False)

    async def claim(self, most: int = 1000) -> list[Leased]:
        async with self.store.worker() as db:
            return await deliveries.claim(db, self.lanes, self.worker, limit=most, quantum=most, schedule=[60.0])

    async def place(self, rows: list[Leased], *, broadcast: bool = False) -> Placed:
        async with self.store.worker() as db:
            contents = await stored.contents(db, {row.email_id for row in rows})
        work = [(contents[row.email_id], int(broadcast), [row]) for row in rows]
        return await self.sources.place(self.way, work)

    async def send(self, *, broadcast: bool = False, outcome: Outcome = DELIVERED) -> Counter[str]:
        """All that is due; where it was sent from. `waits` and `silent` are not sent, and stay."""
        rows = await self.claim()
        placed = await self.place(rows, broadcast=broadcast)
        for placement in placed.placements.values():
            self.sources.done(placement, outcome)
        sent = [row for row in rows if row.key in placed.placements]
        async with self.store.worker() as db:
            await db.execute("DELETE FROM queue WHERE email_id = ANY ($1::uuid[])", [row.email_id for row in sent])
        found = Counter(placement.source.ip4 or "own" for placement in placed.placements.values())
        return found + Counter({"waits": len(placed.waiting)})


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOON)


@pytest.fixture
async def desk(store: Store, admin: asyncpg.Connection, tenant: Tenant, clock: FixedClock) -> Desk:
    async with store.worker() as db:
        worker = await workers.register(db, "outbound", "desk", 1)
    await tenant.send("lane@example.com")
    await tenant.send("lane@example.com", broadcast=True)
    await admin.execute("DELETE FROM queue")
    lanes = [row["id"] for row in await admin.fetch("SELECT id FROM lanes")]
    return Desk(store, clock, worker, lanes)


async def test_the_cap_grows_day_by_day_and_what_waited_is_called(
    desk: Desk, tenant: Tenant, add: Add, clock: FixedClock, admin: asyncpg.Connection
) -> None:
    await add(NEW, cap=10, now=NOON)
    await tenant.send_each([[f"u{n}@example.com"] for n in range(35)])
    assert await desk.send() == {NEW: 10, "waits": 25}
    await desk.sources.tick()
    assert await desk.send() == {}, "nothing is due while there is no room"
    clock.at = NOON + timedelta(days=1)
    await desk.sources.tick()
    assert await desk.send() == {NEW: 25}, "all that waited finds room under the second day's cap of 30"
    await tenant.send_each([[f"v{n}@example.com"] for n in range(10)])
    assert await desk.send() == {NEW: 5, "waits": 5}
    clock.at = NOON + timedelta(days=2)
    await desk.sources.tick()
    assert await admin.fetchval("SELECT state FROM warmups") == "warm"
    assert await desk.send() == {NEW: 5}
    what = [row["what"] for row in await admin.fetch("SELECT what FROM warmup_decisions ORDER BY id")]
    assert what == ["began", "grew", "warm"]
    caps = [row["cap"] for row in await admin.fetch("SELECT cap FROM warmup_days ORDER BY day")]
    assert caps == [10, 30, None]


async def test_room_is_for_every_organization(
    desk: Desk, tenant: Tenant, add: Add, store: Store, admin: asyncpg.Connection, clock: FixedClock, make_org: Any,
    make_domain: Any,
) -> None:  # fmt: skip
    await add(NEW, cap=2, now=NOON, schedule=[2, 8])
    await tenant.send_each([[f"u{n}@example.com"] for n in range(50)])
    other = await make_org()
    await make_domain(other, "other.test")
    await tenant.send_each([[f"v{n}@example.com"] for n in range(20)], org_id=other, domain="other.test")
    desk.lanes = [row["id"] for row in await admin.fetch("SELECT id FROM lanes")]
    assert await desk.send() == {NEW: 2, "waits": 68}
    clock.at = NOON + timedelta(days=1)
    await desk.sources.tick()
    called = await admin.fetch("SELECT org_id, count(*) AS n FROM queue WHERE due_at <= now() GROUP BY 1")
    assert {row["org_id"]: row["n"] for row in called} == {tenant.org_id: 4, other: 4}


async def test_the_operators_orders_find_what_waits(
    desk: Desk, tenant: Tenant, add: Add, store: Store, admin: asyncpg.Connection
) -> None:
    await add(NEW, cap=1, now=NOON)
    await tenant.send_each([[f"u{n}@example.com"] for n in range(4)])
    assert await desk.send() == {NEW: 1, "waits": 3}
    async with store.worker() as db:
        assert (await queue_orders.survey(db, queue_orders.Query())).deliveries == 3
        flushed = [await queue_orders.flush(db, lane, queue_orders.Query()) for lane in desk.lanes]
    assert sum(flushed) == 3
    assert await desk.send() == {"waits": 3}
    late = await admin.fetchval("SELECT email_id FROM queue LIMIT 1")
    async with store.tenant(tenant.org_id) as db:
        await scheduled.move(db, late, NOON + timedelta(days=9))
    moved = await tenant.queued(late)
    assert moved is not None and moved["waits_for"] is None, "nobody calls it before its time"


async def test_a_quiet_day_gains_nothing(
    desk: Desk, tenant: Tenant, add: Add, clock: FixedClock, admin: asyncpg.Connection
) -> None:
    await add(NEW, cap=10, now=NOON)
    await tenant.send_each([[f"u{n}@example.com"] for n in range(4)])
    assert await desk.send() == {NEW: 4}
    clock.at = NOON + timedelta(days=1)
    await desk.sources.tick()
    decided = await admin.fetchrow("SELECT what, why FROM warmup_decisions ORDER BY id DESC LIMIT 1")
    assert decided is not None and decided["what"] == "held" and "4 of 10" in decided["why"]
    assert await admin.fetchval("SELECT cap FROM warmup_days ORDER BY day DESC LIMIT 1") == 10


async def test_readers_warm_a_new_address_and_the_others_take_the_old_one(
    desk: Desk, tenant: Tenant, add: Add, admin: asyncpg.Connection
) -> None:
    await add(NEW, cap=50, now=NOON)
    await add(OLD)
    before = await tenant.send("Reader@example.com", track_opens=True)
    await admin.execute("DELETE FROM queue")
    await admin.execute(
        "INSERT INTO engagements (email_id, org_id, opened_at) VALUES ($1, $2, now())", before, tenant.org_id
    )
    await tenant.send_each(
        [["reader@example.com"], *([f"silent{n}@example.com"] for n in range(3))], broadcast=True, track_opens=True
    )
    assert await desk.send(broadcast=True) == {NEW: 1, OLD: 3}
    await tenant.send_each([[f"unknown{n}@example.com"] for n in range(3)], broadcast=True)
    assert await desk.send(broadcast=True) == {NEW: 3}, "where nobody looks, nobody is silent"


async def test_who_does_not_read_steps_back_where_all_is_new(
    desk: Desk, tenant: Tenant, add: Add, clock: FixedClock, admin: asyncpg.Connection
) -> None:
    clock.at = datetime.now(UTC)
    await add(NEW, cap=100, now=clock.at)
    await tenant.send_each([[f"silent{n}@example.com"] for n in range(3)], broadcast=True, track_clicks=True)
    assert await desk.send(broadcast=True) == {"waits": 3}
    rows = await admin.fetch("SELECT turn, due_at FROM queue")
    assert {row["turn"] for row in rows} == {3}
    assert all(row["due_at"] < datetime.now(UTC) + timedelta(minutes=16) for row in rows)
    await desk.sources.tick()
    assert await desk.send(broadcast=True) == {}, "nobody calls them"
    clock.at += timedelta(minutes=16)
    await admin.execute("UPDATE queue SET due_at = now()")
    assert await desk.send(broadcast=True) == {NEW: 3}


async def test_broadcasts_leave_room_for_the_rest_of_the_day(
    desk: Desk, tenant: Tenant, add: Add, clock: FixedClock
) -> None:
    clock.at = NOON.replace(hour=0)
    await add(NEW, cap=24, now=clock.at)
    await tenant.send_each([[f"n{n}@example.com"] for n in range(20)], broadcast=True)
    assert await desk.send(broadcast=True) == {NEW: 4, "waits": 16}
    await tenant.send_each([[f"reset{n}@example.com"] for n in range(20)])
    assert await desk.send() == {NEW: 20}


async def test_a_host_with_ipv6_only_is_not_called_for_room(
    desk: Desk, tenant: Tenant, add: Add, admin: asyncpg.Connection
) -> None:
    if bind_error("::1") is not None:
        pytest.skip("this machine has no IPv6")
    await add(NEW, cap=50, now=NOON)
    desk.way = replace(desk.way, hops=(Hop("six.test", ("::1",)),))
    await tenant.send("you@example.com")
    assert await desk.send() == {"waits": 1}
    assert await admin.fetchval("SELECT turn FROM queue") == 4
    await desk.sources.tick()
    assert await desk.send() == {}
    await add("127.0.0.4", ipv6="::1", now=NOON)
    await desk.sources.tick()
    await admin.execute("UPDATE queue SET due_at = now()")
    assert await desk.send() == {"127.0.0.4": 1}


async def test_warm_addresses_share_the_mail_and_a_new_one_gets_no_more_than_its_part(
    desk: Desk, tenant: Tenant, add: Add
) -> None:
    await add(OLD)
    await tenant.send_each([[f"u{n}@example.com"] for n in range(10)])
    assert await desk.send() == {OLD: 10}
    await add("127.0.0.4")
    await desk.sources.tick()
    sent: Counter[str] = Counter()
    for chunk in range(4):  # those of one chunk leave together
        await tenant.send_each([[f"v{chunk}-{n}@example.com"] for n in range(5)])
        sent += await desk.send()
    assert sent == {OLD: 10, "127.0.0.4": 10}


async def test_a_retry_leaves_the_new_address(desk: Desk, tenant: Tenant, add: Add, admin: asyncpg.Connection) -> None:
    await add(NEW, cap=50, now=NOON)
    await add(OLD)
    await tenant.send("you@example.com")
    await admin.execute("UPDATE queue SET attempt = 1")
    assert await desk.send() == {OLD: 1}


async def test_a_sending_domain_has_a_cap_of_its_own(
    desk: Desk, tenant: Tenant, store: Store, add: Add, clock: FixedClock, admin: asyncpg.Connection
) -> None:
    id_ = await flow.add_domain(store, tenant.domain, schedule=[3, 9], now=NOON)
    await tenant.send_each([[f"u{n}@example.com"] for n in range(5)])
    assert await desk.send() == {"own": 3, "waits": 2}
    assert {row["waits_for"] for row in await admin.fetch("SELECT waits_for FROM queue")} == {id_}
    clock.at = NOON + timedelta(days=1)
    await desk.sources.tick()
    assert await desk.send() == {"own": 2}
    await tenant.send_each([[f"v{n}@example.com"] for n in range(9)])
    await add(NEW, cap=50, now=clock.at)
    await desk.sources.tick()
    assert await desk.send() == {NEW: 7, "waits": 2}, "both caps hold"
    await flow.remove_domain(store, id_)
    await desk.sources.tick()
    assert await desk.send() == {NEW: 2}


async def test_what_was_not_sent_costs_no_room(desk: Desk, tenant: Tenant, add: Add, admin: asyncpg.Connection) -> None:
    await add(NEW, cap=5, now=NOON)
    await tenant.send_each([[f"u{n}@example.com"] for n in range(5)])
    down = Outcome(Result.DEFERRED, Reply(451, "no connection", "4.4.1"), rule="connect-failed")
    assert await desk.send(outcome=down) == {NEW: 5}
    await tenant.send_each([[f"v{n}@example.com"] for n in range(5)])
    assert await desk.send() == {NEW: 5}
    await desk.sources.drain()
    assert dict(await admin.fetchrow("SELECT attempts, delivered, leased FROM warmup_days")) == {  # type: ignore[arg-type]
        "attempts": 5,
        "delivered": 5,
        "leased": 5,
    }


async def test_a_drain_gives_back_what_was_not_used(
    desk: Desk, tenant: Tenant, add: Add, admin: asyncpg.Connection
) -> None:
    await add(NEW, cap=1000, now=NOON)
    await tenant.send("u@example.com")
    assert await desk.send() == {NEW: 1}
    assert await admin.fetchval("SELECT leased FROM warmup_days") == 50
    await desk.sources.drain()
    assert await admin.fetchval("SELECT leased FROM warmup_days") == 1


async def test_two_desks_that_race_share_the_cap(
    desk: Desk, tenant: Tenant, add: Add, clock: FixedClock, store: Store, admin: asyncpg.Connection
) -> None:
    await add(NEW, cap=50, now=NOON)
    await tenant.send_each([[f"u{n}@example.com"] for n in range(120)])
    other = Desk(store, clock, desk.worker, desk.lanes)
    rows = await desk.claim()
    placed = await asyncio.gather(
        *((desk, other)[n % 2].place(rows[at : at + 3]) for n, at in enumerate(range(0, len(rows), 3)))
    )
    taken = sum(len(each.placements) for each in placed)
    # what one has leased and not used the other cannot have
    spare = sum(share.room for each in (desk, other) for share in each.sources._shares._shares.values())
    assert taken + spare == 50
    assert await admin.fetchval("SELECT leased FROM warmup_days") == 50
    assert sum(len(each.waiting) for each in placed) == 120 - taken


async def test_complaints_are_counted_by_where_the_mail_left(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, admin: asyncpg.Connection, store: Store
) -> None:
    new = await add(NEW, cap=50)
    await add(OLD)
    await flow.add_domain(store, tenant.domain, schedule=[100], now=datetime.now(UTC))
    async with outbound(sink):
        ids = await tenant.send_each([[f"u{n}@example.com"] for n in range(2)])
        for id_ in ids:
            await tenant.state(id_, "delivered")
    for id_ in ids:
        await suppress.complaint(store, id_, 0)
    for _ in range(2):
        await warmup.count_complaints(store, datetime.now(UTC))
    counted = await admin.fetch(
        "SELECT w.source_id, w.domain, d.complaints FROM warmup_days d JOIN warmups w ON w.id = d.warmup_id ORDER BY w.id"
    )
    by = {row["source_id"] or row["domain"]: row["complaints"] for row in counted}
    assert by[new] == 2 and by[tenant.domain] == 2 and sum(by.values()) == 4
    await warmup.turn(store, datetime.now(UTC))
    assert await admin.fetchval("SELECT state FROM warmups WHERE source_id = $1", new) == "paused"


async def test_a_look_at_a_new_day_is_made_once(store: Store, add: Add, admin: asyncpg.Connection) -> None:
    for n in range(4):
        await add(f"127.0.1.{n}", cap=10, now=NOON)
    await admin.execute("UPDATE warmup_days SET attempts = 10, delivered = 10")
    tomorrow = NOON + timedelta(days=1)
    decided = await asyncio.gather(*(warmup.turn(store, tomorrow) for _ in range(4)))
    assert sorted(map(len, decided)) == [0, 0, 0, 4]
    assert await admin.fetchval("SELECT count(*) FROM warmup_decisions WHERE what = 'grew'") == 4


async def test_days_are_those_of_the_database(store: Store) -> None:
    clock = ServerClock(store)
    clock._ahead = timedelta(days=2)  # as of a process whose own clock is wrong
    await clock.set()
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_killed_process_takes_only_its_share(
    desk: Desk, tenant: Tenant, add: Add, clock: FixedClock, store: Store, admin: asyncpg.Connection
) -> None:
    await add(NEW, cap=200, now=NOON)
    await tenant.send("u@example.com")
    assert await desk.send() == {NEW: 1}  # and nobody hears of it again
    heir = Desk(store, clock, desk.worker, desk.lanes)
    await tenant.send_each([[f"v{n}@example.com"] for n in range(200)])
    assert await heir.send() == {NEW: 190, "waits": 10}
    assert await admin.fetchval("SELECT leased FROM warmup_days") == 200


def test_binding_is_tried() -> None:
    assert bind_error("127.0.0.1") is None
    assert "198.51.100.1" in (bind_error("198.51.100.1") or "")


async def test_history_is_kept_for_a_year_and_a_bit(store: Store, add: Add, admin: asyncpg.Connection) -> None:
    await add(NEW, cap=10, now=NOON)
    id_ = await admin.fetchval("SELECT id FROM warmups")
    await admin.execute("INSERT INTO warmup_days (warmup_id, day) SELECT $1, $2::date - 401", id_, NOON.date())
    async with store.worker() as db:
        assert await warmups.forget(db, NOON.date()) == 1
