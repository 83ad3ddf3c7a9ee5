"""/v1/routes and /v1/quarantine: the table written, ordered, explained; mail that is held, read, let out and deleted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from mailcore import blob
from mailcore.blob.base import INLINE_BYTES
from mailcore.flow import quarantine
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Arrival, Receives
from mailcore.flow.route import Routes
from mailcore.queue.bell import Ringer
from mailcore.smtp.envelope import Envelope
from mailcore.store import arrivals
from mailcore.store.session import Store

from .harness import PATIENT, MakeClient, MakeKey, assert_error

RAW = "From: Jane <jane@sender.example>\r\nTo: support@postroom.test\r\nSubject: Invoice 17\r\nX-Kind: bill\r\n\r\nHello\r\n"
DROP = {"name": "noise", "match": {"from": "*@noise.example"}, "actions": [{"type": "drop"}]}
Deliver = Callable[..., Awaitable[UUID]]


async def made(api: httpx.AsyncClient, **changed: Any) -> dict[str, Any]:
    answer = await api.post("/v1/routes", json=DROP | changed)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
def blobs(api_settings: dict[str, Any]) -> Any:
    return blob.open(**dict(api_settings["blob"]))


@pytest.fixture
def deliver(org: UUID, store: Store, ringer: Ringer, blobs: Any) -> Deliver:
    receives = Receives(store, ringer, blobs)

    async def deliver(raw: bytes = RAW.encode(), to: str = "support@postroom.test") -> UUID:
        envelope = Envelope("jane@sender.example", (to,))
        done = await receives.receive(Arrival(raw, envelope, {}, "192.0.2.7", None, "smtp", {org: [to]}))
        await route()
        return done.ids[org]

    async def route() -> None:
        lease = WorkerLease(store, "inbound_smtp")
        await lease.enrol()
        async with store.worker() as db:
            claimed = await arrivals.claim(db, lease.id, 10)
        await Routes(store, ringer, blobs, patience=PATIENT).route(lease.id, claimed)

    deliver.route = route  # type: ignore[attr-defined]
    return deliver


async def test_a_table_is_written_changed_and_ordered(api: httpx.AsyncClient) -> None:
    first, second = await made(api), await made(api, name="two", stop=False, actions=[{"type": "store"}])
    between = await made(api, name="between", position=2)
    assert set(first) == {
        *(
            "object",
            "id",
            "name",
            "position",
            "enabled",
            "match",
            "except",
            "actions",
            "stop",
            "created_at",
            "updated_at",
        ),
    }
    assert (first["match"], first["actions"], first["stop"]) == ({"from": "*@noise.example"}, [{"type": "drop"}], True)

    async def order() -> list[tuple[str, int]]:
        return [(each["name"], each["position"]) for each in (await api.get("/v1/routes")).json()["data"]]

    assert await order() == [("noise", 1), ("between", 2), ("two", 3)]
    ids = [second["id"], first["id"], between["id"]]
    assert (await api.put("/v1/routes/order", json={"ids": ids})).status_code == 200
    assert await order() == [("two", 1), ("noise", 2), ("between", 3)]
    assert (await api.put("/v1/routes/order", json={"ids": [between["id"]]})).status_code == 200
    assert await order() == [("between", 1), ("two", 2), ("noise", 3)]
    await api.put("/v1/routes/order", json={"ids": ids})
    assert_error(await api.put("/v1/routes/order", json={"ids": [*ids, ids[0]]}), 422, "validation_error", "once")
    assert_error(await api.put("/v1/routes/order", json={"ids": [*ids[:2], str(uuid4())]}), 404, "not_found")
    change = {"name": "new", "except": {"size": {"min": 10}}, "enabled": False}
    changed = (await api.patch(f"/v1/routes/{first['id']}", json=change)).json()
    assert changed["except"] == {"size": {"min": 10.0}}
    assert (changed["name"], changed["enabled"], changed["match"]) == ("new", False, first["match"])
    assert (await api.patch(f"/v1/routes/{first['id']}", json={"except": None})).json()["except"] is None
    gone = await api.delete(f"/v1/routes/{first['id']}")
    assert gone.json() == {"object": "route", "id": first["id"], "deleted": True}
    assert_error(await api.delete(f"/v1/routes/{first['id']}"), 404, "not_found")
    assert await order() == [("two", 1), ("between", 2)]


async def test_what_cannot_be_a_route(api: httpx.AsyncClient, domain: UUID) -> None:
    way = {"name": "w", "kind": "postmark", "settings": {"server_token": "t"}}
    postmark = (await api.post("/v1/ways", json=way)).json()["id"]
    for changed, status, words in (
        ({"match": {"recipient": {"regex": "(?=a)"}}}, 422, "regular expression of RE2"),
        ({"match": {"recipient": {"regex": "(x{1000}){1000}"}}}, 422, "RE2"),
        ({"match": {"colour": "red"}}, 422, "match.colour"),
        ({"match": {"auth": {"dmarc": ["maybe"]}}}, 422, "match.auth.dmarc"),
        ({"match": {"size": {}}}, 422, "`min`, `max` or both"),
        ({"match": {"headers": [{"name": "X: y"}]}}, 422, "match.headers"),
        ({"actions": []}, 422, "actions"),
        ({"actions": [{"type": "drop"}, {"type": "store"}]}, 422, "stand alone"),
        ({"actions": [{"type": "fax"}]}, 422, "actions"),
        ({"actions": [{"type": "forward", "to": ["x"]}]}, 422, "actions"),
        ({"actions": [{"type": "reject", "message": "a\r\nb"}]}, 422, "actions"),
        ({"actions": [{"type": "store", "mailbox": "a@elsewhere.example"}]}, 422, "no domain of yours"),
        ({"actions": [{"type": "webhook", "webhook_id": str(uuid4())}]}, 404, "Webhook"),
        ({"actions": [{"type": "relay", "way_id": str(uuid4())}]}, 404, "Way"),
        ({"actions": [{"type": "relay", "way_id": postmark}]}, 422, "smarthost or lmtp"),
        ({"name": ""}, 422, "name"),
        ({"position": 0}, 422, "position"),
    ):
        answer = await api.post("/v1/routes", json=DROP | changed)
        assert answer.status_code == status, (changed, answer.text)
        assert words in answer.json()["message"], (changed, answer.text)


async def test_a_foreign_route_and_a_foreign_quarantine_are_unknown(
    api: httpx.AsyncClient,
    deliver: Deliver,
    make_org: Callable[[], Awaitable[UUID]],
    make_client: MakeClient,
    make_key: MakeKey,
) -> None:
    route = await made(api, match={}, actions=[{"type": "quarantine", "reason": "Look."}])
    held = str(await deliver())
    other = await make_client(await make_key(await make_org()))
    for method, path in (
        ("GET", f"/v1/routes/{route['id']}"),
        ("DELETE", f"/v1/routes/{route['id']}"),
        ("PATCH", f"/v1/routes/{route['id']}"),
        ("GET", f"/v1/quarantine/{held}"),
        ("DELETE", f"/v1/quarantine/{held}"),
        ("POST", f"/v1/quarantine/{held}/release"),
    ):
        foreign = await other.request(method, path, json={"enabled": False} if method == "PATCH" else None)
        unknown = await other.request(
            method,
            path.replace(route["id"], str(uuid4())).replace(held, str(uuid4())),
            json={"enabled": False} if method == "PATCH" else None,
        )
        assert (foreign.status_code, foreign.json()) == (404, unknown.json()), (method, path)
    assert_error(await other.post("/v1/routes/explain", json={"arrival_id": held}), 404, "not_found")
    assert (await other.get("/v1/quarantine")).json()["data"] == []


async def test_an_explanation_says_which_route_fits_and_why(api: httpx.AsyncClient, deliver: Deliver) -> None:
    await made(api, name="off", match={}, enabled=False)
    never = await made(api, name="never", match={"from": "*@noise.example", "subject": "invoice*"})
    not_known = await made(api, name="spam", match={"verdict": ["spam"]}, actions=[{"type": "quarantine"}])
    bills = await made(
        api,
        name="bills",
        match={"headers": [{"name": "x-kind", "value": {"regex": "^bi"}}], "size": {"max": 1000}},
        **{"except": {"recipient": "ceo@postroom.test"}},
        actions=[{"type": "forward", "to": ["b@elsewhere.example"]}],
    )
    await made(api, name="rest", match={}, actions=[{"type": "reject"}])
    asked = {"raw": RAW, "mail_from": "jane@sender.example", "rcpt_to": ["support@postroom.test", "ceo@postroom.test"]}
    answer = await api.post("/v1/routes/explain", json=asked)
    assert answer.status_code == 200, answer.text
    support, ceo = answer.json()["recipients"]
    assert [(each["name"], each["tried"], each["fits"]) for each in support["routes"]] == [
        ("never", True, False),
        ("spam", True, None),
        ("bills", True, True),
        ("rest", False, True),
    ]
    assert [each["id"] for each in support["routes"]][:3] == [never["id"], not_known["id"], bills["id"]]
    assert support["routes"][0]["conditions"] == [
        {"condition": "from", "wanted": "*@noise.example", "found": "jane@sender.example", "holds": False},
        {"condition": "subject", "wanted": "invoice*", "found": "Invoice 17", "holds": True},
    ]
    assert support["routes"][2]["exceptions"][0]["holds"] is False
    forward = {"type": "forward", "to": ["b@elsewhere.example"], "route_id": bills["id"]}
    assert (support["actions"], support["rejected_at_rcpt"], support["loop"]) == ([forward], False, None)
    assert [action["type"] for action in ceo["actions"]] == ["reject"]
    spam = (await api.post("/v1/routes/explain", json=asked | {"verdict": ["spam"]})).json()
    assert spam["quarantined"] == not_known["id"]
    # of a mail that has arrived: what was found then counts
    arrival = str(await deliver())
    explained = (await api.post("/v1/routes/explain", json={"arrival_id": arrival})).json()
    assert [each["fits"] for each in explained["recipients"][0]["routes"]] == [False, False, True, True]
    again = (
        await api.post("/v1/routes/explain", json={"arrival_id": arrival, "rcpt_to": ["ceo@postroom.test"]})
    ).json()
    assert [action["type"] for action in again["recipients"][0]["actions"]] == ["reject"]
    for wrong in ({}, {"raw": RAW}, {"arrival_id": "x"}, {"arrival_id": str(uuid4())}):
        assert (await api.post("/v1/routes/explain", json=wrong)).status_code in (404, 422)


async def test_a_rejection_that_the_envelope_decides_is_known_at_rcpt(api: httpx.AsyncClient) -> None:
    await made(api, name="ours", match={"recipient": "vip@*"}, actions=[{"type": "store"}])
    await made(
        api, name="by content", match={"subject": "*offer*", "recipient": "maybe@*"}, actions=[{"type": "store"}]
    )
    await made(api, name="rest", match={"sender": "*@sender.example"}, actions=[{"type": "reject"}])
    asked = {"raw": RAW, "mail_from": "jane@sender.example"}
    asked |= {"rcpt_to": ["vip@postroom.test", "maybe@postroom.test", "any@postroom.test"]}
    answer = (await api.post("/v1/routes/explain", json=asked)).json()
    assert [each["rejected_at_rcpt"] for each in answer["recipients"]] == [False, False, True]


async def test_quarantine_is_listed_released_deleted_and_ends(
    api: httpx.AsyncClient, deliver: Deliver, admin: asyncpg.Connection, store: Store, blobs: Any, org: UUID
) -> None:
    await made(api, match={"recipient": "held*"}, actions=[{"type": "quarantine", "reason": "Bills are looked at."}])
    large = RAW.encode() + b"x" * 70 + b"\r\n" + b"y\r\n" * (INLINE_BYTES // 3 + 1)
    ids = [await deliver(raw, f"held{n}@postroom.test") for n, raw in enumerate((RAW.encode(), large, RAW.encode()))]
    listed = (await api.get("/v1/quarantine")).json()
    assert [each["id"] for each in listed["data"]] == [str(id_) for id_ in reversed(ids)]
    one = listed["data"][0]
    assert (one["held_by"], one["from"], one["subject"]) == ("routes", "jane@sender.example", "Invoice 17")
    assert one["reason"].endswith("Bills are looked at.")
    assert (await api.get("/v1/quarantine?by=dmarc")).json()["data"] == []
    read = (await api.get(f"/v1/quarantine/{ids[0]}")).json()
    assert read["decisions"][-1]["decision"] == "quarantined"
    # one is let out, and comes through the same table
    assert (await api.post(f"/v1/quarantine/{ids[0]}/release")).json()["released"] is True
    assert_error(await api.post(f"/v1/quarantine/{ids[0]}/release"), 404, "not_found")
    await deliver.route()  # type: ignore[attr-defined]
    arrival = (await api.get(f"/v1/arrivals/{ids[0]}")).json()
    assert arrival["state"] == "routed"
    assert [box["mailbox"] for box in arrival["messages"]] == ["held0@postroom.test"]
    # one is deleted: its content is gone, what was decided is not
    key = await admin.fetchval("SELECT raw_blob FROM arrivals WHERE id = $1", ids[1])
    assert key is not None
    assert (await api.delete(f"/v1/quarantine/{ids[1]}")).json()["deleted"] is True
    row = await admin.fetchrow("SELECT state, raw, raw_blob FROM arrivals WHERE id = $1", ids[1])
    assert tuple(row) == ("dropped", None, None)
    with pytest.raises(Exception, match="no longer kept"):
        await blobs.get(key)
    decisions = (await api.get(f"/v1/arrivals/{ids[1]}")).json()["decisions"]
    assert decisions[-1]["decision"] == "dropped"
    assert decisions[-1]["reason"].startswith("Deleted by API key ")
    # one is forgotten by everybody
    until = await admin.fetchval("SELECT held_until FROM arrivals WHERE id = $1", ids[2])
    from datetime import timedelta

    assert await quarantine.expire(store, blobs, until - timedelta(seconds=1)) == 0
    assert [await quarantine.expire(store, blobs, until) for _ in range(2)] == [1, 0]
    assert (await api.get("/v1/quarantine")).json()["data"] == []
    download = (await api.get(f"/v1/arrivals/{ids[2]}")).json()
    assert download["state"] == "dropped"


async def test_a_key_that_may_only_send_sees_neither(
    api: httpx.AsyncClient, org: UUID, make_client: MakeClient, make_key: MakeKey
) -> None:
    sending = await make_client(await make_key(org, permission="sending_access"))
    assert (await sending.get("/v1/routes")).status_code == 401
    assert (await sending.get("/v1/quarantine")).status_code == 401


async def test_a_way_that_a_route_relays_by_is_not_deleted(api: httpx.AsyncClient) -> None:
    way = {"name": "w", "kind": "lmtp", "settings": {"host": "8.8.8.8"}}
    made_way = await api.post("/v1/ways", json=way)
    assert made_way.status_code == 201, made_way.text
    way_id = made_way.json()["id"]
    assert made_way.json()["settings"]["port"] == 24
    assert_error(
        await api.post("/v1/ways", json=way | {"settings": {"host": "8.8.8.8", "port": 25}}), 422, "validation_error"
    )
    route = await made(api, actions=[{"type": "relay", "way_id": way_id}])
    assert_error(await api.delete(f"/v1/ways/{way_id}"), 409, "resource_locked", "1 route names")
    # what lanes name it by is nobody's own route
    assert (await api.get("/v1/routes-out")).json()["data"] == []
    await api.delete(f"/v1/routes/{route['id']}")
    assert (await api.delete(f"/v1/ways/{way_id}")).status_code == 200
