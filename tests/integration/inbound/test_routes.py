"""The switchboard: an ordered table an organization, and what becomes of mail by it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from inbound_smtp.router import Router
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Receives
from mailcore.flow.route import Routes
from mailcore.kit.ids import uuid7
from mailcore.store import arrivals
from mailcore.store import routes as route_store
from mailcore.store.session import Store

from .routes import MAIL, Desk


@pytest.fixture
async def desk(
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    store: Store,
    receives: Receives,
    routes: Routes,
    lease: WorkerLease,
) -> Desk:
    return Desk(admin, org, receives, Router(store, lease, routes, batch=50))


async def test_the_first_route_that_fits_ends_the_table_unless_it_says_otherwise(desk: Desk) -> None:
    archive = {"type": "store", "mailbox": "archive@postroom.test"}
    bills = {"type": "store", "mailbox": "bills@postroom.test"}
    await desk.table(
        {"actions": [archive, {"type": "store"}], "match": {"recipient": "archived+*@postroom.test"}, "stop": False},
        {
            "actions": [bills],
            "match": {"subject": {"regex": r"\binvoice\b"}, "headers": [{"name": "X-Kind", "value": "b?ll"}]},
        },
        {"actions": [{"type": "drop"}], "match": {"from": "*@sender.example"}, "except": {"size": {"min": 100_000}}},
    )
    both = await desk.deliver(MAIL, "archived+1@postroom.test")
    assert await desk.boxes(both) == ["archive@postroom.test", "archived@postroom.test", "bills@postroom.test"]
    one = await desk.deliver(MAIL)
    assert await desk.boxes(one) == ["bills@postroom.test"]
    assert await desk.told(one, "routes") == ["matched"]
    dropped = await desk.deliver(MAIL.replace(b"Invoice", b"Hi"))
    assert await desk.state(dropped) == "dropped"
    assert await desk.told(dropped, "routes", "route") == ["matched", "dropped"]
    large = await desk.deliver(MAIL.replace(b"Invoice", b"Hi") + b"x" * 100 + b"\r\n" + b"y\r\n" * 40_000)
    assert await desk.boxes(large) == ["support@postroom.test"]
    assert await desk.told(large, "routes") == ["no route"]
    # what is dropped is announced to nobody
    assert await desk.admin.fetchval("SELECT count(*) FROM events WHERE type = 'email.received'") == 3


async def test_each_recipient_is_routed_by_himself(desk: Desk) -> None:
    await desk.table(
        {"actions": [{"type": "drop"}], "match": {"recipient": "noise@postroom.test"}},
        {"actions": [{"type": "reject", "message": "Not here"}], "match": {"recipient": "gone@*", "subject": "*"}},
    )
    id_ = await desk.deliver(MAIL, "noise@postroom.test", "a@postroom.test", "gone@postroom.test", "a+x@postroom.test")
    assert (await desk.state(id_), await desk.boxes(id_)) == ("routed", ["a@postroom.test"])
    assert sorted(await desk.told(id_, "route")) == ["announced", "delivered", "dropped", "refused"]
    refused = await desk.deliver(MAIL, "gone@postroom.test")
    assert (await desk.state(refused), await desk.boxes(refused)) == ("refused", [])


async def test_an_organizations_table_is_its_own(desk: Desk, make_org: Callable[[], Awaitable[UUID]]) -> None:
    other = await make_org()
    await desk.table({"actions": [{"type": "drop"}]})
    await desk.admin.execute("UPDATE routes SET org_id = $1", other)
    desk.forget()
    assert await desk.state(await desk.deliver()) == "routed"


async def test_what_a_route_names_and_is_not_there_leaves_the_mail_in_the_mailbox(desk: Desk) -> None:
    await desk.table(
        {
            "actions": [
                {"type": "webhook", "webhook_id": str(uuid7())},
                {"type": "relay", "way_id": str(uuid7())},
            ]
        }
    )
    id_ = await desk.deliver()
    assert await desk.boxes(id_) == ["support@postroom.test"]
    assert await desk.told(id_, "route") == ["not posted", "not relayed", "delivered", "announced"]


async def test_a_post_is_queued_for_the_named_endpoint_alone(desk: Desk) -> None:
    ids = [uuid7() for _ in range(2)]
    for id_, types in zip(ids, ([], ["*"]), strict=True):
        await desk.admin.execute(
            "INSERT INTO webhooks (id, org_id, endpoint, events, secret_sealed) VALUES ($1, $2, 'https://x', $3, '')",
            *(id_, desk.org, types),
        )
    (route,) = await desk.table({"actions": [{"type": "webhook", "webhook_id": str(ids[0])}], "name": "to the app"})
    arrival = await desk.deliver(MAIL, "a+42@postroom.test", "b@postroom.test")
    assert await desk.boxes(arrival) == []
    rows = await desk.admin.fetch(
        "SELECT q.webhook_id, e.type, e.object_id, e.recipients, e.detail FROM webhook_queue q JOIN events e ON e.id = q.event_id "
        "ORDER BY e.type DESC, e.recipients"
    )
    detail = {"route": {"id": str(route), "name": "to the app"}}
    assert [tuple(row) for row in rows] == [
        (ids[0], "email.routed", arrival, ["a+42@postroom.test"], detail),
        (ids[0], "email.routed", arrival, ["b@postroom.test"], detail),
        (ids[1], "email.received", arrival, ["a+42@postroom.test", "b@postroom.test"], None),
    ]


# ---- quarantine ---------------------------------------------------------------------------------------------------------


async def test_what_a_route_holds_is_released_once_and_then_goes_the_rest_of_the_table(
    desk: Desk, store: Store, ringer: Any
) -> None:
    from mailcore.flow import quarantine

    await desk.table(
        {"actions": [{"type": "store", "mailbox": "copies@postroom.test"}], "stop": False},
        {"actions": [{"type": "quarantine", "reason": "Bills are looked at first."}], "match": {"subject": "invoice*"}},
    )
    id_ = await desk.deliver(MAIL, "a@postroom.test", "b@postroom.test")
    row = await desk.admin.fetchrow(
        "SELECT state, held_by, held_reason, held_until > now() + interval '29 days' AS later, routed_at FROM arrivals"
    )
    assert tuple(row) == (*("quarantined", "routes", "Route 2, “route 2”: Bills are looked at first.", True, None),)
    assert await desk.admin.fetchval("SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM messages)") == 0
    assert [await quarantine.release(store, ringer, desk.org, id_, by="a test") for _ in range(2)] == [True, False]
    await desk.route()
    assert await desk.state(id_) == "routed"
    assert await desk.boxes(id_) == ["copies@postroom.test"]
    assert await desk.told(id_, "route", "quarantine") == ["quarantined", "released", "delivered", "announced"]
    assert await desk.admin.fetchval("SELECT count(*) FROM events") == 1


async def test_what_a_policy_holds_is_released_as_well(desk: Desk, store: Store, ringer: Any) -> None:
    from mailcore.flow import quarantine

    await desk.admin.execute("UPDATE domains SET dmarc_policy = 'quarantine'")
    failed = {
        "result": "fail",
        "policy": "reject",
        "policy_domain": "sender.example",
        "domain": "sender.example",
        "reason": "",
    }
    id_ = await desk.take()
    await desk.admin.execute("UPDATE arrivals SET auth = $1", {"dmarc": failed, "spf": None, "dkim": [], "arc": {}})
    await desk.route()
    assert (await desk.state(id_), await desk.admin.fetchval("SELECT held_by FROM arrivals")) == (
        "quarantined",
        "dmarc",
    )
    assert await quarantine.release(store, ringer, desk.org, id_, by="a test")
    await desk.route()
    assert (await desk.state(id_), await desk.boxes(id_)) == ("routed", ["support@postroom.test"])
    assert await desk.told(id_, "dmarc") == ["not held"]


# ---- crashes ------------------------------------------------------------------------------------------------------------


async def test_routing_twice_passes_nothing_on_twice(
    desk: Desk, store: Store, lease: WorkerLease, routes: Routes
) -> None:
    webhook = uuid7()
    await desk.admin.execute(
        "INSERT INTO webhooks (id, org_id, endpoint, events, secret_sealed) VALUES ($1, $2, 'https://x', '{}', '')",
        *(webhook, desk.org),
    )
    await desk.table(
        {
            "actions": [
                {"type": "store"},
                {"type": "forward", "to": ["boss@elsewhere.example"]},
                {"type": "webhook", "webhook_id": str(webhook)},
            ]
        }
    )
    await desk.take()
    async with store.worker() as db:
        claimed = await arrivals.claim(db, lease.id, 10)
    assert [await routes.route(lease.id, claimed) for _ in range(2)] == [1, 0]
    for table, count in (
        ("messages", 1),
        ("emails", 1),
        ("deliveries", 1),
        ("queue", 1),
        ("webhook_queue", 1),
        ("events", 3),
    ):
        assert await desk.admin.fetchval(f"SELECT count(*) FROM {table}") == count, table


async def test_tables_of_a_batch_are_asked_for_once_and_remembered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    load = route_store.load

    async def counted(db: Any, org_ids: Any) -> Any:
        asked.append(len(list(org_ids)))
        return await load(db, org_ids)

    monkeypatch.setattr(route_store, "load", counted)
    desk.router._routes._tables._seconds = 3600.0  # however long this takes
    await desk.table({"actions": [{"type": "store"}]})
    for _ in range(3):
        for n in range(5):
            await desk.take(MAIL, f"a{n}@postroom.test")
        await desk.route()
    assert asked == [1]
