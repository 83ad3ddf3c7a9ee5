"""/webhooks as its callers see it: the routes in the whole application, over a real database."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

import suites
from integration.webhooks.harness import Receiver, Run, Tenant, add_key, refused
from mailcore import events
from mailcore.kit.addresses import parse_host


async def test_the_life_of_a_webhook(client: httpx.AsyncClient) -> None:
    created = await client.post(
        "/webhooks",
        json={"endpoint": "https://example.com/hook", "events": ["email.sent", "email.sent", "domain.created"]},
    )
    assert created.status_code == 201
    assert set(created.json()) == {"object", "id", "signing_secret"}
    assert created.json()["object"] == "webhook"
    secret = created.json()["signing_secret"]
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 24
    id_ = created.json()["id"]

    listed = (await client.get("/webhooks")).json()
    assert (listed["object"], listed["has_more"]) == ("list", False)
    [row] = listed["data"]
    assert set(row) == {"id", "created_at", "status", "endpoint", "events"}
    assert row["events"] == ["email.sent", "domain.created"]

    got = (await client.get(f"/webhooks/{id_}")).json()
    assert got == row | {
        "object": "webhook",
        "signing_secret": secret,
        "ordered": False,
        "include_body": False,
        "failing_since": None,
        "disabled_at": None,
        "disabled_reason": None,
    }

    changed = await client.patch(f"/webhooks/{id_}", json={"status": "disabled", "webhook_id": id_})
    assert changed.json() == {"object": "webhook", "id": id_}
    got = (await client.get(f"/webhooks/{id_}")).json()
    assert (got["status"], got["endpoint"]) == ("disabled", "https://example.com/hook")

    deleted = await client.request("DELETE", f"/webhooks/{id_}", json={})
    assert deleted.json() == {"object": "webhook", "id": id_, "deleted": True}
    for answer in (
        await client.get(f"/webhooks/{id_}"),
        await client.delete(f"/webhooks/{id_}"),
        await client.patch(f"/webhooks/{id_}", json={"status": "enabled"}),
    ):
        assert refused(answer, 404)["message"] == "Webhook not found"


async def test_the_secret_is_not_stored_in_clear(client: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    created = (await client.post("/webhooks", json={"endpoint": "https://a.example", "events": ["email.sent"]})).json()
    row = await admin.fetchrow("SELECT * FROM webhooks")
    assert row is not None
    raw = events.read_secret(created["signing_secret"])
    assert raw not in row["secret_sealed"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "Missing `endpoint` field."),
        ({"endpoint": "https://example.com"}, "Missing `events` field."),
        ({"endpoint": "https://example.com", "events": []}, "at least one event"),
        ({"endpoint": "https://example.com", "events": ["email.read"]}, "'email.read'"),
        ({"endpoint": "https://example.com", "events": "email.sent"}, "`events`"),
        ({"endpoint": 7, "events": ["email.sent"]}, "`endpoint`"),
        ({"endpoint": "example.com/hook", "events": ["email.sent"]}, "https://example.com/path"),
        ({"endpoint": "ftp://example.com/", "events": ["email.sent"]}, "https://"),
        ({"endpoint": "https://u:p@example.com/", "events": ["email.sent"]}, "password"),
        ({"endpoint": "https://10.1.2.3/", "events": ["email.sent"]}, "POSTROOM_NETWORK__ALLOW__WEBHOOKS=10.1.2.3/32"),
        ({"endpoint": "https://example.com/" + "a" * 3000, "events": ["email.sent"]}, "2048"),
        ([], "JSON object"),
    ],
)
async def test_what_is_wrong_is_said(client: httpx.AsyncClient, body: Any, says: str) -> None:
    assert says in refused(await client.post("/webhooks", json=body))["message"]
    assert (await client.get("/webhooks")).json()["data"] == []


async def test_no_closed_endpoint_of_the_suite_is_taken(client: httpx.AsyncClient) -> None:
    vectors = suites.vectors("ssrf-vectors")
    names = {"127.0.0.1.nip.io", "localhost", "localhost.", "LOCALHOST"}
    # this client's operator has opened 127.0.0.0/8, and what only a name server knows is checked at each post
    hosts = [host for host in vectors["host_spellings_must_block"] if host not in names]
    urls = [f"http://{host}/" for host in hosts if host.startswith("[fe") or not _is_loopback(host)]
    urls += [url for url in vectors["urls_must_block"] if "127." not in url]
    assert len(urls) > 15
    for url in urls:
        refused(await client.post("/webhooks", json={"endpoint": url, "events": ["email.sent"]}))


def _is_loopback(host: str) -> bool:
    address = parse_host(host)
    return not isinstance(address, str) and address in ip_network("127.0.0.0/8")


async def test_pages(client: httpx.AsyncClient) -> None:
    ids = []
    for n in range(5):
        answer = await client.post("/webhooks", json={"endpoint": f"https://example.com/{n}", "events": ["email.sent"]})
        ids.insert(0, answer.json()["id"])
    page = (await client.get("/webhooks", params={"limit": 2})).json()
    assert ([row["id"] for row in page["data"]], page["has_more"]) == (ids[:2], True)
    page = (await client.get("/webhooks", params={"limit": 3, "after": ids[1]})).json()
    assert ([row["id"] for row in page["data"]], page["has_more"]) == (ids[2:], False)
    refused(await client.get("/webhooks", params={"limit": 0}))


async def test_another_tenant_sees_nothing(
    client: httpx.AsyncClient, admin: asyncpg.Connection, make_org: Callable[[], Awaitable[UUID]]
) -> None:
    created = (await client.post("/webhooks", json={"endpoint": "https://a.example", "events": ["email.sent"]})).json()
    other = {"authorization": "Bearer re_other123_NKFusih9vKVQknRAQfmFcWCv"}
    await add_key(admin, await make_org(), other["authorization"].removeprefix("Bearer "))
    assert (await client.get("/webhooks", headers=other)).json()["data"] == []
    for method in ("GET", "DELETE"):
        refused(await client.request(method, f"/webhooks/{created['id']}", headers=other), 404)
    refused(await client.patch(f"/webhooks/{created['id']}", json={"status": "disabled"}, headers=other), 404)
    assert (await client.get(f"/webhooks/{created['id']}")).json()["status"] == "enabled"


async def test_a_key_that_only_sends_may_not(client: httpx.AsyncClient, admin: asyncpg.Connection, org: UUID) -> None:
    sending = {"authorization": "Bearer re_sending1_NKFusih9vKVQknRAQfmFcWCv"}
    await add_key(admin, org, sending["authorization"].removeprefix("Bearer "), "sending_access")
    assert refused(await client.get("/webhooks", headers=sending), 401)["name"] == "restricted_api_key"


async def test_made_by_the_api_and_posted_by_the_service(
    client: httpx.AsyncClient, tenant: Tenant, receiver: Receiver, run: Run
) -> None:
    created = await client.post("/webhooks", json={"endpoint": receiver.url(), "events": ["email.bounced"]})
    secret = events.read_secret(created.json()["signing_secret"])
    async with run():
        await tenant.raise_events(1, "email.bounced", detail=events.bounce("user unknown"))
        await tenant.until_empty()
    [post] = receiver.posts
    now = int(post.headers["svix-timestamp"])
    assert events.verify(secret, post.headers, post.body, now=now) == post.id
