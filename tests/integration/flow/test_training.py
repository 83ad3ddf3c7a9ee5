"""What people report is learned once, whoever is away meanwhile: Redis, a scanner, the process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from chassis.bells import Bells
from mailcore import blob
from mailcore.blob.base import BlobStore
from mailcore.flow import training
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Arrival, Receives
from mailcore.flow.route import Routes
from mailcore.flow.training import DELAYS, Pupil, Trainings
from mailcore.flow.upkeep import forget
from mailcore.kit.errors import Exceeded, Unavailable
from mailcore.kit.ids import uuid7
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import TRAIN
from mailcore.smtp.envelope import Envelope
from mailcore.store import arrivals
from mailcore.store.session import Store

RAW = b"From: a@x.example\r\nTo: b@postroom.test\r\nSubject: buy now\r\n\r\nbuy \xff now\r\n"


@dataclass
class Notebook:
    """A scanner that writes down what it is told."""

    told: list[tuple[bytes, bool]] = field(default_factory=list)
    away: bool = False
    meanwhile: asyncio.Event | None = None

    async def learn(self, raw: bytes, *, spam: bool) -> bool:
        if self.away:
            raise Unavailable("It is away.")
        if self.meanwhile is not None:
            await self.meanwhile.wait()
        known = (raw, spam) in self.told
        self.told.append((raw, spam))
        return not known


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return blob.open(f"file://{tmp_path}/blobs")


@pytest.fixture
async def message(
    store: Store, ringer: Ringer, blobs: BlobStore, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> UUID:
    receives, routes = Receives(store, ringer, blobs), Routes(store, ringer, blobs)
    lease = WorkerLease(store, "inbound_smtp")
    await lease.enrol()
    raw = RAW + uuid7().hex.encode()
    arrival = Arrival(
        raw, Envelope("a@x.example", ("b@postroom.test",)), {}, "192.0.2.9", None, "smtp", {org: ["b@postroom.test"]}
    )
    id_ = (await receives.receive(arrival)).ids[org]
    async with store.worker() as db:
        claimed = await arrivals.claim(db, lease.id, limit=10)
    await routes.route(lease.id, claimed)
    await routes.settled()
    found: UUID = await admin.fetchval("SELECT id FROM messages WHERE arrival_id = $1", id_)
    return found


async def row(admin: asyncpg.Connection, message: UUID) -> asyncpg.Record:
    found = await admin.fetchrow("SELECT * FROM trainings WHERE message_id = $1", message)
    assert found is not None
    return found


async def flags(admin: asyncpg.Connection, message: UUID) -> tuple[list[str], bool]:
    found = await admin.fetchrow("SELECT flags, junk FROM messages WHERE id = $1", message)
    return found["flags"], found["junk"]


async def test_spam_and_then_not_spam(
    store: Store, ringer: Ringer, blobs: BlobStore, org: UUID, message: UUID, admin: asyncpg.Connection
) -> None:
    one, two = Notebook(), Notebook()
    trainings = Trainings(store, blobs, [Pupil("one", one, 0), Pupil("two", two, 10)])
    await training.report(store, ringer, org, message, spam=True, by=None)
    assert await flags(admin, message) == (["$Junk"], True)
    assert await trainings.sweep() == 1 and await trainings.sweep() == 0
    found = await row(admin, message)
    assert (found["state"], found["due_at"], found["attempt"]) == ("done", None, 1)
    assert [each["scanner"] for each in found["learned"]] == ["one", "two"]
    assert found["learned"][0]["learned"] is True and "larger" in found["learned"][1]["note"]
    ((raw, spam),) = one.told
    assert raw.startswith(RAW) and spam is True and two.told == []

    await training.report(store, ringer, org, message, spam=True, by=None)
    assert await trainings.sweep() == 0, "said twice is said once"

    await training.report(store, ringer, org, message, spam=False, by=None)
    assert await flags(admin, message) == (["$NotJunk"], False)
    await trainings.teach(str(message))
    assert [spam for _, spam in one.told] == [True, False]
    await trainings.teach(str(message))
    assert len(one.told) == 2


async def test_a_scanner_that_is_away_is_told_later_and_the_others_once(
    store: Store, ringer: Ringer, blobs: BlobStore, org: UUID, message: UUID, admin: asyncpg.Connection
) -> None:
    here, away = Notebook(), Notebook(away=True)
    trainings = Trainings(store, blobs, [Pupil("here", here, 0), Pupil("away", away, 0)])
    await training.report(store, ringer, org, message, spam=True, by=None)
    await trainings.sweep()
    found = await row(admin, message)
    assert found["state"] == "waiting" and found["reason"] == "away: It is away." and found["due_at"] is not None
    assert await trainings.sweep() == 0, "it is not due yet"
    away.away = False
    await admin.execute("UPDATE trainings SET due_at = now()")
    await trainings.sweep()
    found = await row(admin, message)
    assert (found["state"], found["reason"]) == ("done", None)
    assert len(here.told) == len(away.told) == 1


async def test_after_the_last_try_it_has_failed_and_can_be_reported_again(
    store: Store, ringer: Ringer, blobs: BlobStore, org: UUID, message: UUID, admin: asyncpg.Connection
) -> None:
    away = Notebook(away=True)
    trainings = Trainings(store, blobs, [Pupil("away", away, 0)])
    await training.report(store, ringer, org, message, spam=True, by=None)
    for _ in DELAYS:
        await admin.execute("UPDATE trainings SET due_at = now()")
        await trainings.sweep()
    assert (await row(admin, message))["state"] == "failed"
    away.away = False
    await training.report(store, ringer, org, message, spam=True, by=None)
    await trainings.sweep()
    assert (await row(admin, message))["state"] == "done"


async def test_a_process_that_dies_while_it_teaches_is_followed_by_another(
    store: Store, ringer: Ringer, blobs: BlobStore, org: UUID, message: UUID, admin: asyncpg.Connection
) -> None:
    slow = Notebook(meanwhile=asyncio.Event())
    dying = asyncio.create_task(Trainings(store, blobs, [Pupil("one", slow, 0)]).sweep())
    await training.report(store, ringer, org, message, spam=True, by=None)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    teaching = asyncio.create_task(Trainings(store, blobs, [Pupil("one", slow, 0)]).teach(str(message)))
    while (await row(admin, message))["attempt"] == 0:
        await asyncio.sleep(0.01)
    teaching.cancel()
    await asyncio.gather(teaching, return_exceptions=True)
    found = await row(admin, message)
    assert found["state"] == "waiting" and found["due_at"] is not None
    await admin.execute("UPDATE trainings SET due_at = now()")  # its time has come
    after = Notebook()
    await Trainings(store, blobs, [Pupil("one", after, 0)]).sweep()
    assert (await row(admin, message))["state"] == "done" and len(after.told) == 1


async def test_who_changes_his_mind_meanwhile_is_not_overruled(
    store: Store, ringer: Ringer, blobs: BlobStore, org: UUID, message: UUID, admin: asyncpg.Connection
) -> None:
    slow = Notebook(meanwhile=asyncio.Event())
    trainings = Trainings(store, blobs, [Pupil("one", slow, 0)])
    await training.report(store, ringer, org, message, spam=True, by=None)
    teaching = asyncio.create_task(trainings.sweep())
    while (await row(admin, message))["attempt"] == 0:
        await asyncio.sleep(0.01)
    await training.report(store, ringer, org, message, spam=False, by=None)
    assert slow.meanwhile is not None
    slow.meanwhile.set()
    await teaching
    assert (await row(admin, message))["state"] == "waiting"
    await trainings.sweep()
    found = await row(admin, message)
    assert (found["state"], found["spam"], [spam for _, spam in slow.told]) == ("done", False, [True, False])


async def test_nobody_learns_here_and_mail_that_is_gone(
    store: Store, ringer: Ringer, blobs: BlobStore, org: UUID, message: UUID, admin: asyncpg.Connection
) -> None:
    await training.report(store, ringer, org, message, spam=True, by=None)
    await Trainings(store, blobs, []).sweep()
    found = await row(admin, message)
    assert (found["state"], found["reason"]) == ("skipped", "No scanner here learns.")
    await training.report(store, ringer, org, message, spam=False, by=None)
    await admin.execute("UPDATE arrivals SET raw = NULL, raw_blob = NULL")
    one = Notebook()
    await Trainings(store, blobs, [Pupil("one", one, 0)]).sweep()
    found = await row(admin, message)
    assert found["state"] == "skipped" and "no longer kept" in found["reason"] and one.told == []


async def test_an_organization_reports_so_much_a_day(
    store: Store, ringer: Ringer, org: UUID, message: UUID, admin: asyncpg.Connection
) -> None:
    for n in range(4):
        await training.report(store, ringer, org, message, spam=n % 2 == 0, by=None, per_day=4)
    with pytest.raises(Exceeded, match="4 messages"):
        await training.report(store, ringer, org, message, spam=True, by=None, per_day=4)
    assert await flags(admin, message) == (["$NotJunk"], False)
    assert await training.report(store, ringer, org, message, spam=False, by=None, per_day=4) is not None
    await admin.execute("UPDATE trainings SET reported_at = now() - interval '25 hours'")
    assert await training.report(store, ringer, org, message, spam=True, by=None, per_day=4) is not None


async def test_anothers_message_is_unknown(
    store: Store, ringer: Ringer, message: UUID, admin: asyncpg.Connection
) -> None:
    other = uuid7()
    await admin.execute("INSERT INTO organizations (id, name) VALUES ($1, 'other')", other)
    assert await training.report(store, ringer, other, message, spam=True, by=None) is None
    assert await flags(admin, message) == ([], False)
    assert await admin.fetchval("SELECT count(*) FROM trainings") == 0


async def test_a_report_rings_and_is_learned_at_once(
    store: Store, ringer: Ringer, redis_url: str, blobs: BlobStore, org: UUID, message: UUID, admin: asyncpg.Connection
) -> None:
    one = Notebook()
    bells = Bells(redis_url, TRAIN.service, chores={TRAIN: Trainings(store, blobs, [Pupil("one", one, 0)]).teach})
    serving = asyncio.create_task(bells.run())
    try:
        await training.report(store, ringer, org, message, spam=True, by=None)
        async with asyncio.timeout(60):
            while (await row(admin, message))["state"] != "done":
                await asyncio.sleep(0.02)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert len(one.told) == 1


async def test_without_redis_it_is_learned_by_the_sweep(
    store: Store, blobs: BlobStore, org: UUID, message: UUID, admin: asyncpg.Connection
) -> None:
    away = Ringer("redis://127.0.0.1:1/0")
    assert await training.report(store, away, org, message, spam=True, by=None) is not None
    await away.close()
    one = Notebook()
    watching = asyncio.create_task(Trainings(store, blobs, [Pupil("one", one, 0)]).watch())
    async with asyncio.timeout(60):
        while (await row(admin, message))["state"] != "done":
            await asyncio.sleep(0.02)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert len(one.told) == 1


async def test_what_has_ended_is_forgotten_after_a_while(
    store: Store, ringer: Ringer, blobs: BlobStore, org: UUID, message: UUID, admin: asyncpg.Connection
) -> None:
    await training.report(store, ringer, org, message, spam=True, by=None)
    await admin.execute("UPDATE trainings SET reported_at = now() - interval '91 days'")
    await forget(store)
    assert (await row(admin, message))["state"] == "waiting"
    await Trainings(store, blobs, [Pupil("one", Notebook(), 0)]).sweep()
    await forget(store)
    assert await admin.fetchval("SELECT count(*) FROM trainings") == 0
