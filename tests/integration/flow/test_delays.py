"""A mail that has waited for long is told of once, also when its site rests and it was never attempted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.flow import delays, settle
from mailcore.kit.ids import uuid7
from mailcore.store.session import Store

HOUR = 3600


async def _waiting(
    admin: asyncpg.Connection,
    org: UUID,
    hours: float,
    *,
    last_event: str = "queued",
    scheduled: bool = False,
    class_: int = 0,
) -> UUID:
    """One mail that wanted to leave so many hours ago; a scheduled one was submitted five days before that."""
    wanted = datetime.now(UTC) - timedelta(hours=hours)
    made = wanted - timedelta(days=5) if scheduled else wanted
    id_ = uuid7(int(made.timestamp() * 1000))
    await admin.execute("INSERT INTO sites (key) VALUES ('domain:x.test') ON CONFLICT DO NOTHING")
    await admin.execute(
        "INSERT INTO recipient_domains (domain, site_id) SELECT 'x.test', id FROM sites WHERE key = 'domain:x.test' "
        "ON CONFLICT DO NOTHING"
    )
    await admin.execute(
        "INSERT INTO lanes (org_id, domain, class) VALUES ($1, 'x.test', $2) ON CONFLICT DO NOTHING", org, class_
    )
    await admin.execute(
        "INSERT INTO emails (id, org_id, domain_id, class, from_, to_, subject, message_id, created_at, scheduled_at) "
        "VALUES ($1, $2, $2, $3, 'a@b.test', '{u@x.test}', 's', '<m>', $4, $5)",
        *(id_, org, class_, made, wanted if scheduled else None),
    )
    await admin.execute(
        "INSERT INTO deliveries (email_id, n, org_id, recipient, last_event, last_event_at) "
        "VALUES ($1, 0, $2, 'u@x.test', $3, now())",
        *(id_, org, last_event),
    )
    await admin.execute(
        "INSERT INTO queue (email_id, n, org_id, lane_id, due_at) SELECT $1, 0, $2, id, now() FROM lanes "
        "WHERE org_id = $2 AND class = $3",
        *(id_, org, class_),
    )
    return id_


async def _told(admin: asyncpg.Connection) -> set[UUID]:
    rows = await admin.fetch("SELECT object_id FROM events WHERE type = 'email.delivery_delayed'")
    return {row["object_id"] for row in rows}


async def test_told_once_when_its_time_has_come(store: Store, admin: asyncpg.Connection, org: UUID) -> None:
    young = await _waiting(admin, org, 3.9)
    old = await _waiting(admin, org, 4.05)
    assert (await delays.tell(store, 4 * HOUR, thorough=False))[0] == 1
    assert await _told(admin) == {old}
    assert (await delays.tell(store, 4 * HOUR, thorough=True))[0] == 0
    row = await admin.fetchrow("SELECT last_event FROM deliveries WHERE email_id = $1", old)
    assert row is not None
    assert row["last_event"] == "delivery_delayed"
    assert await admin.fetchval("SELECT last_event FROM deliveries WHERE email_id = $1", young) == "queued"


async def test_the_thorough_look_finds_what_no_quick_one_saw(
    store: Store, admin: asyncpg.Connection, org: UUID, monkeypatch: Any
) -> None:
    monkeypatch.setattr("mailcore.store.delays.BATCH", 2)
    old = {await _waiting(admin, org, 24 + n) for n in range(5)}
    scheduled = await _waiting(admin, org, 5, scheduled=True)
    not_yet = await _waiting(admin, org, 1, scheduled=True)
    opened = await _waiting(admin, org, 30, last_event="opened")
    under_way = await _waiting(admin, org, 31)
    await admin.execute("UPDATE queue SET worker = 3 WHERE email_id = $1", under_way)
    assert (await delays.tell(store, 4 * HOUR, thorough=False))[0] == 0
    assert (await delays.tell(store, 4 * HOUR, thorough=True))[0] == 6
    told = await _told(admin)
    assert told == old | {scheduled}
    assert not told & {not_yet, opened, under_way}


async def test_a_look_writes_to_no_row_that_was_told(store: Store, admin: asyncpg.Connection, org: UUID) -> None:
    """A hold may keep millions of them, and each hour looks at all."""
    for n in range(3):
        await _waiting(admin, org, 24 + n, last_event="delivery_delayed")
    news = await _waiting(admin, org, 30)
    assert (await delays.tell(store, 4 * HOUR, thorough=True))[0] == 1
    assert [row["email_id"] for row in await admin.fetch("SELECT email_id FROM queue WHERE xmax <> 0")] == [news], (
        "locked"
    )


async def test_broadcasts_expire_sooner(store: Store, admin: asyncpg.Connection, org: UUID) -> None:
    mail = await _waiting(admin, org, 60)
    broadcast = await _waiting(admin, org, 60, class_=1)
    young = await _waiting(admin, org, 40, class_=1)
    await admin.execute("UPDATE sites SET failures = 5, suspended_until = now() + interval '1 hour'")
    now = datetime.now(UTC)
    expired, _ = await settle.expire(store, now - timedelta(hours=98), now - timedelta(hours=48))
    assert expired == 1
    states = {row["email_id"]: row["state"] for row in await admin.fetch("SELECT * FROM deliveries")}
    assert states == {mail: "queued", broadcast: "expired", young: "queued"}
