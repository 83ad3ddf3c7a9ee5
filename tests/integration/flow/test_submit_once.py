"""Idempotency keys in groups: taken by the statement that stores the mail, or (near a quota) before it. Both must say the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from mailcore import blob
from mailcore.flow.submit import NewEmail, Once, Submits, Submitted
from mailcore.kit.errors import Conflict, Unavailable
from mailcore.queue import bell
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.store import idempotency
from mailcore.store.session import Store

ENDPOINT = "POST /emails"


@pytest.fixture
async def doors(
    database_url: str, ringer: Ringer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Submits]]:
    """Two that share nothing but the database, as two processes do; what is in flight in one leaves in one group."""
    stores = [await Store.open(database_url, connect_seconds=60) for _ in range(2)]
    monkeypatch.setattr(bell, "BELL_MS", 600_000)
    made = [Submits(store, ringer, blob.open((tmp_path / "blobs").as_uri()), in_flight=1) for store in stores]
    for door in made:  # what is remembered is, however busy the machine: a group is of those who need not ask first
        door._domains._seconds = door.quotas._asked._seconds = door._routes._rules._seconds = 3600.0
    yield made
    for store in stores:
        await store.close()


@pytest.fixture(params=["far", "near"])
async def quota(request: pytest.FixtureRequest, admin: asyncpg.Connection, org: UUID) -> str:
    """Far from every quota keys are taken in one statement with the mail, near one before it."""
    if request.param == "near":
        await admin.execute("UPDATE organizations SET daily_quota = 10000")
    return str(request.param)


def letter(*to: str, subject: str = "Hello", sender: str = "postroom.test") -> NewEmail:
    names = list(to) or ["you@example.com"]
    return NewEmail(f"a@{sender}", sender, names, [parse_address(each) for each in names], subject, text="Hi")


def once(key: str, payload: bytes = b"payload") -> Once:
    return Once(ENDPOINT, key, payload, lambda ids: b"|".join(each.encode() for each in ids))


Outcome = Submitted | BaseException


async def together(*asked: Awaitable[Submitted]) -> list[Outcome]:
    return await asyncio.gather(*asked, return_exceptions=True)


def word(outcome: Outcome) -> str:
    if isinstance(outcome, Conflict):
        return str(outcome.name)
    if isinstance(outcome, BaseException):
        return type(outcome).__name__
    return "replayed" if outcome.replayed else "stored"


async def counts(admin: asyncpg.Connection) -> tuple[int, int, int, int, int]:
    """Emails, deliveries, queue rows, `email.sent` events, recipients counted."""
    row = await admin.fetchrow(
        "SELECT (SELECT count(*) FROM emails), (SELECT count(*) FROM deliveries), (SELECT count(*) FROM queue), "
        "(SELECT count(*) FROM events WHERE type = 'email.sent'), (SELECT COALESCE(sum(sent), 0)::bigint FROM usage_deltas)"
    )
    return tuple(row)  # type: ignore[return-value]


async def test_one_key_in_two_processes_among_mail_without_keys(
    doors: list[Submits], admin: asyncpg.Connection, org: UUID, domain: UUID, quota: str
) -> None:
    outcomes = await together(
        *(
            doors[n % 2].submit(
                org, [letter()], door="test", once=once("order/1", b"%d" % (n % 4 // 2)) if n % 3 else None
            )
            for n in range(75)
        )
    )
    keyed = [each for n, each in enumerate(outcomes) if n % 3]
    words = {word(each) for each in keyed}
    assert words <= {"stored", "replayed", "concurrent_idempotent_requests", "invalid_idempotent_request"}
    assert [word(each) for each in keyed].count("stored") == 1
    assert {word(each) for n, each in enumerate(outcomes) if n % 3 == 0} == {"stored"}
    assert await counts(admin) == (26, 26, 26, 26, 26)
    (stored,) = [each for each in keyed if isinstance(each, Submitted) and not each.replayed]
    answers = {each.response for each in keyed if isinstance(each, Submitted)}
    assert answers == {stored.response} == {await admin.fetchval("SELECT response FROM idempotency_keys")}
    for door in doors:
        again = [
            (await together(door.submit(org, [letter()], door="test", once=once("order/1", b"%d" % n))))[0]
            for n in (0, 1)
        ]
        assert sorted(map(word, again)) == ["invalid_idempotent_request", "replayed"]
    assert (await counts(admin))[0] == 26


async def test_a_group_of_everything(
    doors: list[Submits],
    store: Store,
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    quota: str,
    make_org: Callable[[], Awaitable[UUID]],
    make_domain: Callable[[UUID, str], Awaitable[UUID]],
) -> None:
    """Replays, other payloads, keys in use elsewhere, of yesterday, of others, no keys; each with a suppressed recipient."""
    door, other = doors[0], await make_org()
    await make_domain(other, "other.test")
    for each, name in ((org, "postroom.test"), (other, "other.test")):  # what is remembered is, from here on
        await door.submit(each, [letter(sender=name)], door="test")
    for key in ("same", "changed", "yesterday"):
        await door.submit(org, [letter()], door="test", once=once(key))
    await admin.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = 'yesterday'")
    await admin.execute(
        "INSERT INTO suppressions (id, org_id, email, origin) "
        "SELECT gen_random_uuid(), unnest($1::uuid[]), 'no@example.com', 'manual'",
        [org, other],
    )
    await admin.execute(
        "DELETE FROM usage_deltas; DELETE FROM events; DELETE FROM queue; DELETE FROM deliveries; DELETE FROM emails"
    )
    both = ("you@example.com", "no@example.com")
    async with store.door() as db:
        await idempotency.claim(db, [(org, ENDPOINT, "busy")])
        outcomes = await together(
            door.submit(org, [letter(*both)], door="test", once=once("same")),
            door.submit(org, [letter(*both)], door="test", once=once("changed", b"changed")),
            door.submit(org, [letter(*both)], door="test", once=once("busy")),
            door.submit(org, [letter(*both)], door="test"),
            door.submit(org, [letter(*both)], door="test", once=once("yesterday", b"changed")),
            door.submit(org, [letter(*both), letter("no@example.com")], door="test", once=once("new")),
            door.submit(other, [letter(*both, sender="other.test")], door="test", once=once("same")),
        )
    assert list(map(word, outcomes)) == [
        *("replayed", "invalid_idempotent_request", "concurrent_idempotent_requests"),
        *("stored", "stored", "stored", "stored"),
    ]
    assert await admin.fetchval("SELECT count(DISTINCT xmin::text) FROM emails") == 1, "they left as one group"
    stored = [id_ for each in outcomes if isinstance(each, Submitted) for id_ in each.ids]
    assert {row["id"] for row in await admin.fetch("SELECT id FROM emails")} == set(stored)
    assert await counts(admin) == (5, 9, 4, 4, 9)
    suppressed = await admin.fetch("SELECT object_id, org_id, recipients FROM events WHERE type = 'email.suppressed'")
    assert sorted(row["object_id"] for row in suppressed) == sorted(stored)
    assert {tuple(row["recipients"]) for row in suppressed} == {("no@example.com",)}
    assert {row["object_id"]: row["org_id"] for row in suppressed}[stored[-1]] == other
    again = await door.submit(org, [letter(*both)], door="test", once=once("busy"))
    assert word(again) == "stored", "a key that was in use elsewhere is not burnt"
    for who, key, payload, before in (
        (org, "yesterday", b"changed", outcomes[4]),
        (org, "new", b"payload", outcomes[5]),
        (other, "same", b"payload", outcomes[6]),
    ):
        assert isinstance(before, Submitted)
        sender = "other.test" if who == other else "postroom.test"
        replay = await doors[1].submit(who, [letter(*both, sender=sender)], door="test", once=once(key, payload))
        assert (replay.replayed, replay.response) == (True, before.response)


@pytest.mark.parametrize("subject", ["\0", "\ud800"])
async def test_a_bad_row_burns_no_key_and_hurts_no_other(
    doors: list[Submits], admin: asyncpg.Connection, org: UUID, domain: UUID, quota: str, subject: str
) -> None:
    door = doors[0]
    await door.submit(org, [letter()], door="test", once=once("same"))
    outcomes = await together(
        door.submit(org, [letter()], door="test", once=once("good")),
        door.submit(org, [letter(subject=subject)], door="test", once=once("bad")),
        door.submit(org, [letter()], door="test"),
        door.submit(org, [letter()], door="test", once=once("same")),
    )
    assert list(map(word, outcomes)) == ["stored", "Unavailable", "stored", "replayed"]
    assert await counts(admin) == (3, 3, 3, 3, 3)
    assert {row["key"] for row in await admin.fetch("SELECT key FROM idempotency_keys")} == {"same", "good"}
    assert word(await doors[1].submit(org, [letter()], door="test", once=once("bad"))) == "stored"


async def test_a_key_stored_without_the_lock_while_the_group_is_under_way(
    doors: list[Submits], admin: asyncpg.Connection, postgres_server, database: str, org: UUID, domain: UUID, quota: str
) -> None:
    """Its row is in no snapshot of the group's, yet in the way: the group is tried again, each for itself, and finds it."""
    door = doors[0]
    await door.submit(org, [letter()], door="test")
    transaction = admin.transaction()
    await transaction.start()
    await admin.execute(
        "INSERT INTO idempotency_keys (org_id, endpoint, key, fingerprint, response, created_at) "
        "VALUES ($1, $2, 'k', 'payload', 'told', now())",
        org,
        ENDPOINT,
    )
    watcher = await asyncpg.connect(postgres_server.admin_url(database))
    asked = asyncio.create_task(
        together(door.submit(org, [letter()], door="test", once=once("k")), door.submit(org, [letter()], door="test"))
    )
    async with asyncio.timeout(60):
        while not await watcher.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0.01)
    await watcher.close()
    await transaction.commit()
    outcomes = await asked
    assert list(map(word, outcomes)) == ["replayed", "stored"]
    assert isinstance(outcomes[0], Submitted) and outcomes[0].response == b"told"
    assert await counts(admin) == (2, 2, 2, 2, 2)


async def test_who_hangs_up_and_comes_again_with_its_key_is_one_mail(
    doors: list[Submits], admin: asyncpg.Connection, org: UUID, domain: UUID, quota: str
) -> None:
    """The first is still on its way when the second joins, in the same group or the one after."""
    door = doors[0]
    await door.submit(org, [letter()], door="test")
    for pause in (0, 3):
        key = f"order/{pause}"
        gone = asyncio.create_task(door.submit(org, [letter()], door="test", once=once(key)))
        await asyncio.sleep(0)
        for _ in range(pause):
            await asyncio.sleep(0.001)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        again = (await together(door.submit(org, [letter()], door="test", once=once(key))))[0]
        assert word(again) in {"stored", "replayed", "concurrent_idempotent_requests"}
        await door.drain()
        assert await admin.fetchval("SELECT count(*) FROM idempotency_keys WHERE key = $1", key) == 1
    assert await counts(admin) == (3, 3, 3, 3, 3)


async def test_a_replay_rings_for_nobody(
    doors: list[Submits], ringer: Ringer, org: UUID, domain: UUID, quota: str
) -> None:
    await doors[0].submit(org, [letter()], door="test", once=once("k"))
    await ringer.drain()
    assert len(await ringer.redis.keys("postroom:bell:*")) == 1
    await ringer.redis.flushall()
    assert word(await doors[0].submit(org, [letter()], door="test", once=once("k"))) == "replayed"
    await ringer.drain()
    assert await ringer.redis.keys("postroom:bell:*") == []


async def test_a_lost_database_tells_all_and_burns_nothing(
    doors: list[Submits], admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    door = doors[0]
    await door.submit(org, [letter()], door="test")
    blocker = admin.transaction()
    await blocker.start()
    await admin.execute("LOCK TABLE emails IN ACCESS EXCLUSIVE MODE")
    asked = asyncio.create_task(
        together(*(door.submit(org, [letter()], door="test", once=once(f"k{n}")) for n in range(5)))
    )
    async with asyncio.timeout(60):
        while not await admin.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE NOT granted AND relation = 'emails'::regclass"
        ):
            await asyncio.sleep(0.01)
    outcomes = await asked
    await blocker.rollback()
    assert {type(each) for each in outcomes} == {Unavailable}
    assert await admin.fetchval("SELECT count(*) FROM idempotency_keys") == 0
    again = await together(*(door.submit(org, [letter()], door="test", once=once(f"k{n}")) for n in range(5)))
    assert {word(each) for each in again} == {"stored"}
    assert (await counts(admin))[0] == 6


async def test_a_group_is_bounded_by_its_recipients_too(
    doors: list[Submits], admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    """Nobody waits for a statement of tens of thousands of rows."""
    many = [f"u{n}@example.com" for n in range(150)]
    await doors[0].submit(org, [letter()], door="test")
    await together(*(doors[0].submit(org, [letter(*many)], door="test") for _ in range(80)))
    copies = await admin.fetch("SELECT count(*) AS n FROM deliveries GROUP BY xmin::text")
    assert sum(row["n"] for row in copies) == 80 * 150 + 1
    assert max(row["n"] for row in copies) <= 10_000
