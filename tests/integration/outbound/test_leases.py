"""Claim, mark, settle, release, take back: who may act on a row, and what a death leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from integration.outbound.harness import Tenant, until
from mailcore.flow import settle as door
from mailcore.flow.settle import Attempt
from mailcore.kit.ids import uuid7
from mailcore.smtp.outcome import Line, Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import deliveries, due, leases, workers
from mailcore.store.deliveries import Leased
from mailcore.store.session import Store

SCHEDULE = [60.0, 300.0]
DELIVERED = Outcome(Result.DELIVERED, Reply(250, "ok", "2.0.0"), "mx.test", "192.0.2.1", dot_sent=True)
BLOCKED = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
DEFERRED = Outcome(Result.DEFERRED, Reply(451, "later", "4.2.0"), "mx.test")


@pytest.fixture
async def worker(store: Store) -> int:
    return await _register(store)


async def _register(store: Store) -> int:
    async with store.worker() as db:
        return await workers.register(db, "outbound", "host", 1)


async def _lanes(admin: asyncpg.Connection) -> list[int]:
    return [row["id"] for row in await admin.fetch("SELECT id FROM lanes ORDER BY id")]


async def _claim(store: Store, worker: int, lanes: list[int], **limits: Any) -> list[Leased]:
    async with store.worker() as db:
        return await deliveries.claim(db, lanes, worker, **{"limit": 100, "quantum": 100, **limits}, schedule=SCHEDULE)


def _attempt(row: Leased, outcome: Outcome = DELIVERED) -> Attempt:
    return Attempt(row, outcome, "mx:mx.test", len(SCHEDULE) + 1)


async def test_a_claim_writes_attempt_lease_and_next_due_time_first(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    email_id = await tenant.send("you@example.com")
    (row,) = await _claim(store, worker, await _lanes(admin))
    assert (row.email_id, row.n, row.attempt, row.worker) == (email_id, 0, 1, worker)
    assert (row.recipient, row.org_id) == ("you@example.com", tenant.org_id)
    stored = await tenant.queued(email_id)
    assert stored is not None
    assert (stored["worker"], stored["attempt"], stored["dot_sent"]) == (worker, 1, False)
    wait = (stored["due_at"] - stored["leased_at"]).total_seconds()
    assert 60 * 0.9 - 1 <= wait <= 60 * 1.1
    assert await _claim(store, worker, await _lanes(admin)) == []


async def test_rows_of_an_older_version_name_no_recipient_and_are_claimed_with_it(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    org, email_id = tenant.org_id, await tenant.send("you@example.com")
    await admin.execute("UPDATE queue SET recipient = NULL")
    (row,) = await _claim(store, worker, await _lanes(admin))
    assert (row.recipient, row.suppressed) == ("you@example.com", None)
    await door.release(store, [row])
    await admin.execute(
        "INSERT INTO suppressions (id, org_id, email, origin) VALUES ($1, $2, 'you@example.com', 'manual')",
        uuid7(),
        org,
    )
    await admin.execute("UPDATE queue SET crashes = 1")
    async with store.worker() as db:
        suspect = await deliveries.claim_suspect(db, row.lane_id, worker, schedule=SCHEDULE)
    assert suspect is not None
    assert (suspect.email_id, suspect.recipient, suspect.suppressed) == (email_id, "you@example.com", "manual")


async def test_two_workers_racing_never_get_the_same_row(
    tenant: Tenant, store: Store, admin: asyncpg.Connection
) -> None:
    for n in range(4):
        await tenant.send_each([[f"u{n}-{k}@d{n}.example"] for k in range(100)])
    lanes = await _lanes(admin)
    ids = [await _register(store) for _ in range(4)]

    async def drain(worker: int) -> list[Leased]:
        taken: list[Leased] = []
        while rows := await _claim(store, worker, lanes, limit=7, quantum=3):
            taken += rows
        return taken

    taken = await asyncio.gather(*(drain(worker) for worker in ids))
    keys = [row.key for rows in taken for row in rows]
    # a worker leaves when it sees only rows that another is just taking: the last ones may be left over, none is taken twice
    assert len(keys) == len(set(keys))
    rest = await _claim(store, ids[0], lanes, limit=1000, quantum=1000)
    assert len(keys) + len(rest) == 400
    assert sum(1 for rows in taken if rows) >= 2


async def test_lanes_share_a_claim(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int, make_org: Any, make_domain: Any
) -> None:
    other = await make_org()
    await make_domain(other, "other.test")
    await tenant.send_each([[f"u{n}@example.com"] for n in range(50)])
    await tenant.send("one@example.com", org_id=other, domain="other.test")
    rows = await _claim(store, worker, await _lanes(admin), limit=10, quantum=5)
    assert sorted(row.org_id == other for row in rows) == [False] * 5 + [True]


async def test_only_who_holds_the_lease_marks_and_settles(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    email_id = await tenant.send("you@example.com")
    lanes = await _lanes(admin)
    (old,) = await _claim(store, worker, lanes)
    async with store.worker() as db:
        await leases.take_back(db, [worker])
    await admin.execute("UPDATE queue SET crashes = 0")
    other = await _register(store)
    (new,) = await _claim(store, other, lanes)
    assert await deliveries.mark_dot_sent(store, [old]) == set()
    assert await deliveries.mark_dot_sent(store, [new]) == {new.key}
    late = await door.settle(store, [_attempt(old)])
    assert late.settled == frozenset()
    assert (await tenant.delivery(email_id))["state"] == "queued"
    assert (await door.settle(store, [_attempt(new)])).settled == {new.key}
    # the same once more, as after a commit whose answer was lost: nothing happens twice
    assert (await door.settle(store, [_attempt(new)])).settled == frozenset()
    assert [event["type"] for event in await tenant.events(email_id)] == ["email.sent", "email.delivered"]


async def test_an_earlier_attempt_of_the_same_worker_is_fenced_too(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    await tenant.send("you@example.com")
    lanes = await _lanes(admin)
    (first,) = await _claim(store, worker, lanes)
    await door.settle(store, [_attempt(first, DEFERRED)])
    await admin.execute("UPDATE queue SET due_at = now()")
    (second,) = await _claim(store, worker, lanes)
    assert second.attempt == 2
    assert (await door.settle(store, [_attempt(first)])).settled == frozenset()
    assert (await door.settle(store, [_attempt(second)])).settled == {second.key}


async def test_a_batch_settles_each_row_for_itself(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    ids = await tenant.send_each([[f"u{n}@example.com"] for n in range(4)])
    rows = {row.email_id: row for row in await _claim(store, worker, await _lanes(admin))}
    talk = (Line(1.0, said="MAIL FROM:<x>"), Line(1.5, heard="250 \x00 \udcff ok"))
    outcomes = [
        DELIVERED,
        DEFERRED,
        Outcome(Result.BOUNCED, Reply(550, "no such user", "5.1.1"), conversation=talk),
        Outcome(Result.FAILED, Reply(554, "bad", "5.6.0"), rule="invalid-message"),
    ]
    batch = await door.settle(store, [_attempt(rows[id_], outcome) for id_, outcome in zip(ids, outcomes, strict=True)])
    assert len(batch.settled) == 4
    states = [(await tenant.delivery(id_))["state"] for id_ in ids]
    assert states == ["delivered", "queued", "bounced", "failed"]
    assert await admin.fetchval("SELECT count(*) FROM queue") == 1
    left = await tenant.queued(ids[1])
    assert left is not None
    assert left["worker"] is None
    attempts = [(await tenant.attempts(id_))[0] for id_ in ids]
    assert [a["outcome"] for a in attempts] == ["delivered", "deferred", "bounced", "failed"]
    assert attempts[2]["conversation"] == [[1.0, "said", "MAIL FROM:<x>"], [1.5, "heard", "250 \ufffd \ufffd ok"]]
    types = [(await tenant.events(id_))[-1]["type"] for id_ in ids]
    assert types == ["email.delivered", "email.delivery_delayed", "email.bounced", "email.failed"]
    assert (await tenant.events(ids[3]))[-1]["detail"] == {"failed": {"reason": "invalid-message"}}


async def test_the_second_deferral_raises_no_second_event(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    email_id = await tenant.send("you@example.com")
    lanes = await _lanes(admin)
    for _ in range(2):
        (row,) = await _claim(store, worker, lanes)
        await door.settle(store, [_attempt(row, DEFERRED)])
        await admin.execute("UPDATE queue SET due_at = now()")
    assert [event["type"] for event in await tenant.events(email_id)] == ["email.sent", "email.delivery_delayed"]
    (row,) = await _claim(store, worker, lanes)
    await door.settle(store, [_attempt(row, DEFERRED)])
    assert (await tenant.delivery(email_id))["state"] == "expired"


async def test_released_rows_are_due_again_with_the_attempt_not_counted(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    email_id = await tenant.send("you@example.com")
    (row,) = await _claim(store, worker, await _lanes(admin))
    await door.release(store, [row])
    stored = await tenant.queued(email_id)
    assert stored is not None
    assert (stored["worker"], stored["attempt"]) == (None, 0)
    (again,) = await _claim(store, worker, await _lanes(admin))
    assert again.attempt == 1


@pytest.mark.parametrize("what", ["mark", "settle", "release", "turned away"])
async def test_rows_are_locked_by_key_whatever_order_they_come_in(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int, what: str
) -> None:
    """Else the leave to send for some rows and the giving back of the same could wait for each other."""
    for n in range(2):
        await tenant.send(f"u{n}@example.com")
    low, high = sorted(await _claim(store, worker, await _lanes(admin)), key=lambda row: row.key)
    calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "mark": lambda: deliveries.mark_dot_sent(store, [high, low]),
        "settle": lambda: door.settle(store, [_attempt(high), _attempt(low)]),
        "release": lambda: door.release(store, [high, low]),
        "turned away": lambda: door.release(store, [], [_attempt(high, DEFERRED), _attempt(low, DEFERRED)]),
    }
    of_one = "SELECT FROM queue WHERE email_id = $1 AND n = $2 FOR UPDATE"
    async with admin.transaction():
        await admin.execute(of_one, *low.key)
        task = asyncio.create_task(calls[what]())
        try:
            async with asyncio.timeout(60):
                while not await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.01)
            await admin.execute(f"{of_one} NOWAIT", *high.key)
        finally:
            await admin.execute("ROLLBACK; BEGIN")
            await task


async def test_a_lease_that_was_given_back_is_fenced_when_the_same_worker_gets_the_row_again(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    email_id = await tenant.send("you@example.com")
    lanes = await _lanes(admin)
    (old,) = await _claim(store, worker, lanes)
    await door.release(store, [old])
    (new,) = await _claim(store, worker, lanes)
    assert (new.key, new.worker, new.attempt) == (old.key, old.worker, old.attempt)
    assert await deliveries.mark_dot_sent(store, [old]) == set()
    for outcome in (DELIVERED, DEFERRED):
        assert (await door.settle(store, [_attempt(old, outcome)])).settled == frozenset()
    async with store.worker() as db:
        assert await deliveries.release(db, [old]) == 0
    stored = await tenant.queued(email_id)
    assert stored is not None
    assert (stored["worker"], stored["attempt"], stored["dot_sent"]) == (worker, 1, False)
    assert await deliveries.mark_dot_sent(store, [new]) == {new.key}
    assert (await door.settle(store, [_attempt(new)])).settled == {new.key}


async def test_strays_are_rows_whose_claim_was_never_answered(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    ids = await tenant.send_each([[f"u{n}@example.com"] for n in range(3)])
    rows = await _claim(store, worker, await _lanes(admin))
    held = {row.key for row in rows if row.email_id != ids[1]}
    async with store.worker() as db:
        assert await leases.strays(db, worker, held, older_than=60) == 0
    await admin.execute("UPDATE queue SET leased_at = leased_at - interval '2 minutes'")
    async with store.worker() as db:
        assert await leases.strays(db, worker, held, older_than=60) == 1
    assert await admin.fetchval("SELECT email_id FROM queue WHERE worker IS NULL") == ids[1]
    assert not (await tenant.delivery(ids[1]))["possible_duplicate"]
    # of one that was marked nobody knows whether its final dot left
    await admin.execute("UPDATE queue SET dot_sent = true WHERE worker IS NOT NULL")
    async with store.worker() as db:
        assert await leases.strays(db, worker, {rows[0].key} & held, older_than=60) >= 1
    free = await admin.fetch(
        "SELECT email_id, possible_duplicate FROM queue WHERE worker IS NULL AND email_id <> $1", ids[1]
    )
    assert {row["possible_duplicate"] for row in free} == {True}


# ---- deaths ----------------------------------------------------------------------------------------------------------


async def _die(admin: asyncpg.Connection, worker: int) -> None:
    await admin.execute("UPDATE workers SET heartbeat_at = now() - interval '1 hour' WHERE id = $1", worker)


async def test_before_the_dot_a_dead_workers_row_is_plainly_queued_again(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    email_id = await tenant.send("you@example.com")
    await _claim(store, worker, await _lanes(admin))
    assert await door.sweep(store, "outbound", 20) == []  # it lives
    await _die(admin, worker)
    (back,) = await door.sweep(store, "outbound", 20)
    assert (back.email_id, back.crashes, back.possible_duplicate) == (email_id, 1, False)
    stored = await tenant.queued(email_id)
    assert stored is not None
    assert (stored["worker"], stored["crashes"], stored["possible_duplicate"]) == (None, 1, False)
    assert await admin.fetchval("SELECT due_at <= now() FROM queue")
    assert not (await tenant.delivery(email_id))["possible_duplicate"]
    (attempt,) = await tenant.attempts(email_id)
    assert (attempt["outcome"], attempt["rule"]) == ("lost", "worker-died")
    assert await admin.fetchval("SELECT count(*) FROM workers") == 0


async def test_after_the_dot_the_retry_is_marked(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    email_id = await tenant.send("you@example.com")
    (row,) = await _claim(store, worker, await _lanes(admin))
    await deliveries.mark_dot_sent(store, [row])
    await _die(admin, worker)
    (back,) = await door.sweep(store, "outbound", 20)
    assert back.possible_duplicate
    assert (await tenant.delivery(email_id))["possible_duplicate"]
    other = await _register(store)
    async with store.worker() as db:
        again = await deliveries.claim_suspect(db, row.lane_id, other, schedule=SCHEDULE)
    assert again is not None
    assert again.possible_duplicate
    await door.settle(store, [_attempt(again)])
    assert (await tenant.attempts(email_id))[-1]["possible_duplicate"]
    assert (await tenant.events(email_id))[-1]["detail"] == {"possible_duplicate": True}


async def test_a_mark_that_comes_while_its_worker_is_buried_is_heard(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    """The worker was only slow: its row moves between the sweep's first sight of it and the lock."""
    email_id = await tenant.send("you@example.com")
    (row,) = await _claim(store, worker, await _lanes(admin))
    await _die(admin, worker)
    async with store.worker() as late:
        await late.execute("UPDATE queue SET dot_sent = true WHERE email_id = $1", row.email_id)
        sweeping = asyncio.create_task(door.sweep(store, "outbound", 20))
        await until(lambda: admin.fetchval(BLOCKED), "the sweep waits for the row")
    (back,) = await sweeping
    assert back.possible_duplicate
    stored = await tenant.queued(email_id)
    assert stored is not None and (stored["worker"], stored["possible_duplicate"]) == (None, True)
    assert await door.sweep(store, "outbound", 20) == []


async def test_a_lease_older_than_the_server_counts_as_sent(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    await tenant.send("you@example.com")
    await _claim(store, worker, await _lanes(admin))
    await admin.execute("UPDATE queue SET leased_at = pg_postmaster_start_time() - interval '1 second'")
    await _die(admin, worker)
    (back,) = await door.sweep(store, "outbound", 20)
    assert back.possible_duplicate


async def test_a_suspect_goes_alone_and_is_quarantined_after_three_crashes(
    tenant: Tenant, store: Store, admin: asyncpg.Connection
) -> None:
    poison, *others = await tenant.send_each([[f"u{n}@example.com"] for n in range(5)])
    lanes = await _lanes(admin)
    worker = await _register(store)
    assert len(await _claim(store, worker, lanes)) == 5
    await _die(admin, worker)
    assert len(await door.sweep(store, "outbound", 20)) == 5
    # all five saw a crash: none is claimed in company any more
    worker = await _register(store)
    assert await _claim(store, worker, lanes) == []
    await admin.execute("UPDATE queue SET due_at = now() - interval '1 minute' WHERE email_id = $1", poison)
    for crash in (2, 3):
        async with store.worker() as db:
            lane = await due.peek_suspect(db)
            assert lane is not None
            row = await deliveries.claim_suspect(db, lane.lane_id, worker, schedule=SCHEDULE)
        assert row is not None
        assert row.email_id == poison
        await _die(admin, worker)
        (back,) = await door.sweep(store, "outbound", 20)
        assert (back.email_id, back.crashes, back.quarantined) == (poison, crash, crash == 3)
        await admin.execute("UPDATE queue SET due_at = now() - interval '1 minute' WHERE email_id = $1", poison)
        worker = await _register(store)
    assert (await tenant.delivery(poison))["state"] == "quarantined"
    assert await tenant.queued(poison) is None
    assert [a["outcome"] for a in await tenant.attempts(poison)] == ["lost"] * 3
    for email_id in others:
        row = await tenant.queued(email_id)
        assert row is not None
        assert row["crashes"] == 1


async def test_of_several_suspects_the_one_before_its_dot_is_blamed(
    tenant: Tenant, store: Store, admin: asyncpg.Connection
) -> None:
    await tenant.send_each([[f"u{n}@example.com"] for n in range(3)])
    (lane,) = await _lanes(admin)
    await admin.execute("UPDATE queue SET crashes = 1")
    worker = await _register(store)
    rows = []
    for _ in range(3):
        async with store.worker() as db:
            row = await deliveries.claim_suspect(db, lane, worker, schedule=SCHEDULE)
        assert row is not None
        rows.append(row)
    await deliveries.mark_dot_sent(store, rows[:2])
    await _die(admin, worker)
    back = {row.email_id: row for row in await door.sweep(store, "outbound", 20)}
    assert [back[row.email_id].crashes for row in rows] == [1, 1, 2]
    assert [back[row.email_id].possible_duplicate for row in rows] == [True, True, False]


async def test_rows_that_waited_out_their_schedule_expire(
    tenant: Tenant, store: Store, admin: asyncpg.Connection
) -> None:
    email_id = await tenant.send("you@example.com")
    await admin.execute("UPDATE sites SET failures = 3, last_reply = '554 go away'")
    assert await door.expire(store, datetime.now(UTC) - timedelta(days=4)) == (0, 0)
    assert await door.expire(store, datetime.now(UTC) + timedelta(seconds=5)) == (1, 0)
    row = await tenant.delivery(email_id)
    assert (row["state"], row["last_event"]) == ("expired", "bounced")
    event = (await tenant.events(email_id))[-1]
    assert event["type"] == "email.bounced"
    assert "554 go away" in event["detail"]["bounce"]["message"]


# ---- cost ------------------------------------------------------------------------------------------------------------


async def test_a_claim_costs_the_same_with_many_rows_waiting(
    tenant: Tenant, store: Store, admin: asyncpg.Connection, worker: int
) -> None:
    """200,000 rows in one lane and 3,000 lanes: what is read is counted in pages, not in seconds."""
    org = tenant.org_id
    await admin.execute("INSERT INTO sites (key) SELECT 'domain:d' || i || '.test' FROM generate_series(1, 3000) i")
    await admin.execute("INSERT INTO recipient_domains SELECT substr(key, 8), id FROM sites WHERE key LIKE 'domain:d%'")
    await admin.execute("INSERT INTO lanes (org_id, domain) SELECT $1, domain FROM recipient_domains", org)
    lanes = await _lanes(admin)
    ids = [uuid7() for _ in range(203_000)]
    await _fill(admin, ids, org, lambda i: lanes[0] if i < 200_000 else lanes[i - 200_000])
    pages = await _pages(admin, due._DUE_LANES, due.MOST_DUE)
    assert pages < 3_000 * 30
    async with store.worker() as db:
        assert len(await due.due_lanes(db)) == 3_000
    args = (worker, SCHEDULE, 0.1, lanes[:64], [8] * 64, 500)
    few = await _pages(admin, deliveries._CLAIM, *args)
    assert few < 71 * 60
    args = (worker, SCHEDULE, 0.1, lanes[:1], [200], 200)
    many = await _pages(admin, deliveries._CLAIM, *args)
    assert many < 200 * 60


async def _fill(admin: asyncpg.Connection, ids: list[UUID], org: UUID, lane: Callable[[int], int]) -> None:
    at = datetime.now(UTC) - timedelta(minutes=1)
    await admin.copy_records_to_table(
        "queue",
        records=[(id_, 0, org, lane(i), at) for i, id_ in enumerate(ids)],
        columns=["email_id", "n", "org_id", "lane_id", "due_at"],
    )
    await admin.copy_records_to_table(
        "deliveries",
        records=[(id_, 0, org, "a@b.test", at) for id_ in ids],
        columns=["email_id", "n", "org_id", "recipient", "last_event_at"],
    )


async def _pages(admin: asyncpg.Connection, sql: str, *args: Any) -> int:
    """Pages that the statement touches, as the worker role runs it; it is rolled back. Fails where the plan scans a table."""
    transaction = admin.transaction()
    await transaction.start()
    try:
        await admin.execute("SET LOCAL ROLE postroom_worker")
        await deliveries.by_index(admin)
        (row,) = await admin.fetchrow(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *args)
    finally:
        await transaction.rollback()
    plan = row[0]["Plan"]
    assert "Seq Scan" not in {node["Node Type"] for node in _nodes(plan)}
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in _nodes(child))]
