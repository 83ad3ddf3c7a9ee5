"""Health, OpenAPI, rate limit, catch mode, and what happens when Redis or Postgres is away."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import jsonschema
from prometheus_client import REGISTRY

from mailcore.blob.caught import NewMail, write_batch
from mailcore.dns.lab import read_zone

from .harness import MakeClient, assert_error, email

AWAY = "redis://127.0.0.1:1/0"


async def test_health(make_client: MakeClient) -> None:
    api = await make_client()
    assert (await api.get("/health")).json() == {"status": "ok"}
    assert (await api.get("/healthz")).status_code == 200
    ready = await api.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]) == (200, {"database": "ok", "blobs": "ok"})
    away = await make_client(None, database={"url": "postgresql://postroom@127.0.0.1:1/none"})
    assert (await away.get("/health")).status_code == 200
    ready = await away.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")


async def test_database_away(make_client: MakeClient) -> None:
    api = await make_client("re_some_key", database={"url": "postgresql://postroom@127.0.0.1:1/none"})
    for method, path in (("POST", "/emails"), ("GET", "/domains")):
        answer = await api.request(method, path, json=email())
        assert_error(answer, 503, "service_unavailable")
        assert answer.headers["retry-after"] == "1"


async def test_redis_away(token: str, make_client: MakeClient, admin: asyncpg.Connection) -> None:
    api = await make_client(
        token, redis={"url": AWAY, "timeout_seconds": 0.05}, rate_limit={"requests_per_second": 1000}
    )
    answers = await asyncio.gather(*(api.post("/emails", json=email()) for _ in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert await admin.fetchval("SELECT count(*) FROM queue") == 20
    assert answers[-1].headers["ratelimit-limit"] == "1000"
    made = (await api.post("/domains", json={"name": "new.test"})).json()
    assert (await api.post(f"/domains/{made['id']}/verify")).status_code == 200


async def test_rate_limit_counts_for_all_processes(
    token: str, make_client: MakeClient, make_key: Any, org: UUID
) -> None:
    limit = {"requests_per_second": 5}
    clients = [await make_client(token, rate_limit=limit), await make_client(await make_key(org), rate_limit=limit)]
    for client in clients:
        await client.get("/emails")  # keys are known from here on
    began = int(time.time())
    answers = await asyncio.gather(*(clients[n % 2].get("/emails") for n in range(40)))
    windows = int(time.time()) - began + 1
    passed = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(passed) + len(refused) == 40
    assert 1 <= len(passed) <= 5 * windows, "both processes count together, by the second"
    assert len(refused) >= 40 - 5 * windows
    for answer in refused:
        assert_error(answer, 429, "rate_limit_exceeded", "5 requests per second")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["ratelimit-remaining"] == "0"
    for answer in passed:
        assert (answer.headers["ratelimit-limit"], answer.headers["ratelimit-policy"]) == ("5", "5;w=1")
        assert answer.headers["ratelimit-reset"] == "1"


async def test_rate_limit_without_redis(token: str, make_client: MakeClient) -> None:
    api = await make_client(token, redis={"url": AWAY, "timeout_seconds": 0.05}, rate_limit={"requests_per_second": 3})
    answers = await asyncio.gather(*(api.get("/emails") for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200, 429}


async def test_headers_stand_on_every_answer(make_client: MakeClient) -> None:
    api = await make_client(None, rate_limit={"requests_per_second": 7, "unauthenticated": 70})
    for path in ("/health", "/emails", "/nope", "/openapi.json"):
        answer = await api.get(path)
        # a stranger's own limit; of health, which is not counted, what an organization has
        assert answer.headers["ratelimit-limit"] == ("7" if path == "/health" else "70"), path
        assert answer.headers["ratelimit-remaining"].isdigit()
    off = await make_client(None, rate_limit={"requests_per_second": 0})
    assert "ratelimit-limit" not in (await off.get("/health")).headers


async def test_metrics_need_their_token(make_client: MakeClient) -> None:
    api = await make_client(None, metrics_auth_token="secret")
    assert_error(await api.get("/api/metrics"), 404, "not_found")
    assert_error(await api.get("/api/metrics", headers={"authorization": "Bearer other"}), 404, "not_found")
    shown = await api.get("/api/metrics", headers={"authorization": "Bearer secret"})
    assert "postroom_submits_total" in shown.text
    hidden = await make_client(None)
    assert_error(await hidden.get("/api/metrics", headers={"authorization": "Bearer "}), 404, "not_found")


async def test_submits_are_counted(api: httpx.AsyncClient) -> None:
    before = REGISTRY.get_sample_value("postroom_submits_total", {"door": "api"}) or 0
    await api.post("/emails", json=email())
    await api.post("/emails/batch", json=[email(), email()])
    await api.post("/emails", json=email(to="x"))
    assert REGISTRY.get_sample_value("postroom_submits_total", {"door": "api"}) == before + 3


async def test_openapi_is_true(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    paths = document["paths"]
    operations = {f"{method.upper()} {path}" for path, found in paths.items() for method in found}
    assert {
        *("POST /emails", "GET /emails", "POST /emails/batch", "GET /emails/{id}", "GET /v1/emails/{id}/deliveries"),
        *("POST /domains", "GET /domains", "GET /domains/{id}", "DELETE /domains/{id}", "POST /domains/{id}/verify"),
        *("POST /api-keys", "GET /api-keys", "DELETE /api-keys/{id}", "GET /health", "GET /readyz"),
        *("GET /v1/caught", "GET /v1/caught/{id}/raw", "DELETE /v1/caught", "PUT /v1/lab/dns/{zone}"),
    } <= operations
    assert "detail" not in str(document["components"]["schemas"]["Error"])
    assert "HTTPValidationError" not in str(document)

    def resolved(schema: dict[str, Any]) -> dict[str, Any]:
        return {**schema, "components": document["components"]}

    def check(answer: httpx.Response, operation: str) -> None:
        method, path = operation.split()
        described = paths[path][method.lower()]["responses"][str(answer.status_code)]
        schema = described["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), resolved(schema))

    # every reference leads somewhere
    for reference in set(_references(document)):
        part: Any = document
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]
    sent = await api.post("/emails", json=email(tags=[{"name": "a", "value": "b"}]))
    check(sent, "POST /emails")
    check(await api.get(f"/emails/{sent.json()['id']}"), "GET /emails/{id}")
    check(await api.get("/emails"), "GET /emails")
    check(await api.get(f"/v1/emails/{sent.json()['id']}/deliveries"), "GET /v1/emails/{id}/deliveries")
    check(await api.post("/emails/batch", json=[email()]), "POST /emails/batch")
    made = await api.post("/domains", json={"name": "new.test"})
    check(made, "POST /domains")
    check(await api.get(f"/domains/{made.json()['id']}"), "GET /domains/{id}")
    check(await api.get("/domains"), "GET /domains")
    check(await api.post(f"/domains/{made.json()['id']}/verify"), "POST /domains/{id}/verify")
    check(await api.delete(f"/domains/{made.json()['id']}"), "DELETE /domains/{id}")
    check(await api.get(f"/domains/{made.json()['id']}"), "GET /domains/{id}")
    key = await api.post("/api-keys", json={"name": "k"})
    check(key, "POST /api-keys")
    check(await api.get("/api-keys"), "GET /api-keys")
    check(await api.delete(f"/api-keys/{key.json()['id']}"), "DELETE /api-keys/{id}")
    check(await api.post("/emails", json={}), "POST /emails")
    check(await api.post("/emails", content=b"{"), "POST /emails")
    jsonschema.validate(
        email(), resolved(paths["/emails"]["post"]["requestBody"]["content"]["application/json"]["schema"])
    )


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for each in value.values() for found in _references(each)]
    if isinstance(value, list):
        return [found for each in value for found in _references(each)]
    return []


async def test_catch_mode(token: str, make_client: MakeClient, tmp_path: Path) -> None:
    caught, zones = tmp_path / "caught", tmp_path / "zones"
    api = await make_client(token, catch={"dir": str(caught), "dns_dir": str(zones)})
    assert (await api.get("/v1/caught")).json() == {"object": "list", "has_more": False, "data": []}
    raw = b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n.\x00\xff\r\n"
    at = datetime.now(UTC)
    mails = [
        NewMail("b@x.test", ("One@example.com",), raw, "127.0.0.1:1", at),
        NewMail("b@x.test", ("two@example.com",), raw, "127.0.0.1:1", at),
    ]
    first, second = write_batch(caught, mails)
    listed = (await api.get("/v1/caught")).json()["data"]
    assert listed[0] == {
        "id": str(first),
        "mail_from": "b@x.test",
        "rcpt_to": ["One@example.com"],
        "subject": "Grüße",
        "size": len(raw),
        "received_at": listed[0]["received_at"],
        "peer": "127.0.0.1:1",
    }

    async def ids(**query: str) -> list[str]:
        return [each["id"] for each in (await api.get("/v1/caught", params=query)).json()["data"]]

    assert await ids() == [str(first), str(second)]
    assert await ids(to="ONE@example.com") == [str(first)]
    assert await ids(to="nobody@example.com") == []
    assert await ids(after=str(first)) == [str(second)]
    assert await ids(after="2020-01-01T00:00:00Z") == [str(first), str(second)]
    assert await ids(after="2100-01-01T00:00:00+00:00") == []
    assert await ids(limit="1") == [str(first)]
    for bad in ({"after": "x"}, {"limit": "0"}, {"limit": "x"}, {"after": "0001-01-01T00:00:00"}):
        assert_error(await api.get("/v1/caught", params=bad), 422, "validation_error")
    got = await api.get(f"/v1/caught/{first}/raw")
    assert (got.content, got.headers["content-type"]) == (raw, "message/rfc822")
    assert_error(await api.get(f"/v1/caught/{UUID(int=1)}/raw"), 404, "not_found")
    assert (await api.delete("/v1/caught")).json() == {"object": "caught", "deleted": 2}
    assert await ids() == []

    records = [{"name": "@", "type": "MX", "value": "10 mx.example.test", "ttl": 60}]
    answer = await api.put("/v1/lab/dns/Example.test", json={"records": records})
    assert answer.json() == {"object": "zone", "name": "example.test", "records": 1}
    zone = read_zone(zones / "example.test.json")
    assert [record.value for record in zone.find(zone.origin, "MX").records] == ["10 mx.example.test"]
    for bad_zone in ("..", "a/b", "-", "x" * 300, "%2e%2e"):
        answer = await api.put(f"/v1/lab/dns/{bad_zone}", json={"records": []})
        assert answer.status_code in (404, 405, 422), bad_zone
        assert set(answer.json()) == {"statusCode", "name", "message"}
    for bad_body in ({}, {"records": {}}, {"records": ["x"]}, {"records": [{"name": "@", "type": "A", "value": "x"}]}):
        answer = await api.put("/v1/lab/dns/x.test", json=bad_body)
        assert answer.status_code == 422, bad_body
    assert sorted(path.name for path in zones.iterdir()) == ["example.test.json"]


async def test_outside_catch_mode_these_do_not_exist(api: httpx.AsyncClient) -> None:
    for method, path in (
        ("GET", "/v1/caught"),
        ("DELETE", "/v1/caught"),
        ("GET", f"/v1/caught/{UUID(int=1)}/raw"),
        ("PUT", "/v1/lab/dns/x.test"),
    ):
        assert_error(await api.request(method, path, json={"records": []}), 404, "not_found", "does not exist")
