"""Warm-up with the service running: caps hold over all processes, what finds no room waits, bad signs pause."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from prometheus_client import REGISTRY

from fakes.smtp_server import SmtpServer, Step, Talk
from integration.outbound.harness import KEY, Tenant, until
from integration.outbound.sources_lab import NEW, NOON, OLD, Add, add, pool, quiet, senders
from mailcore.flow import sources as flow
from mailcore.flow import suppress, warmup
from mailcore.flow.sources import WarmupChange
from mailcore.store import sources, warmups
from mailcore.store.session import Store
from outbound.paces import Paces
from outbound.shares import ServerClock

__all__ = ["add", "pool"]
ROOT = Path(__file__).parents[3]


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


async def test_what_finds_no_room_waits_and_nobody_is_told(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, admin: asyncpg.Connection, store: Store, pool: UUID
) -> None:
    await add(NEW, cap=7)
    async with outbound(sink):
        ids = await tenant.send_each([[f"u{n}@example.com"] for n in range(20)])
        await quiet(admin, 13)
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
        await quiet(admin, 140)
    finally:
        for process in both:
            process.terminate()
        ended = [await asyncio.to_thread(process.wait, 90) for process in both]
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

    async def read(paused: int) -> bool:
        return REGISTRY.get_sample_value("postroom_warmup_paused", {"subject": NEW}) == paused

    async with SmtpServer({"rcpt": judge}) as sink, outbound(sink, Paces(sources_tick=0.1)):
        for id_ in await tenant.send_each([[f"u{n}@example.com"] for n in range(3)]):
            await tenant.state(id_, "bounced")

        async def paused() -> bool:
            return await state() == "paused"

        await until(paused, "a pause")
        await until(lambda: read(1), "the process has read it")
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
        await until(lambda: read(0), "the process has read it")
        await tenant.state(await tenant.send("w@example.com"), "delivered")
    assert senders(sink) == {NEW: 4, OLD: 10}
    assert await state() == "warming"


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


async def test_history_is_kept_for_a_year_and_a_bit(store: Store, add: Add, admin: asyncpg.Connection) -> None:
    await add(NEW, cap=10, now=NOON)
    id_ = await admin.fetchval("SELECT id FROM warmups")
    await admin.execute("INSERT INTO warmup_days (warmup_id, day) SELECT $1, $2::date - 401", id_, NOON.date())
    async with store.worker() as db:
        assert await warmups.forget(db, NOON.date()) == 1
