"""Which mail leaves from where, and which waits: one process, without network, with a clock that moves."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from integration.outbound.harness import Tenant
from integration.outbound.sources_lab import NEW, NOON, OLD, Add, Desk, add, clock, desk, pool
from mailcore.flow import sources as flow
from mailcore.kit.clock import FixedClock
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import queue_orders, scheduled
from mailcore.store.session import Store
from mailcore.transport import Hop
from outbound.binding import bind_error

__all__ = ["add", "clock", "desk", "pool"]


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
    # not the clock, which might come to another day
    await admin.execute("UPDATE emails SET created_at = created_at - interval '16 minutes'")
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
