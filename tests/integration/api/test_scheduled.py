"""A scheduled email is moved and cancelled while it waits, and against outbound's claim one of the two wins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from mailcore.flow.lease import WorkerLease
from mailcore.store import deliveries
from mailcore.store.deliveries import Leased
from mailcore.store.session import Store

from .harness import MakeClient, MakeKey, assert_error, email

Claim = Callable[..., Awaitable[list[Leased]]]


@pytest.fixture
def claim(store: Store) -> Claim:
    async def claim(limit: int = 100) -> list[Leased]:
        """What outbound takes now, of every lane."""
        lease = WorkerLease(store, "outbound")
        await lease.enrol()
        async with store.worker() as db:
            lanes = [row["id"] for row in await db.fetch("SELECT id FROM lanes")]
            return await deliveries.claim(db, lanes, lease.id, limit=limit, quantum=limit, schedule=[60])

    return claim


async def _schedule(api: httpx.AsyncClient, at: str = "in 2 hours", **more: object) -> str:
    answer = await api.post("/emails", json=email(scheduled_at=at, **more))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def _due(admin: asyncpg.Connection) -> None:
    await admin.execute("UPDATE queue SET due_at = now() - interval '1 second'")


@pytest.mark.parametrize("extra", [{}, {"id": "x", "unknown": 1}])
async def test_it_is_moved(api: httpx.AsyncClient, admin: asyncpg.Connection, extra: dict[str, object]) -> None:
    id_ = await _schedule(api, to=["a@one.example", "b@two.example"])
    at = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)
    answer = await api.patch(f"/emails/{id_}", json={"scheduled_at": at.isoformat(), **extra})
    assert (answer.status_code, answer.json()) == (200, {"object": "email", "id": id_})
    got = (await api.get(f"/emails/{id_}")).json()
    assert (datetime.fromisoformat(got["scheduled_at"]), got["last_event"]) == (at, "scheduled")
    assert {row["due_at"] for row in await admin.fetch("SELECT due_at FROM queue")} == {at}
    # in English, and again
    assert (await api.patch(f"/emails/{id_}", json={"scheduled_at": "in 1 hour"})).status_code == 200
    moved = datetime.fromisoformat((await api.get(f"/emails/{id_}")).json()["scheduled_at"])
    assert timedelta(minutes=59) < moved - datetime.now(UTC) <= timedelta(hours=1)


async def test_moved_to_the_past_it_leaves_now(api: httpx.AsyncClient, claim: Claim) -> None:
    id_ = await _schedule(api)
    assert await claim() == []
    assert (await api.patch(f"/emails/{id_}", json={"scheduled_at": "2020-01-01T00:00:00Z"})).status_code == 200
    assert [str(row.email_id) for row in await claim()] == [id_]


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({}, "missing_required_field"),
        ({"scheduled_at": None}, "validation_error"),
        ({"scheduled_at": "soon"}, "validation_error"),
        ({"scheduled_at": "in 31 days"}, "validation_error"),
        ([], "validation_error"),
    ],
)
async def test_bad_moves(api: httpx.AsyncClient, body: object, name: str) -> None:
    assert_error(await api.patch(f"/emails/{await _schedule(api)}", json=body), 422, name)


@pytest.mark.parametrize("content", [None, b"{}", b""])
async def test_it_is_cancelled_for_good(
    api: httpx.AsyncClient, admin: asyncpg.Connection, claim: Claim, content: bytes | None
) -> None:
    id_ = await _schedule(api, to=["a@one.example", "b@two.example"])
    answer = await api.post(f"/emails/{id_}/cancel", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()) == (200, {"object": "email", "id": id_})
    assert (await api.get(f"/emails/{id_}")).json()["last_event"] == "canceled"
    assert (await api.get("/emails", params={"status": "canceled"})).json()["data"][0]["id"] == id_
    told = (await api.get(f"/v1/emails/{id_}/deliveries")).json()["data"]
    assert {(one["state"], one["next_attempt_at"]) for one in told} == {("cancelled", None)}
    await _due(admin)
    assert await claim() == []
    for again in (
        await api.post(f"/emails/{id_}/cancel"),
        await api.patch(f"/emails/{id_}", json={"scheduled_at": "in 1 hour"}),
    ):
        assert_error(again, 422, "validation_error", "canceled", "final")


async def test_what_was_never_scheduled_is_not_cancelled(api: httpx.AsyncClient) -> None:
    id_ = (await api.post("/emails", json=email())).json()["id"]
    assert_error(await api.post(f"/emails/{id_}/cancel"), 422, "validation_error", "Only scheduled", "`sent`")
    moved = await api.patch(f"/emails/{id_}", json={"scheduled_at": "in 1 hour"})
    assert_error(moved, 422, "validation_error", "Only scheduled")


async def test_what_a_worker_has_is_not_cancelled(
    api: httpx.AsyncClient, admin: asyncpg.Connection, claim: Claim, store: Store
) -> None:
    id_ = await _schedule(api, to=["a@one.example", "b@two.example"])
    await _due(admin)
    rows = await claim()
    assert len(rows) == 2
    for answer in (
        await api.post(f"/emails/{id_}/cancel"),
        await api.patch(f"/emails/{id_}", json={"scheduled_at": "in 1 hour"}),
    ):
        assert_error(answer, 422, "validation_error", "being sent")
    # given back before it was begun, it waits again
    async with store.worker() as db:
        assert await deliveries.release(db, rows) == 2
    assert (await api.post(f"/emails/{id_}/cancel")).status_code == 200
    assert await claim() == []


async def test_one_recipient_that_is_being_sent_to_keeps_all(
    api: httpx.AsyncClient, admin: asyncpg.Connection, claim: Claim
) -> None:
    id_ = await _schedule(api, to=["a@one.example", "b@two.example"])
    await admin.execute("UPDATE queue SET due_at = now() - interval '1 second' WHERE n = 0")
    assert len(await claim()) == 1
    assert_error(await api.post(f"/emails/{id_}/cancel"), 422, "validation_error", "being sent")
    assert await admin.fetchval("SELECT count(*) FROM queue") == 2


async def test_of_a_claim_under_way_and_a_cancel_one_wins(
    api: httpx.AsyncClient, admin: asyncpg.Connection, store: Store
) -> None:
    """While the claim's transaction is open the cancel neither waits nor wins."""
    id_ = await _schedule(api)
    await _due(admin)
    lease = WorkerLease(store, "outbound")
    await lease.enrol()
    lanes = [row["id"] for row in await admin.fetch("SELECT id FROM lanes")]
    async with store.worker() as db:
        assert len(await deliveries.claim(db, lanes, lease.id, limit=9, quantum=9, schedule=[60])) == 1
        assert_error(await api.post(f"/emails/{id_}/cancel"), 409, "resource_locked")
    assert_error(await api.post(f"/emails/{id_}/cancel"), 422, "validation_error", "being sent")


async def test_many_claims_and_cancels_at_once(api: httpx.AsyncClient, admin: asyncpg.Connection, claim: Claim) -> None:
    batch = [email(to=f"r{n}@d{n % 7}.example", scheduled_at="in 2 hours") for n in range(60)]
    ids = [one["id"] for one in (await api.post("/emails/batch", json=batch)).json()["data"]]
    await _due(admin)

    async def cancel(id_: str) -> str | None:
        return id_ if (await api.post(f"/emails/{id_}/cancel")).status_code == 200 else None

    cancelled, claimed = await asyncio.gather(
        asyncio.gather(*(cancel(id_) for id_ in ids)), asyncio.gather(*(claim(5) for _ in range(6)))
    )
    gone = {id_ for id_ in cancelled if id_ is not None}
    taken = {str(row.email_id) for rows in claimed for row in rows}
    taken |= {str(row.email_id) for row in await claim()}
    assert gone.isdisjoint(taken)
    assert gone | taken == set(ids)
    states = await admin.fetch("SELECT email_id, state FROM deliveries")
    assert {str(row["email_id"]) for row in states if row["state"] == "cancelled"} == gone


async def test_foreign_and_unknown_ids(
    api: httpx.AsyncClient,
    make_org: Callable[[], Awaitable[UUID]],
    make_key: MakeKey,
    make_client: MakeClient,
    org: UUID,
) -> None:
    id_ = await _schedule(api)
    stranger = await make_client(await make_key(await make_org()))
    sender = await make_client(await make_key(org, permission="sending_access"))
    for method, path, body in (
        ("PATCH", "/emails/{}", {"scheduled_at": "in 1 hour"}),
        ("POST", "/emails/{}/cancel", None),
        ("POST", "/emails/{}/share", {}),
    ):
        foreign = await stranger.request(method, path.format(id_), json=body)
        unknown = await api.request(method, path.format(uuid4()), json=body)
        assert_error(foreign, 404, "not_found", "Email not found")
        assert foreign.content == unknown.content
        assert_error(await api.request(method, path.format("nonsense"), json=body), 422, "invalid_parameter", "`id`")
        assert_error(await sender.request(method, path.format(id_), json=body), 401, "restricted_api_key")
    assert (await api.get(f"/emails/{id_}")).json()["last_event"] == "scheduled"
