"""/v1/ways, /v1/routes-out and their twins of the installation; /v1/provider-events."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from fakes.provider_posts import SETTINGS, fixture, signed_post
from mailcore.flow import ways as kinds
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.providers.registry import VENDORS

from .harness import MakeClient, MakeKey, assert_error

MAILGUN = {"name": "Mailgun EU", "kind": "mailgun", "settings": {"api_key": "key-very-secret", "region": "eu"}}


async def made(api: httpx.AsyncClient, path: str = "/v1/ways", **changed: Any) -> dict[str, Any]:
    answer = await api.post(path, json={**MAILGUN, **changed})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("vendor", VENDORS)
async def test_an_account_of_each_vendor(
    vendor: str, api: httpx.AsyncClient, admin: asyncpg.Connection, keyring: Keyring
) -> None:
    way = await made(api, kind=vendor, settings=SETTINGS[vendor])
    row = await admin.fetchrow("SELECT * FROM ways WHERE id = $1", UUID(way["id"]))
    assert row is not None
    secrets = kinds.unseal(keyring, row["secrets_sealed"])
    assert {*secrets, *row["settings"]} >= set(SETTINGS[vendor])
    for secret in secrets.values():
        assert secret not in json.dumps(way) and secret not in json.dumps(row["settings"])
        assert secret.encode() not in row["secrets_sealed"]
    assert way["secrets"] == kinds.secret_names(vendor)
    reports = vendor != "cloudflare"
    assert way["reports"] is reports
    assert way["events_url"] == (f"http://127.0.0.1:8080/v1/provider-events/{way['id']}" if reports else None)
    assert way["site"] == f"{vendor}:{way['id']}"
    assert way["health"] == {"state": "working", "failures": 0, "resting_until": None, "last_reply": None}
    assert (await api.get(f"/v1/ways/{way['id']}")).json() == way
    assert [each["id"] for each in (await api.get("/v1/ways")).json()["data"]] == [way["id"]]


async def test_what_cannot_be_a_way(api: httpx.AsyncClient) -> None:
    for changed, words in (
        ({"kind": "pigeon"}, "`kind` must be one of"),
        ({"settings": {}}, "needs `settings.api_key`"),
        ({"settings": {"api_key": "k", "apikey": "k"}}, "has no `settings.apikey`"),
        ({"settings": {"api_key": "k", "region": "mars"}}, "settings.region"),
        ({"settings": {"api_key": "k", "domain": "a b"}}, "settings.domain"),
        ({"settings": {"api_key": "key-very-secret\r\nX: y"}}, "printable ASCII without spaces"),
        ({"kind": "resend", "settings": {"api_key": "re_very-secret\u2192"}}, "printable ASCII without spaces"),
        ({"kind": "ses", "settings": {**SETTINGS["ses"], "region": "evil.test/#"}}, "settings.region"),
        ({"kind": "sendgrid", "settings": {"api_key": "k", "verification_key": "x"}}, "signed event webhook"),
        ({"name": ""}, "name"),
        ({"max_connections": 21}, "at most 20"),
        ({"kind": "smarthost", "settings": {"host": "127.0.0.1"}}, "127.0.0.1 is closed to smarthosts"),
        ({"kind": "smarthost", "settings": {"host": "192.0.2.1", "port": 22}}, "Port 22 is not open"),
        (
            {"kind": "smarthost", "settings": {"host": "192.0.2.1", "tls": "implicit"}},
            "on port 587 TLS begins with STARTTLS",
        ),
    ):
        answer = await api.post("/v1/ways", json={**MAILGUN, **changed})
        assert_error(answer, 422, answer.json()["name"], words)
        assert "very-secret" not in answer.text


async def test_a_smart_host_moves_to_port_465(api: httpx.AsyncClient) -> None:
    way = await made(api, kind="smarthost", settings={"host": "8.8.8.8", "username": "us", "password": "pw"})
    assert way["settings"] == {"host": "8.8.8.8", "port": 587, "tls": "required", "username": "us"}
    changed = await api.patch(f"/v1/ways/{way['id']}", json={"settings": {"port": 465}})
    assert changed.json()["settings"] == {"host": "8.8.8.8", "port": 465, "tls": "required", "username": "us"}


async def test_one_setting_changes_and_the_others_stay(
    api: httpx.AsyncClient, admin: asyncpg.Connection, keyring: Keyring
) -> None:
    way = await made(api)
    path = f"/v1/ways/{way['id']}"
    await admin.execute(
        "UPDATE sites SET failures = 3, suspended_until = now() + interval '1 hour', last_reply = '401 no' WHERE key = $1",
        way["site"],
    )
    resting = (await api.get(path)).json()["health"]
    assert (resting["state"], resting["failures"], resting["last_reply"]) == ("resting", 3, "401 no")

    changed = (await api.patch(path, json={"settings": {"signing_secret": "sign", "region": None}})).json()
    assert changed["settings"] == {"domain": None, "region": "us"} and changed["reports"] is True
    assert changed["health"]["state"] == "working", "it is tried again at once"
    row = await admin.fetchrow("SELECT secrets_sealed FROM ways")
    assert row is not None
    assert kinds.unseal(keyring, row["secrets_sealed"]) == {"api_key": "key-very-secret", "signing_secret": "sign"}

    off = (await api.patch(path, json={"enabled": False, "name": "Off"})).json()
    assert (off["name"], off["health"]["state"], off["reports"]) == ("Off", "off", True)
    held = "SELECT count(*) FROM holds h JOIN sites s ON s.id = h.site_id WHERE s.key = $1 AND h.until IS NULL"
    assert await admin.fetchval(held, way["site"]) == 1, "what is under way ends, too"
    on = (await api.patch(path, json={"enabled": True})).json()
    assert on["health"]["state"] == "working" and await admin.fetchval(held, way["site"]) == 0
    assert_error(await api.patch(path, json={"settings": {"api_key": None}}), 422, "validation_error", "api_key")


async def test_routes_name_ways_in_order(api: httpx.AsyncClient, domain: UUID) -> None:
    first, second = await made(api), await made(api)
    asked = {
        "ways": [second["id"], first["id"], "default"],
        "domain_id": str(domain),
        "tag": {"name": "stream", "value": "news"},
    }
    answer = await api.post("/v1/routes-out", json=asked)
    assert answer.status_code == 201
    route = answer.json()
    assert {name: route[name] for name in asked} == asked and route["organization_id"] is None
    assert_error(await api.post("/v1/routes-out", json=asked), 409, "resource_locked")
    path = f"/v1/routes-out/{route['id']}"
    assert (await api.get(path)).json() == route
    assert (await api.patch(path, json={"ways": [first["id"]]})).json()["ways"] == [first["id"]]
    # a way that is named stays
    assert_error(await api.delete(f"/v1/ways/{first['id']}"), 409, "resource_locked", "1 route names")
    assert (await api.delete(path)).json() == {"object": "route_out", "id": route["id"], "deleted": True}
    assert (await api.delete(f"/v1/ways/{first['id']}")).status_code == 200
    assert_error(await api.get(path), 404, "not_found")


async def test_what_cannot_be_a_route(api: httpx.AsyncClient) -> None:
    way = (await made(api))["id"]
    for asked, status in (
        ({"ways": []}, 422),
        ({"ways": [way, way]}, 422),
        ({"ways": ["x"]}, 422),
        ({"ways": [str(uuid4())]}, 404),
        ({"ways": [way], "domain_id": str(uuid4())}, 404),
        ({"ways": [way], "organization_id": str(uuid4())}, 422),
        ({"ways": [way], "tag": {"value": "x"}}, 422),
    ):
        assert (await api.post("/v1/routes-out", json=asked)).status_code == status, asked


async def test_another_organization_sees_and_names_nothing(
    api: httpx.AsyncClient, make_org: Callable[[], Awaitable[UUID]], make_key: MakeKey, make_client: MakeClient
) -> None:
    way = await made(api)
    route = (await api.post("/v1/routes-out", json={"ways": [way["id"]]})).json()
    other = await make_client(await make_key(await make_org()))
    for path, change in (
        (f"/v1/ways/{way['id']}", {"name": "mine"}),
        (f"/v1/routes-out/{route['id']}", {"ways": ["default"]}),
    ):
        for method, body in (("GET", None), ("PATCH", change), ("DELETE", None)):
            assert_error(await other.request(method, path, json=body), 404, "not_found")
    assert_error(await other.post("/v1/routes-out", json={"ways": [way["id"]]}), 404, "not_found")
    assert (await other.get("/v1/ways")).json()["data"] == []
    # nor may it set what is the installation's
    for path in ("/v1/installation/ways", "/v1/installation/routes-out"):
        assert_error(await other.get(path), 403, "invalid_permission")
        assert_error(await other.post(path, json=MAILGUN), 403, "invalid_permission")


async def test_the_operator_sets_ways_for_all_and_for_one(
    api: httpx.AsyncClient, org: UUID, make_org: Callable[[], Awaitable[UUID]], admin: asyncpg.Connection
) -> None:
    """The first organization is the operator's."""
    other = await make_org()
    way = await made(api, "/v1/installation/ways", kind="smarthost", settings={"host": "127.0.0.1", "port": 2500})
    assert await admin.fetchval("SELECT org_id FROM ways WHERE id = $1", UUID(way["id"])) is None
    assert (await api.get("/v1/ways")).json()["data"] == [], "not among its own"
    path = "/v1/installation/routes-out"
    everybody = await api.post(path, json={"ways": [way["id"], "default"]})
    one = await api.post(path, json={"ways": [way["id"]], "organization_id": str(other)})
    assert (everybody.status_code, one.status_code) == (201, 201)
    assert_error(await api.post(path, json={"ways": [way["id"]], "organization_id": str(uuid4())}), 404, "not_found")
    found = await admin.fetch("SELECT for_org FROM lookup_routes_out($1)", other)
    assert {row["for_org"] for row in found} == {None, other}
    assert [row["for_org"] for row in await admin.fetch("SELECT for_org FROM lookup_routes_out($1)", org)] == [None]
    # an organization's route names its own ways only
    assert_error(await api.post("/v1/routes-out", json={"ways": [way["id"]]}), 404, "not_found")


async def test_provider_events_need_the_providers_signature(
    api: httpx.AsyncClient, make_client: MakeClient, admin: asyncpg.Connection, org: UUID
) -> None:
    way = await made(api, kind="postmark", settings=SETTINGS["postmark"])
    provider = await make_client(None)
    path = f"/v1/provider-events/{way['id']}"
    email, at = uuid7(), int(time.time())
    await admin.execute(
        "INSERT INTO deliveries (email_id, n, org_id, recipient, state, last_event, last_event_at) "
        "VALUES ($1, 0, $2, 'ada@example.com', 'relayed', 'sent', now())",
        email,
        org,
    )
    await admin.execute(
        "INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, site) VALUES ($1, 0, 1, $2, now(), 'relayed', $3)",
        *(email, org, way["site"]),
    )
    body = json.dumps(fixture("postmark", "events")["delivered"]["body"])
    post = signed_post("postmark", json.loads(body.replace("0190d0c47ea17c3b9f2a6c1de0f4b8a5", email.hex)), at=at)
    headers = {**post.headers, "content-type": "application/json"}
    answers = [await provider.post(path, content=post.body, headers=headers) for _ in range(2)]
    assert [answer.json() for answer in answers] == [
        {"object": "provider_events", "taken": 1},
        {"object": "provider_events", "taken": 0},
    ]
    assert await admin.fetchval("SELECT state FROM deliveries WHERE email_id = $1", email) == "delivered"
    assert await admin.fetchval("SELECT count(*) FROM events WHERE type = 'email.delivered'") == 1
    # who cannot sign learns nothing: not even whether there is such a way
    unsigned = await provider.post(path, content=post.body)
    unknown = await provider.post(f"/v1/provider-events/{uuid4()}", content=post.body, headers=headers)
    assert_error(unsigned, 401, "invalid_signature")
    assert unsigned.json() == unknown.json()


async def test_secrets_are_masked_in_the_log_of_calls(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    for vendor in VENDORS:
        account = kinds.check(vendor, SETTINGS[vendor])
        _, secrets = kinds.parted(account)
        from api.logs.masking import kept

        text = kept(json.dumps({"name": "x", "kind": vendor, "settings": SETTINGS[vendor]}).encode(), 16_384)
        assert text is not None
        for secret in secrets.values():
            assert f'"{secret}"' not in text
