"""The operator's verbs: what a dry run tells is what the order then does, and nothing else is touched."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from integration.outbound.harness import until
from mailcore.blob.local import LocalBlobs
from mailcore.flow import operate
from mailcore.flow.operate import Told
from mailcore.flow.submit import NewEmail, Submits
from mailcore.kit.errors import NotFound, Unavailable
from mailcore.kit.ids import uuid7
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.store import explain, holds, queue_orders, sites, ways
from mailcore.store.due import due_lanes
from mailcore.store.queue_orders import Query
from mailcore.store.session import Store

WORDS = {"reason": "decommissioned", "ordered_by": "tests"}


@pytest.fixture
async def mails(store: Store, ringer: Ringer, org: UUID, domain: UUID, tmp_path: Any) -> dict[str, UUID]:
    """Four that wait: two for one.test (one deferred, due tomorrow), one for two.test, one for one.test next week."""
    submits = Submits(store, ringer, LocalBlobs(tmp_path))
    found = {}
    for name, to in (("now", "a@one.test"), ("deferred", "b@one.test"), ("other", "c@two.test")):
        found[name] = await _submit(submits, org, to)
    found["scheduled"] = await _submit(submits, org, "d@one.test")
    async with store.worker() as db:
        await db.execute(
            "UPDATE queue SET attempt = 3, due_at = now() + interval '1 day' WHERE email_id = $1", found["deferred"]
        )
        await db.execute("UPDATE queue SET due_at = now() + interval '7 days' WHERE email_id = $1", found["scheduled"])
        await db.execute("UPDATE deliveries SET state = 'scheduled' WHERE email_id = $1", found["scheduled"])
    await submits.drain()
    return found


async def _submit(submits: Submits, org: UUID, to: str) -> UUID:
    email = NewEmail("Us <us@postroom.test>", "postroom.test", [to], [parse_address(to)], subject="S", text="t")
    return (await submits.submit(org, [email], door="test")).ids[0]


async def _order(store: Store, ringer: Ringer, verb: Any, query: Query, *, dry_run: bool = False) -> Told:
    told = await operate.order(store, ringer, verb, query, dry_run=dry_run, **WORDS)
    if told.order is not None:
        done = await operate.carry_out(store, told.order.id)
        async with store.worker() as db:
            order = await queue_orders.get(db, told.order.id)
        assert order is not None
        assert (order.state, order.touched) == ("done", done.touched)
    return told


async def _everything(admin: asyncpg.Connection) -> list[Any]:
    return [
        [tuple(row) for row in await admin.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")]
        for table in ("queue", "deliveries", "attempts", "events", "holds", "queue_orders", "sites")
    ]


@pytest.mark.parametrize("verb", ["flush", "bounce", "purge"])
async def test_a_dry_run_changes_nothing_and_tells_what_would(
    verb: str, store: Store, ringer: Ringer, admin: asyncpg.Connection, mails: dict[str, UUID], org: UUID
) -> None:
    before = await _everything(admin)
    told = await _order(store, ringer, verb, Query(domain="one.test"), dry_run=True)
    assert await _everything(admin) == before
    assert told.order is None
    touches = told.touches
    assert (touches.deliveries, touches.at_least, touches.lanes) == (2, False, 1)
    assert touches.sites == ["domain:one.test"]
    assert touches.organizations == [org]
    assert {row["recipient"] for row in touches.sample} == {"a@one.test", "b@one.test"}


async def test_bounce_by_query_ends_them_with_the_operators_words(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, mails: dict[str, UUID]
) -> None:
    told = await _order(store, ringer, "bounce", Query(domain="one.test"))
    assert told.touches.deliveries == 2
    states = await admin.fetch("SELECT email_id, state, last_event FROM deliveries")
    assert {row["email_id"]: (row["state"], row["last_event"]) for row in states} == {
        mails["now"]: ("bounced", "bounced"),
        mails["deferred"]: ("bounced", "bounced"),
        mails["other"]: ("queued", "sent"),
        mails["scheduled"]: ("scheduled", "sent"),
    }
    assert await admin.fetchval("SELECT count(*) FROM queue") == 2
    attempts = await admin.fetch("SELECT * FROM attempts ORDER BY attempt")
    assert [(row["attempt"], row["outcome"], row["rule"], row["reply"]) for row in attempts] == [
        (1, "bounced", "operator", "decommissioned"),
        (4, "bounced", "operator", "decommissioned"),
    ]
    bounced = await admin.fetch("SELECT * FROM events WHERE type = 'email.bounced'")
    assert {row["recipients"][0] for row in bounced} == {"a@one.test", "b@one.test"}
    assert "decommissioned" in bounced[0]["detail"]["bounce"]["message"]
    assert await admin.fetchval("SELECT count(*) FROM suppressions") == 0


async def test_what_moves_while_an_order_waits_for_a_lock_is_ended_too(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, mails: dict[str, UUID]
) -> None:
    """Else it would be told of as bounced, and leave."""
    async with store.worker() as db:
        await db.execute("UPDATE deliveries SET last_event = 'opened' WHERE email_id = $1", mails["now"])
        order = asyncio.create_task(_order(store, ringer, "bounce", Query(domain="one.test")))
        blocked = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        await until(lambda: admin.fetchval(blocked), "the order waits for a delivery that is just being opened")
        await admin.execute(
            "UPDATE queue SET due_at = due_at - interval '1 hour' WHERE email_id = $1", mails["deferred"]
        )
    await order
    bounced = await admin.fetch("SELECT email_id FROM deliveries WHERE state = 'bounced'")
    assert {row["email_id"] for row in bounced} == {mails["now"], mails["deferred"]}
    queued = await admin.fetch("SELECT email_id FROM queue")
    assert {row["email_id"] for row in queued} == {mails["other"], mails["scheduled"]}


async def test_purge_takes_them_away_without_a_word_to_the_sender(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, mails: dict[str, UUID]
) -> None:
    await _order(store, ringer, "purge", Query(domain="one.test", scheduled=True))
    assert await admin.fetchval("SELECT count(*) FROM queue") == 1
    assert await admin.fetchval("SELECT count(*) FROM deliveries WHERE state = 'cancelled'") == 3
    assert await admin.fetchval("SELECT count(*) FROM attempts WHERE outcome = 'purged' AND rule = 'operator'") == 3
    assert await admin.fetchval("SELECT count(*) FROM events WHERE type <> 'email.sent'") == 0


async def test_flush_makes_them_due_and_wakes_the_site(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, mails: dict[str, UUID]
) -> None:
    await admin.execute("UPDATE sites SET suspended_until = now() + interval '10 minutes', failures = 3")
    await _order(store, ringer, "flush", Query(domain="one.test"))
    due = await admin.fetch("SELECT email_id FROM queue WHERE due_at <= now() ORDER BY email_id")
    assert {row["email_id"] for row in due} == {mails["now"], mails["deferred"], mails["other"]}
    rests = await admin.fetch("SELECT key FROM sites WHERE suspended_until > now()")
    assert [row["key"] for row in rests] == ["domain:two.test"]


async def test_what_is_under_way_is_left_alone(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, mails: dict[str, UUID]
) -> None:
    await admin.execute("UPDATE queue SET worker = 7, leased_at = now() WHERE email_id = $1", mails["now"])
    told = await _order(store, ringer, "purge", Query(domain="one.test"))
    assert told.touches.deliveries == 1
    assert (await admin.fetchval("SELECT state FROM deliveries WHERE email_id = $1", mails["now"])) == "queued"


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ({"recipient": "a@one.test"}, {"now"}),
        ({"from_domain": "postroom.test"}, {"now", "deferred", "other"}),
        ({"from_domain": "another.test"}, set()),
        ({"class_": 0}, {"now", "deferred", "other"}),
        ({"class_": 1}, set()),
        ({"scheduled": True, "domain": "one.test"}, {"now", "deferred", "scheduled"}),
    ],
)
async def test_queries(
    query: dict[str, Any], meant: set[str], store: Store, ringer: Ringer, admin: asyncpg.Connection, mails: Any
) -> None:
    told = await _order(store, ringer, "purge", Query(**query))
    gone = {row["email_id"] for row in await admin.fetch("SELECT email_id FROM deliveries WHERE state = 'cancelled'")}
    assert gone == {mails[name] for name in meant}
    assert told.touches.deliveries == len(meant)


async def test_by_email_site_and_organization(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, mails: dict[str, UUID], make_org: Any, org: UUID
) -> None:
    site = await admin.fetchval("SELECT id FROM sites WHERE key = 'domain:two.test'")
    dry = {"dry_run": True}
    assert (await _order(store, ringer, "purge", Query(email_id=mails["now"]), **dry)).touches.deliveries == 1
    assert (await _order(store, ringer, "purge", Query(site_id=site), **dry)).touches.deliveries == 1
    assert (await _order(store, ringer, "purge", Query(org_id=org), **dry)).touches.deliveries == 3
    assert (await _order(store, ringer, "purge", Query(org_id=await make_org()), **dry)).touches.deliveries == 0


async def test_an_order_is_carried_out_in_batches_and_goes_on_after_a_crash(
    store: Store,
    ringer: Ringer,
    admin: asyncpg.Connection,
    mails: dict[str, UUID],
    org: UUID,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mailcore.flow.operate.BATCH", 2)
    monkeypatch.setattr("mailcore.store.queue_orders.BATCH", 2)
    submits = Submits(store, ringer, LocalBlobs(tmp_path))
    for n in range(5):
        await _submit(submits, org, f"u{n}@one.test")
    told = await operate.order(store, ringer, "bounce", Query(domain="one.test"), dry_run=False, **WORDS)
    assert told.order is not None
    batch = operate._batch

    async def dies(*given: Any) -> tuple[int, int]:
        monkeypatch.setattr(operate, "_batch", batch)
        await batch(*given)
        raise RuntimeError("killed")

    monkeypatch.setattr(operate, "_batch", dies)
    with pytest.raises(RuntimeError):
        await operate.carry_out(store, told.order.id)
    async with store.worker() as db:
        half = await queue_orders.get(db, told.order.id)
        assert half is not None
        assert (half.state, half.touched) == ("waiting", 2)
        assert await queue_orders.waiting(db) == [told.order.id]
    await operate.carry_out(store, told.order.id)
    async with store.worker() as db:
        whole = await queue_orders.get(db, told.order.id)
    assert whole is not None
    assert (whole.state, whole.touched) == ("done", 7)
    assert await admin.fetchval("SELECT count(*) FROM events WHERE type = 'email.bounced'") == 7
    assert (await operate.carry_out(store, told.order.id)).touched == 0


async def test_hold_and_resume(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, mails: dict[str, UUID], org: UUID
) -> None:
    site = await admin.fetchval("SELECT id FROM sites WHERE key = 'domain:one.test'")
    before = await _everything(admin)
    dry = await operate.hold(store, site, None, seconds=None, dry_run=True, **WORDS)
    assert await _everything(admin) == before
    assert (dry.touches.deliveries, dry.holds, dry.order) == (3, [], None)
    held = await operate.hold(store, site, None, seconds=60, dry_run=False, **WORDS)
    assert held.holds[0].until is not None
    again = await operate.hold(store, site, None, seconds=None, dry_run=False, **WORDS)
    assert again.holds[0].until is None
    assert await admin.fetchval("SELECT count(*) FROM holds") == 1, "the later word counts"
    await operate.hold(store, site, org, seconds=None, dry_run=False, **WORDS)
    await admin.execute("UPDATE sites SET suspended_until = now() + interval '1 hour' WHERE id = $1", site)
    would = await operate.resume(store, ringer, site, None, ordered_by="tests", dry_run=True)
    assert (len(would.holds), would.woken) == (1, 1)
    assert await admin.fetchval("SELECT count(*) FROM holds") == 2
    told = await operate.resume(store, ringer, site, None, ordered_by="tests", dry_run=False)
    assert (len(told.holds), told.woken) == (1, 1)
    async with store.worker() as db:
        assert [each.org_id for each in await holds.in_force(db)] == [org], "the organization's own stays"
    verbs = [row["verb"] for row in await admin.fetch("SELECT verb FROM queue_orders ORDER BY id")]
    assert verbs == ["hold", "hold", "hold", "resume"]


async def test_of_what_is_not_there(store: Store, ringer: Ringer) -> None:
    with pytest.raises(NotFound):
        await operate.hold(store, 99_999, None, seconds=None, dry_run=False, **WORDS)
    with pytest.raises(NotFound):
        await operate.resume(store, ringer, None, UUID(int=5), ordered_by="tests", dry_run=False)


async def test_reroute_sends_a_sites_mail_by_a_way_of_the_installation_and_back(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, mails: dict[str, UUID], make_org: Any
) -> None:
    way, foreign = uuid7(), uuid7()
    for id_, org_id in ((way, None), (foreign, await make_org())):
        await admin.execute(
            "WITH s AS (INSERT INTO sites (key) VALUES ('way:' || $1::uuid) RETURNING id) "
            "INSERT INTO ways (id, org_id, name, kind, secrets_sealed, site_id) SELECT $1, $2, 'w', 'smarthost', '', id FROM s",
            *(id_, org_id),
        )
    site = await admin.fetchval("SELECT id FROM sites WHERE key = 'domain:one.test'")
    with pytest.raises(NotFound):
        await operate.order(store, ringer, "reroute", Query(site_id=site), way_id=foreign, dry_run=True, **WORDS)
    dry = await operate.order(store, ringer, "reroute", Query(site_id=site), way_id=way, dry_run=True, **WORDS)
    assert dry.touches.deliveries == 2
    assert await admin.fetchval("SELECT count(*) FROM routes_out") == 0
    told = await operate.order(store, ringer, "reroute", Query(site_id=site), way_id=way, dry_run=False, **WORDS)
    assert told.order is not None
    assert (await operate.carry_out(store, told.order.id)).touched == 2
    async with store.worker() as db:
        due = {lane.site_id: lane for lane in await due_lanes(db)}
    there = await admin.fetchval("SELECT site_id FROM ways WHERE id = $1", way)
    assert site not in due
    assert due[there].taken is not None
    assert due[there].taken.way_id == way
    moved = await admin.fetch("SELECT email_id FROM queue WHERE lane_id = $1 AND due_at <= now()", due[there].lane_id)
    assert {row["email_id"] for row in moved} == {mails["now"], mails["deferred"]}
    back = await operate.order(store, ringer, "reroute", Query(site_id=there), way_id=None, dry_run=False, **WORDS)
    assert back.order is not None
    assert (await operate.carry_out(store, back.order.id)).touched == 2
    async with store.worker() as db:
        assert there not in {lane.site_id for lane in await due_lanes(db)}


async def test_a_hold_waits_for_no_count(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, mails: dict[str, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that is too long to be looked through is the very one that must be stopped."""

    async def long(db: Any, query: Query) -> None:
        await db.execute("SET LOCAL statement_timeout = 50; SELECT pg_sleep(5)")

    monkeypatch.setattr(queue_orders, "survey", long)
    with pytest.raises(Unavailable, match="Name a site"):
        await operate.hold(store, None, None, seconds=None, dry_run=True, **WORDS)
    held = await operate.hold(store, None, None, seconds=None, dry_run=False, **WORDS)
    assert (held.touches.deliveries, held.touches.at_least) == (0, True)
    assert await admin.fetchval("SELECT count(*) FROM holds") == 1


# ---- reroute of mail with REQUIRETLS ---------------------------------------------------------------------------------


async def _way(store: Store, kind: str) -> UUID:
    """Of the installation."""
    way_id = uuid7()
    async with store.worker() as db:
        site = await sites.ensure(db, f"{kind}:{way_id}", 5)
        await ways.add(
            db,
            way_id=way_id,
            org_id=None,
            name=kind,
            kind=kind,
            settings={},
            secrets_sealed=b"",
            reports=False,
            site_id=site.id,
        )
    return way_id


@pytest.fixture
async def strict(store: Store, ringer: Ringer, org: UUID, domain: UUID, tmp_path: Any) -> dict[str, UUID]:
    submits = Submits(store, ringer, LocalBlobs(tmp_path))
    found = {}
    for name in ("plain", "strict"):
        email = NewEmail(
            *("Us <us@postroom.test>", "postroom.test", ["a@one.test"], [parse_address("a@one.test")]),
            subject="S",
            text="t",
            requiretls=name == "strict",
        )
        found[name] = (await submits.submit(org, [email], door="test")).ids[0]
    await submits.drain()
    return found


async def test_a_reroute_to_a_providers_api_leaves_mail_with_requiretls_where_it_is_and_says_so(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, strict: dict[str, UUID], org: UUID
) -> None:
    way_id = await _way(store, "mailgun")
    before = await _everything(admin)
    query = Query(domain="one.test")
    told = await operate.order(store, ringer, "reroute", query, way_id=way_id, dry_run=True, **WORDS)
    assert await _everything(admin) == before
    assert (told.touches.deliveries, told.touches.left) == (1, 1)
    assert [row["email_id"] for row in told.touches.sample] == [strict["plain"]]
    lanes = {row["email_id"]: row["lane_id"] for row in await admin.fetch("SELECT email_id, lane_id FROM queue")}
    for times in (1, 2):
        told = await operate.order(store, ringer, "reroute", query, way_id=way_id, dry_run=False, **WORDS)
        assert told.order is not None
        for _ in range(2):  # twice, as after a crash
            await admin.execute("UPDATE queue_orders SET state = 'waiting' WHERE id = $1", told.order.id)
            await operate.carry_out(store, told.order.id)
        async with store.worker() as db:
            order = await queue_orders.get(db, told.order.id)
        assert order is not None
        assert (order.state, order.touched, order.detail["left"]) == ("done", 2 - times, 1)
        notes = await admin.fetch("SELECT * FROM attempts ORDER BY attempt DESC")
        assert [(row["email_id"], row["attempt"]) for row in notes] == [
            (strict["strict"], -each - 1) for each in range(times)
        ]
    now = {row["email_id"]: row["lane_id"] for row in await admin.fetch("SELECT email_id, lane_id FROM queue")}
    assert now[strict["strict"]] == lanes[strict["strict"]] and now[strict["plain"]] != lanes[strict["plain"]]
    async with store.tenant(org) as db:
        [delivery] = await explain.deliveries(db, strict["strict"])
    assert (
        "REQUIRETLS" in delivery["next_attempt"]["why"] and "has not been tried yet" in delivery["next_attempt"]["why"]
    )
    assert {(each["outcome"], each["rule"]) for each in delivery["attempts"]} == {("left", "operator")}


@pytest.mark.parametrize("kind", ["smarthost", None])
async def test_a_reroute_to_a_host_takes_mail_with_requiretls_along(
    kind: str | None, store: Store, ringer: Ringer, admin: asyncpg.Connection, strict: dict[str, UUID]
) -> None:
    away = await _way(store, "smarthost")
    steps = [away] if kind else [away, None]
    for way_id in steps:
        told = await operate.order(
            store, ringer, "reroute", Query(domain="one.test"), way_id=way_id, dry_run=False, **WORDS
        )
        assert told.order is not None and (told.touches.deliveries, told.touches.left) == (2, 0)
        assert (await operate.carry_out(store, told.order.id)).touched == 2
    assert await admin.fetchval("SELECT count(*) FROM attempts") == 0
    assert await admin.fetchval("SELECT count(DISTINCT lane_id) FROM queue") == 1


async def test_two_who_carry_out_one_order_take_turns(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, mails: dict[str, UUID]
) -> None:
    told = await operate.order(store, ringer, "bounce", Query(domain="two.test"), dry_run=False, **WORDS)
    assert told.order is not None

    async def until_waiting(count: int) -> None:
        async with asyncio.timeout(60):
            while await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < count:
                await asyncio.sleep(0.01)

    async with admin.transaction():
        await admin.execute("LOCK TABLE events IN SHARE MODE")  # who has the rows cannot tell of them
        first = asyncio.create_task(operate.carry_out(store, told.order.id))
        await until_waiting(1)
        second = asyncio.create_task(operate.carry_out(store, told.order.id))
        await until_waiting(2)
        state = await admin.fetchval("SELECT state FROM queue_orders")
    assert ((await first).touched, (await second).touched, state) == (1, 0, "waiting")
    row = await admin.fetchrow("SELECT state, touched FROM queue_orders")
    assert row is not None and (row["state"], row["touched"]) == ("done", 1)
