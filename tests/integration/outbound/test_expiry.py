"""Expiring costs what is due where it looks: nobody walks over what is held, and no batch over what one before it has seen."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from integration.outbound.harness import Tenant, until
from integration.outbound.test_leases import _pages
from mailcore.flow import settle
from mailcore.kit.ids import lower_bound, uuid7
from mailcore.store import expiry, holds
from mailcore.store.session import Store
from mailcore.store.waiting import PAUSED_TURN, UNREACHED_TURN

DAYS = 10
"""Age of what is old."""


async def _lane(tenant: Tenant, admin: asyncpg.Connection, domain: str, *, down: bool = True) -> int:
    """Of an email that is gone already."""
    await tenant.send(f"you@{domain}")
    await admin.execute("DELETE FROM queue q USING lanes l WHERE l.id = q.lane_id AND l.domain = $1", domain)
    lane = await admin.fetchrow(
        "SELECT l.id, r.site_id FROM lanes l JOIN recipient_domains r USING (domain) WHERE domain = $1", domain
    )
    assert lane is not None
    await admin.execute("UPDATE sites SET failures = $2 WHERE id = $1", lane["site_id"], 3 if down else 0)
    return int(lane["id"])


async def _fill(
    tenant: Tenant, admin: asyncpg.Connection, lane: int, count: int, *, days: float = DAYS, **columns: Any
) -> list[UUID]:
    """Rows of that age in that lane."""
    at = datetime.now(UTC) - timedelta(days=days)
    ids = [uuid7(int(at.timestamp() * 1000) + n) for n in range(count)]
    due = columns.pop("due_at", at)
    await admin.copy_records_to_table(
        "queue",
        records=[(id_, 0, tenant.org_id, lane, due, *columns.values()) for id_ in ids],
        columns=["email_id", "n", "org_id", "lane_id", "due_at", *columns],
    )
    await admin.execute(
        "INSERT INTO emails (id, org_id, domain_id, from_, to_, subject, message_id, body_bytes, created_at) "
        "SELECT t.id, e.org_id, e.domain_id, e.from_, e.to_, e.subject, t.id::text, e.body_bytes, $2 "
        "FROM unnest($1::uuid[]) AS t (id), (SELECT * FROM emails LIMIT 1) e",
        *(ids, at),
    )
    await admin.execute(
        "INSERT INTO deliveries (email_id, n, org_id, recipient, last_event_at) "
        "SELECT id, 0, $2, 'you@example.com', now() FROM unnest($1::uuid[]) AS t (id)",
        *(ids, tenant.org_id),
    )
    return ids


def _ends(days: float = 4) -> expiry.Ends:
    return expiry.Ends(*[datetime.now(UTC) - timedelta(days=days)] * 3)


async def _expire(store: Store) -> int:
    ends = _ends()
    return (await settle.expire(store, ends.transactional, ends.broadcasts, ends.waiting))[0]


async def test_what_is_held_or_paused_costs_nothing_however_much_it_is(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, domain: UUID
) -> None:
    tomorrow = datetime.now(UTC) + timedelta(hours=20)
    held = await _lane(tenant, admin, "held.example")
    await _fill(tenant, admin, held, 20_000)
    await _fill(tenant, admin, held, 20_000, days=9, due_at=tomorrow, waits_for=domain, turn=PAUSED_TURN)
    await _fill(tenant, admin, held, 20_000, days=8, due_at=tomorrow)  # scheduled, or tried and to be tried again
    down = await _lane(tenant, admin, "down.example")
    await _fill(tenant, admin, down, 300, days=7)
    async with store.worker() as db:
        site = await db.fetchval("SELECT site_id FROM recipient_domains WHERE domain = 'held.example'")
        await holds.place(db, site, None, origin="operator", reason="maintenance")
        assert await expiry.stuck(db) == [expiry.Lanes([down]), expiry.Suspects()]
    found = await _pages(admin, expiry._LANES) + await _pages(admin, expiry._WAITED_FOR, PAUSED_TURN)
    assert found < 100
    ends = _ends()
    times = (expiry.BATCH, ends.transactional, ends.broadcasts, ends.waiting, 2)
    by_class = [lower_bound(ends.transactional)] * 2
    assert await _pages(admin, expiry._OF_LANES, *times, by_class, [down], None) < 300 * 60
    assert await _pages(admin, expiry._OF_SUSPECTS, *times, by_class) < 100
    assert await _expire(store) == 300
    assert await admin.fetchval("SELECT count(*) FROM queue") == 60_000


async def test_batches_go_on_where_the_last_one_ended(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, domain: UUID
) -> None:
    """Several lanes and several things waited for, more rows than a batch, young ones between them, and suspects."""
    now = datetime.now(UTC)
    expected: set[UUID] = set()
    for name in ("one", "two", "three"):
        lane = await _lane(tenant, admin, f"{name}.example")
        for days in (3, 5, 1, 8):
            # due in an order that is not that of their age, as what was tried is
            ids = await _fill(tenant, admin, lane, 500, days=days, due_at=now - timedelta(hours=days % 5))
            expected.update(ids if days > 4 else ())
        expected.update(await _fill(tenant, admin, lane, 10, days=6, crashes=1))
    fine = await _lane(tenant, admin, "fine.example", down=False)
    await _fill(tenant, admin, fine, 10, days=9)
    for n in range(3):
        for days in (2, 7):
            ids = await _fill(
                *(tenant, admin, fine, 800),
                days=days + n / 10,
                due_at=now + timedelta(hours=5),
                waits_for=UUID(int=domain.int + n),
                turn=UNREACHED_TURN,
            )
            expected.update(ids if days > 4 else ())
    assert await _expire(store) == len(expected) == 5_430
    rows = await admin.fetch("SELECT email_id FROM deliveries WHERE state = 'expired'")
    assert {row["email_id"] for row in rows} == expected
    assert (
        await admin.fetchval("SELECT count(*) FROM queue q JOIN deliveries d USING (email_id) WHERE state = 'expired'")
        == 0
    )
    assert await _expire(store) == 0


async def test_a_batch_does_not_begin_again(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, domain: UUID
) -> None:
    first, second = [await _lane(tenant, admin, f"{name}.example") for name in ("one", "two")]
    now = datetime.now(UTC)
    await _fill(tenant, admin, first, 10, days=1)
    await _fill(tenant, admin, second, expiry.BATCH, days=5, due_at=now - timedelta(days=2))
    waits = {"due_at": now + timedelta(hours=5), "waits_for": domain, "turn": UNREACHED_TURN}
    ids = await _fill(tenant, admin, second, expiry.BATCH, days=6, **waits)
    async with store.worker() as db:
        lanes, waited, _ = await expiry.stuck(db)
        expired, after = await expiry.expire(db, lanes, _ends())
        assert (len(expired), after) == (expiry.BATCH, expiry.Lanes([second], now - timedelta(days=2)))
        assert await expiry.expire(db, after, _ends()) == ([], None)
        expired, after = await expiry.expire(db, waited, _ends())
        assert (len(expired), after) == (
            expiry.BATCH,
            expiry.Waited([(domain, UNREACHED_TURN, tenant.org_id)], ids[-1]),
        )
        assert await expiry.expire(db, after, _ends()) == ([], None)


async def test_mail_that_moves_while_a_batch_waits_for_a_lock_is_gone_too(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, domain: UUID
) -> None:
    """Called, claimed and put off again, it has all that expires, and is another version of its row."""
    lane = await _lane(tenant, admin, "fine.example", down=False)
    waits = {"due_at": datetime.now(UTC) + timedelta(hours=5), "waits_for": domain, "turn": UNREACHED_TURN}
    opened, *moved = await _fill(tenant, admin, lane, 3, **waits)
    async with store.worker() as db:
        await db.execute("UPDATE deliveries SET last_event = 'opened' WHERE email_id = $1", opened)
        look = asyncio.create_task(_expire(store))
        blocked = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        await until(lambda: admin.fetchval(blocked), "the look waits for a delivery that is just being opened")
        await admin.execute(
            "UPDATE queue SET due_at = due_at + interval '1 hour' WHERE email_id = ANY ($1::uuid[])", moved
        )
    assert await look == 3
    gone = await admin.fetch("SELECT email_id FROM deliveries WHERE state = 'expired'")
    assert {row["email_id"] for row in gone} == {opened, *moved}
    assert await admin.fetchval("SELECT count(*) FROM queue") == 0, "what has expired leaves no more"


async def test_statistics_do_not_make_a_look_walk_over_what_is_held(
    tenant: Tenant, store: Store, admin: asyncpg.Connection
) -> None:
    """Where the planner expects that next to nothing expires, as all domains are paused, it would rather read all that is old."""
    down, held = [await _lane(tenant, admin, f"{name}.example") for name in ("down", "held")]
    await _fill(tenant, admin, held, 5_000)
    await _fill(tenant, admin, down, 5_000, days=1)
    await admin.execute(
        "INSERT INTO domains (id, org_id, name, status, sending, record_status) "
        "SELECT gen_random_uuid(), $1, 'n' || n || '.test', 'verified', true, '{}' FROM generate_series(1, 1000) n",
        tenant.org_id,
    )
    await admin.execute(
        "INSERT INTO alarms (id, org_id, domain_id, domain, kind, action, text, facts) "
        "SELECT gen_random_uuid(), org_id, id, name, 'manual', 'paused', '', '{}' FROM domains"
    )
    await admin.execute("ANALYZE")
    async with store.worker() as db:
        assert await expiry.expire(db, expiry.Lanes([down]), _ends()) == ([], None)
        read = "SELECT pg_stat_get_xact_tuples_returned($1::text::regclass)"
        assert await db.fetchval(read, "queue_due") >= 5_000
        assert await db.fetchval(read, "queue_pkey") == 0
