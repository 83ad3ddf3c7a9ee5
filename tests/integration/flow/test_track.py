"""The door of opens and clicks while the database is away, comes back, and loses its answers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from integration.conftest import Server
from mailcore.flow.track import EVENTS_AN_HOUR, Hit, Tracks
from mailcore.kit.ids import uuid7
from mailcore.queue.bell import Ringer
from mailcore.store.session import Store

NOW = datetime.now(UTC)


@pytest.fixture
async def email(admin: asyncpg.Connection, org: UUID, domain: UUID) -> UUID:
    """Delivered an hour ago."""
    id_ = uuid7()
    await admin.execute(
        "INSERT INTO emails (id, org_id, domain_id, from_, to_, subject, message_id, created_at) "
        "VALUES ($1, $2, $3, 'us@postroom.test', '{you@example.com}', 's', '<1@postroom.test>', $4)",
        *(id_, org, domain, NOW - timedelta(hours=1)),
    )
    await admin.execute(
        "INSERT INTO deliveries (email_id, n, org_id, recipient, state, last_event, last_event_at) "
        "VALUES ($1, 0, $2, 'you@example.com', 'delivered', 'delivered', $3)",
        *(id_, org, NOW - timedelta(hours=1)),
    )
    await admin.execute(
        "INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome) VALUES ($1, 0, 1, $2, $3, 'delivered')",
        *(id_, org, NOW - timedelta(hours=1)),
    )
    return id_


def hit(org: UUID, email: UUID, seconds: float = 0, url: str | None = None) -> Hit:
    return Hit(org, email, url, NOW + timedelta(seconds=seconds), "192.0.2.1", "Firefox")


async def _stored(admin: asyncpg.Connection) -> int:
    count: int = await admin.fetchval("SELECT count(*) FROM events WHERE type LIKE 'email.%'")
    return count


async def test_what_came_while_the_database_was_away_is_stored_when_it_is_back(
    store: Store,
    admin: asyncpg.Connection,
    ringer: Ringer,
    org: UUID,
    email: UUID,
    database: str,
    postgres_server: Server,
) -> None:
    tracks = Tracks(store, ringer, (b"k",))
    elsewhere = await asyncpg.connect(postgres_server.admin_url())
    try:
        await elsewhere.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        await elsewhere.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename = 'postroom'",
            database,
        )
        tracks.note(hit(org, email))
        tracks.note(hit(org, email, 1, "https://a.example/"))
        await asyncio.sleep(0.2)
        assert await _stored(admin) == 0
        await elsewhere.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        await tracks.drain(60)
    finally:
        await elsewhere.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        await elsewhere.close()
    assert await _stored(admin) == 2
    assert await admin.fetchval("SELECT last_event FROM deliveries") == "clicked"


async def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    store: Store, admin: asyncpg.Connection, ringer: Ringer, org: UUID, email: UUID
) -> None:
    tracks = Tracks(store, ringer, (b"k",))
    first, second = (uuid7(), hit(org, email)), (uuid7(), hit(org, email, 1))
    await tracks._store_all([first], {})
    await tracks._store_all([first, second], {})
    assert await _stored(admin) == 2


async def test_memory_is_bounded_and_no_mail_takes_the_others_room(
    store: Store, admin: asyncpg.Connection, ringer: Ringer, org: UUID, email: UUID
) -> None:
    tracks = Tracks(store, ringer, (b"k",), waiting=EVENTS_AN_HOUR + 1)
    for n in range(10 * EVENTS_AN_HOUR):
        tracks.note(hit(org, email, n))
    for _ in range(5):
        tracks.note(hit(org, uuid7()))
    assert len(tracks._waiting) == EVENTS_AN_HOUR + 1
    await tracks.drain(60)
    assert not tracks._waiting and not tracks._of_email and not tracks._left_out
    assert await admin.fetchval("SELECT left_out FROM engagements WHERE email_id = $1", email) >= 9 * EVENTS_AN_HOUR - 2


async def test_several_processes_at_once(
    store: Store, admin: asyncpg.Connection, ringer: Ringer, org: UUID, email: UUID
) -> None:
    doors = [Tracks(store, ringer, (b"k",)) for _ in range(4)]
    for door in doors:
        for n in range(20):
            door.note(hit(org, email, n))
    await asyncio.gather(*(door.drain(60) for door in doors))
    assert await _stored(admin) == 80
    assert await admin.fetchval("SELECT count(*) FROM events WHERE detail @> '{\"first\": true}'") == 1


async def test_a_new_hour_has_room_again(
    store: Store, admin: asyncpg.Connection, ringer: Ringer, org: UUID, email: UUID
) -> None:
    tracks = Tracks(store, ringer, (b"k",))
    for hour in (0, 3600):
        for _ in range(EVENTS_AN_HOUR + 10):
            tracks.note(hit(org, email, hour))
        await tracks.drain(60)
    assert await _stored(admin) == 2 * EVENTS_AN_HOUR
    assert await admin.fetchval("SELECT left_out FROM engagements") == 20
