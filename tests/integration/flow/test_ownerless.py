"""Leases of workers that have no row: claimed after their burial, or left behind by a drain that could not give them back."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import asyncpg

from imap_sync.runner import Accounts
from inbound_smtp.router import Router
from mailcore.blob.local import LocalBlobs
from mailcore.flow import settle
from mailcore.flow.lease import WorkerLease
from mailcore.flow.mirror import ImapDoor
from mailcore.flow.receive import Arrival, Receives
from mailcore.flow.route import Routes
from mailcore.flow.submit import NewEmail, Submits
from mailcore.kit.clock import SystemClock
from mailcore.kit.guard import Guard
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.smtp.envelope import Envelope
from mailcore.store import accounts, deliveries
from mailcore.store.session import Store


async def _send(store: Store, ringer: Ringer, folder: Path, org: UUID) -> UUID:
    email = NewEmail(
        "us@postroom.test", "postroom.test", ["you@example.com"], [parse_address("you@example.com")], "Hi", text="Hi"
    )
    (id_,) = (await Submits(store, ringer, LocalBlobs(folder)).submit(org, [email], door="test")).ids
    return id_


async def test_a_worker_that_claims_after_its_burial_keeps_nothing(
    store: Store, ringer: Ringer, tmp_path: Path, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    email_id = await _send(store, ringer, tmp_path, org)
    lane = await admin.fetchval("SELECT lane_id FROM queue")
    paused = WorkerLease(store, "outbound")
    buried = await paused.enrol()
    await admin.execute("UPDATE workers SET heartbeat_at = now() - interval '1 hour'")
    assert await settle.sweep(store, "outbound", 20) == []
    async with store.worker() as db:
        (row,) = await deliveries.claim(db, [lane], buried, limit=1, quantum=1, schedule=[60.0])
    (back,) = await settle.sweep(store, "outbound", 20)
    assert (back.email_id, back.possible_duplicate) == (email_id, False)
    assert await admin.fetchval("SELECT worker FROM queue") is None
    assert await deliveries.mark_dot_sent(store, [row]) == set(), "the paused one may not send it any more"


async def test_what_a_drain_could_not_give_back_is_taken_back(
    store: Store, ringer: Ringer, tmp_path: Path, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    await _send(store, ringer, tmp_path, org)
    lane = await admin.fetchval("SELECT lane_id FROM queue")
    lease, other = WorkerLease(store, "outbound"), WorkerLease(store, "outbound")
    await other.enrol()
    async with store.worker() as db:
        (row,) = await deliveries.claim(db, [lane], await lease.enrol(), limit=1, quantum=1, schedule=[60.0])
    await deliveries.mark_dot_sent(store, [row])
    await lease.leave()
    (back,) = await settle.sweep(store, "outbound", 20)
    assert back.possible_duplicate


async def test_leases_of_living_workers_stay(
    store: Store, ringer: Ringer, tmp_path: Path, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    await _send(store, ringer, tmp_path, org)
    lane = await admin.fetchval("SELECT lane_id FROM queue")
    lease = WorkerLease(store, "outbound")
    async with store.worker() as db:
        await deliveries.claim(db, [lane], await lease.enrol(), limit=1, quantum=1, schedule=[60.0])
    assert await settle.sweep(store, "outbound", 20) == []
    assert await admin.fetchval("SELECT worker FROM queue") == lease.id


async def test_an_arrival_leased_to_nobody_is_routed(
    store: Store, ringer: Ringer, tmp_path: Path, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    blobs = LocalBlobs(tmp_path)
    envelope = Envelope("a@b.example", ("you@postroom.test",))
    raw = b"Subject: Hi\r\n\r\nHi\r\n"
    await Receives(store, ringer, blobs).receive(
        Arrival(raw, envelope, {}, "192.0.2.1", None, "smtp", {org: ["you@postroom.test"]})
    )
    await admin.execute("UPDATE arrival_queue SET worker = 999999, leased_at = now()")
    router = Router(store, WorkerLease(store, "inbound_smtp"), Routes(store, ringer, blobs), batch=50)
    await router.work(None)
    assert await admin.fetchval("SELECT state FROM arrivals") == "routed"


async def test_an_account_leased_to_nobody_is_looked_at_again(
    store: Store, keyring: Keyring, admin: asyncpg.Connection, org: UUID
) -> None:
    sync = await _account(store, keyring, org)
    await admin.execute("UPDATE accounts SET worker = 999999, leased_at = now(), due_at = now() + interval '1 hour'")
    await sync.work(None)
    await sync.drain()
    assert await admin.fetchval("SELECT worker FROM accounts") is None
    # the server is closed to this purpose, which is told: somebody has looked
    assert await admin.fetchval("SELECT state FROM accounts") == "error"


async def test_an_account_whose_claim_was_never_answered_is_looked_at_again(
    store: Store, keyring: Keyring, admin: asyncpg.Connection, org: UUID
) -> None:
    lease = WorkerLease(store, "imap_sync")
    sync = await _account(store, keyring, org, lease)
    async with store.worker() as db:
        assert len(await accounts.claim(db, await lease.enrol(), 1, 3600)) == 1
    await sync.work(None)
    await sync.drain()
    assert await admin.fetchval("SELECT worker FROM accounts") == lease.id, "its answer may be on its way"
    await admin.execute("UPDATE accounts SET leased_at = now() - interval '1 minute'")
    await sync.work(None)
    await sync.drain()
    assert await admin.fetchval("SELECT worker FROM accounts") is None
    assert await admin.fetchval("SELECT state FROM accounts") == "error"


async def _account(store: Store, keyring: Keyring, org: UUID, lease: WorkerLease | None = None) -> Accounts:
    async with store.tenant(org) as db:
        await accounts.add(
            db,
            account_id=uuid7(),
            mailbox_id=uuid7(),
            org_id=org,
            host="127.0.0.1",
            port=143,
            security="none",
            username="ann",
            password_sealed=keyring.seal(b"secret", "imap"),
        )
    return Accounts(
        store,
        lease or WorkerLease(store, "imap_sync"),
        ImapDoor(Guard("imap")),
        keyring,
        SystemClock(),
        poll_seconds=3600,
        concurrency=4,
    )
