"""Pools, sources and warm-ups by the API: what the operator sets and sees, and nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import asyncpg
import httpx

from .harness import MakeClient, MakeKey, assert_error


async def _pool(api: httpx.AsyncClient, name: str = "news", **changes: object) -> dict[str, object]:
    answer = await api.post("/v1/pools", json={"name": name, **changes})
    assert answer.status_code == 201, answer.text
    made: dict[str, object] = answer.json()
    return made


async def _source(api: httpx.AsyncClient, pool: object, ip: str = "203.0.113.7", **changes: object) -> httpx.Response:
    return await api.post("/v1/sources", json={"pool": pool, "ipv4": ip, "ehlo_name": "out7.example.com", **changes})


async def test_a_pool_and_its_source(api: httpx.AsyncClient) -> None:
    pool = await _pool(api, mail=["broadcast"], domains=["Shop.Example."])
    assert (pool["mail"], pool["domains"], pool["overflow"]) == (["broadcast"], ["shop.example"], None)
    answer = await _source(api, pool["id"], ipv6="2001:DB8:0::7")
    source = answer.json()
    assert answer.status_code == 201
    assert (source["ipv4"], source["ipv6"], source["ehlo_name"]) == ("203.0.113.7", "2001:db8::7", "out7.example.com")
    assert (source["state"], source["step"], source["steps"], source["cap"], source["used"]) == (
        "warming",
        1,
        16,
        50,
        0,
    )
    assert source["next_step"].startswith("Step 1 of 16: at most 50 mails today, 0 left so far. When 25 have left")
    assert [decision["what"] for decision in source["decisions"]] == ["began"]
    assert [day["cap"] for day in source["days"]] == [50]
    listed = (await api.get("/v1/sources", params={"pool_id": str(pool["id"])})).json()
    assert [each["id"] for each in listed["data"]] == [source["id"]]
    assert (await api.get(f"/v1/pools/{pool['id']}")).json()["sources"] == [source["id"]]
    assert (await api.get("/v1/pools")).json()["data"][0]["waiting"] == 0


async def test_overflow_is_a_way_of_the_installation(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    pool = await _pool(api)
    path = f"/v1/pools/{pool['id']}"
    assert_error(await api.patch(path, json={"overflow": str(uuid4())}), 422, "validation_error", "no such way")
    account = {"host": "mail.example.com", "username": "u", "password": "p"}
    made = await api.post("/v1/installation/ways", json={"name": "old", "kind": "smarthost", "settings": account})
    way = made.json()["id"]
    assert (await api.patch(path, json={"overflow": way})).json()["overflow"] == way
    assert (await api.patch(path, json={"name": "other"})).json()["overflow"] == way
    tag = await admin.fetchrow("SELECT tag_name, tag_value, ways::text[] AS ways FROM routes_out")
    order = [way, str(UUID(int=0))]  # while that one rests, back to wait for room
    assert tag is not None and dict(tag) == {"tag_name": "pool-overflow", "tag_value": pool["id"], "ways": order}
    assert (await api.patch(path, json={"overflow": None})).json()["overflow"] is None
    assert await admin.fetchval("SELECT count(*) FROM routes_out") == 0


async def test_what_clashes_says_with_what(api: httpx.AsyncClient) -> None:
    pool = await _pool(api)
    assert_error(await api.post("/v1/pools", json={"name": "news"}), 409, "resource_locked", "named news")
    taken = await api.post("/v1/pools", json={"name": "other", "mail": ["broadcast"]})
    assert_error(taken, 409, "resource_locked", "Another pool carries broadcasts of every domain")
    assert (await api.get("/v1/pools")).json()["data"] == [
        {key: value for key, value in pool.items() if key != "object"}
    ], "all or nothing"
    await _pool(api, "shop", domains=["shop.example"])
    first = (await _source(api, pool["id"])).json()
    assert_error(await _source(api, pool["id"]), 409, "resource_locked", "this address")
    assert_error(await api.delete(f"/v1/pools/{pool['id']}"), 409, "resource_locked", "has sources")
    assert (await api.delete(f"/v1/sources/{first['id']}")).json()["deleted"] is True
    assert (await api.delete(f"/v1/pools/{pool['id']}")).json()["deleted"] is True
    assert_error(await api.get(f"/v1/pools/{pool['id']}"), 404, "not_found")


async def test_a_bad_source(api: httpx.AsyncClient) -> None:
    good = {"pool": (await _pool(api))["id"], "ipv4": "203.0.113.7", "ehlo_name": "out7.example.com"}
    changed: tuple[tuple[dict[str, object], str], ...] = (
        ({"ipv4": "2001:db8::7"}, "`ipv4`"),
        ({"ipv4": "224.0.0.1"}, "No mail leaves"),
        ({"ipv4": "nowhere"}, "IP address"),
        ({"ipv4": None}, "Give `ipv4`, `ipv6` or both"),
        ({"local_ipv6": "fd00::1"}, "needs `ipv6`"),
        ({"ehlo_name": "out 7"}, "`ehlo_name`"),
        ({"ehlo_name": "out7.example\r\nMAIL FROM:<>"}, "`ehlo_name`"),
        ({"schedule": []}, "`schedule`"),
        ({"schedule": [0]}, "`schedule.0`"),
        ({"pool": ""}, "`pool`"),
    )
    for changes, words in changed:
        answer = await api.post("/v1/sources", json=good | changes)
        assert answer.status_code == 422 and words in answer.json()["message"], answer.text
    assert (await api.get("/v1/sources")).json()["data"] == []


async def test_an_unknown_pool(api: httpx.AsyncClient) -> None:
    for name in (str(uuid4()), "nowhere"):
        assert_error(await _source(api, name), 404, "not_found", "Pool")
    await _pool(api, "shop", domains=["shop.example"])
    assert (await _source(api, "shop")).json()["pool"] == "shop"


async def test_the_operator_steers_a_warm_up(api: httpx.AsyncClient) -> None:
    source = (await _source(api, (await _pool(api))["id"], schedule=[10, 20, 30])).json()
    path = f"/v1/sources/{source['id']}"

    async def change(**asked: object) -> dict[str, object]:
        answer = await api.patch(path, json=asked)
        assert answer.status_code == 200, answer.text
        now: dict[str, object] = (await api.get(path)).json()
        assert now == answer.json()
        return now

    assert (await change(step=3))["cap"] == 30
    assert_error(await api.patch(path, json={"step": 4}), 422, "validation_error", "1 to 3")
    assert (await change(schedule=[5, 6]))["cap"] == 6, "the last step of a shorter one"
    paused = await change(paused=True)
    assert paused["state"] == "paused" and paused["paused"]["by"] == "operator"  # type: ignore[index]
    assert str(paused["next_step"]).startswith("Paused by the operator.")
    resumed = await change(paused=False)
    assert (resumed["state"], resumed["cap"], resumed["paused"]) == ("warming", 6, None)
    warm = await change(warm=True)
    assert (warm["state"], warm["cap"], warm["next_step"]) == ("warm", None, "Warm: no cap. 0 mails left today.")
    assert (await change(warm=False))["cap"] == 5
    assert (await change(ehlo_name="other.example.com"))["ehlo_name"] == "other.example.com"
    whats = [decision["what"] for decision in (await api.get(path)).json()["decisions"]]
    assert whats == ["began", "warm", "resumed", "paused", "changed", "changed", "began"]


async def test_a_pause_for_bad_signs_is_told_and_ended(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    source = (await _source(api, (await _pool(api))["id"], schedule=[10, 20, 30])).json()
    path = f"/v1/sources/{source['id']}"
    await admin.execute(
        "UPDATE warmups SET state = 'paused', step = 2, paused_at = now(), paused_until = now() + interval '1 day', "
        "why = '3 of 50 attempts were refused because of who sends.'"
    )
    shown = (await api.get(path)).json()
    assert shown["paused"]["by"] == "warm-up" and "3 of 50" in shown["paused"]["why"]
    assert shown["next_step"].endswith("It then goes on with 20 mails a day.")
    resumed = (await api.patch(path, json={"paused": False})).json()
    assert (resumed["state"], resumed["step"], resumed["cap"]) == ("warming", 2, 20)


async def test_a_sending_domain(api: httpx.AsyncClient) -> None:
    made = await api.post("/v1/warmups", json={"domain": "New.Example", "schedule": [3, 9]})
    assert made.status_code == 201
    warmup = made.json()
    assert (warmup["domain"], warmup["state"], warmup["cap"]) == ("new.example", "warming", 3)
    again = await api.post("/v1/warmups", json={"domain": "new.example"})
    assert_error(again, 409, "resource_locked", "new.example")
    path = f"/v1/warmups/{warmup['id']}"
    assert (await api.patch(path, json={"step": 2})).json()["cap"] == 9
    assert (await api.patch(path, json={"paused": True})).json()["paused"]["by"] == "operator"
    assert (await api.patch(path, json={"paused": False})).json()["cap"] == 9
    assert [each["domain"] for each in (await api.get("/v1/warmups")).json()["data"]] == ["new.example"]
    assert (await api.delete(path)).json() == {"object": "warmup", "id": warmup["id"], "deleted": True}
    assert_error(await api.get(path), 404, "not_found")


async def test_a_sources_warm_up_is_no_domains(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    await _source(api, (await _pool(api))["id"])
    id_ = await admin.fetchval("SELECT id FROM warmups")
    for method in ("GET", "PATCH", "DELETE"):
        assert_error(await api.request(method, f"/v1/warmups/{id_}", json={}), 404, "not_found")
    assert await admin.fetchval("SELECT count(*) FROM warmups") == 1


async def test_a_mail_that_waits_says_so(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    pool = await _pool(api)
    sent = await api.post(
        "/emails", json={"from": "us@postroom.test", "to": "you@example.com", "subject": "s", "text": "t"}
    )
    await admin.execute(
        "UPDATE queue SET waits_for = $1::text::uuid, turn = 0, due_at = now() + interval '1 day'", pool["id"]
    )
    (delivery,) = (await api.get(f"/v1/emails/{sent.json()['id']}/deliveries")).json()["data"]
    assert delivery["state"] == "queued"
    assert "what the addresses of the pool `news` may send today is used up" in delivery["next_attempt"]["why"]
    assert (await api.get(f"/v1/pools/{pool['id']}")).json()["waiting"] == 1
    first, second = [(await _source(api, pool["id"], f"203.0.113.{n}")).json()["id"] for n in (7, 8)]
    assert (await api.delete(f"/v1/sources/{first}")).status_code == 200
    assert await admin.fetchval("SELECT due_at > now() AND waits_for IS NOT NULL FROM queue")
    assert (await api.delete(f"/v1/sources/{second}")).status_code == 200
    assert await admin.fetchval("SELECT due_at <= now() AND waits_for IS NULL FROM queue"), (
        "no pool carries it any more"
    )


async def test_only_the_operator(
    api: httpx.AsyncClient,
    make_client: MakeClient,
    make_key: MakeKey,
    make_org: Callable[[], Awaitable[UUID]],
    org: UUID,
) -> None:
    pool = await _pool(api)
    source = (await _source(api, pool["id"])).json()
    stranger = await make_client(await make_key(await make_org()))
    sender = await make_client(await make_key(org, permission="sending_access"))
    for client, status, name in ((stranger, 403, "invalid_permission"), (sender, 401, "restricted_api_key")):
        for method, path in (
            ("GET", "/v1/pools"),
            ("POST", "/v1/pools"),
            ("GET", f"/v1/pools/{pool['id']}"),
            ("GET", "/v1/sources"),
            ("GET", f"/v1/sources/{source['id']}"),
            ("PATCH", f"/v1/sources/{source['id']}"),
            ("DELETE", f"/v1/sources/{source['id']}"),
            ("GET", "/v1/warmups"),
        ):
            assert_error(await client.request(method, path, json={}), status, name)
    assert (await api.get(f"/v1/sources/{source['id']}")).status_code == 200
