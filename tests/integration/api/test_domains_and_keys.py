from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import httpx
import pytest

from mailcore.kit.seal import Keyring
from mailcore.mailauth.dkim.keys import SigningKey
from mailcore.queue.bell import Ringer

from .harness import assert_error, email


async def test_create_domain(api: httpx.AsyncClient, admin: asyncpg.Connection, keyring: Keyring) -> None:
    answer = await api.post(
        "/domains", json={"name": "Sub.EXAMPLE.com", "capabilities": {"receiving": "enabled"}, "unknown": 1}
    )
    assert answer.status_code == 201
    made = answer.json()
    assert "object" not in made
    assert (made["name"], made["status"], made["region"]) == ("sub.example.com", "not_started", "us-east-1")
    assert made["capabilities"] == {"sending": "enabled", "receiving": "enabled"}
    records = [(r["record"], r["name"], r["type"], r.get("priority"), r["ttl"], r["status"]) for r in made["records"]]
    assert records == [
        ("SPF", "send.sub", "MX", 10, "Auto", "not_started"),
        ("SPF", "send.sub", "TXT", None, "Auto", "not_started"),
        ("DKIM", "postroom._domainkey.sub", "TXT", None, "Auto", "not_started"),
        ("DKIM", "postroom-ed25519._domainkey.sub", "TXT", None, "Auto", "not_started"),
        ("Receiving", "sub", "MX", 10, "Auto", "not_started"),
    ]
    assert made["records"][1]["value"].startswith('"v=spf1 ')
    # what is published belongs to what is sealed
    rows = await admin.fetch("SELECT * FROM dkim_keys WHERE domain_id = $1", UUID(made["id"]))
    for row in rows:
        key = SigningKey.load(row["selector"], "sub.example.com", keyring.open(row["private_sealed"], "dkim"))
        assert (key.algorithm, key.public_txt) == (row["algorithm"], row["public_txt"])
        assert row["public_txt"] in [record["value"] for record in made["records"]]
    assert sorted(row["algorithm"] for row in rows) == ["ed25519-sha256", "rsa-sha256"]
    got = (await api.get(f"/domains/{made['id']}")).json()
    assert got["object"] == "domain"
    assert {name: got[name] for name in made} == made
    listed = (await api.get("/domains")).json()
    assert [each["name"] for each in listed["data"]] == ["sub.example.com", "postroom.test"]
    assert "records" not in listed["data"][0]
    assert (await api.get("/domains", params={"limit": 1})).json()["has_more"] is True


@pytest.mark.parametrize(
    ("body", "name", "words"),
    [
        ({}, "missing_required_field", "Missing `name` field."),
        ({"name": ""}, "validation_error", "`name`"),
        ({"name": "localhost"}, "validation_error", "`name`"),
        ({"name": "192.0.2.1"}, "validation_error", "`name`"),
        ({"name": "a b.example"}, "validation_error", "`name`"),
        ({"name": "x" * 301}, "validation_error", "`name`"),
        ({"name": ["x.example"]}, "validation_error", "`name`"),
        ({"name": "x.example", "region": "mars"}, "validation_error", "`region`"),
        ({"name": "x.example", "custom_return_path": "-a"}, "validation_error", "`custom_return_path`"),
        ({"name": "x.example", "custom_return_path": "a.b"}, "validation_error", "`custom_return_path`"),
        ({"name": "x.example", "open_tracking": "yes"}, "validation_error", "`open_tracking`"),
        ({"name": "x.example", "tls": "never"}, "validation_error", "`tls`"),
        ({"name": "x.example", "capabilities": {"sending": "disabled"}}, "validation_error", "at least one"),
    ],
)
async def test_bad_domains(api: httpx.AsyncClient, body: dict[str, object], name: str, words: str) -> None:
    assert_error(await api.post("/domains", json=body), 422, name, words)


async def test_a_name_is_registered_once(
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    make_org: Callable[[], Awaitable[UUID]],
    make_domain: Callable[[UUID, str], Awaitable[UUID]],
) -> None:
    await make_domain(await make_org(), "taken.test")
    for name in ("postroom.test", "POSTROOM.test.", "taken.test"):
        answer = await api.post("/domains", json={"name": name})
        assert_error(answer, 403, "validation_error", "has been registered already")
    # somebody else's claim that was never verified takes nothing from anybody
    await admin.execute("UPDATE domains SET status = 'pending' WHERE name = 'taken.test'")
    assert (await api.post("/domains", json={"name": "taken.test"})).status_code == 201


async def test_verify_asks_for_a_look_and_goes_on_sending(api: httpx.AsyncClient, domain: UUID, ringer: Ringer) -> None:
    made = (await api.post("/domains", json={"name": "new.test"})).json()
    for body in (None, {}, "null"):  # clients send nothing, or an empty object
        answer = await api.post(f"/domains/{made['id']}/verify", content=None if body is None else str(body))
        assert answer.json() == {"object": "domain", "id": made["id"]}
    got = (await api.get(f"/domains/{made['id']}")).json()
    assert (got["status"], {record["status"] for record in got["records"]}) == ("pending", {"pending"})
    assert await ringer.redis.zcard("postroom:arq:outbound") == 3
    assert (await api.post(f"/domains/{domain}/verify")).status_code == 200
    assert (await api.get(f"/domains/{domain}")).json()["status"] == "verified"
    assert (await api.post("/emails", json=email())).status_code == 200


async def test_a_domain_is_used_the_moment_it_is_verified(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    await api.post("/domains", json={"name": "new.test"})
    mine = email(**{"from": "a@new.test"})
    assert_error(await api.post("/emails", json=mine), 403, "validation_error", "`new.test` domain is not verified")
    await admin.execute("UPDATE domains SET status = 'verified' WHERE name = 'new.test'")
    assert (await api.post("/emails", json=mine)).status_code == 200


async def test_delete_domain(api: httpx.AsyncClient, domain: UUID, admin: asyncpg.Connection) -> None:
    answer = await api.delete(f"/domains/{domain}")
    assert answer.json() == {"object": "domain", "id": str(domain), "deleted": True}
    assert_error(await api.get(f"/domains/{domain}"), 404, "not_found", "Domain not found")
    assert_error(await api.delete(f"/domains/{domain}"), 404, "not_found", "Domain not found")
    assert await admin.fetchval("SELECT count(*) FROM dkim_keys") == 0


async def test_api_keys(api: httpx.AsyncClient, admin: asyncpg.Connection, domain: UUID, org: UUID) -> None:
    answer = await api.post(
        "/api-keys", json={"name": "Sender", "permission": "sending_access", "domain_id": str(domain)}
    )
    assert answer.status_code == 201
    made = answer.json()
    assert set(made) == {"id", "token"}
    assert re.fullmatch(r"re_[0-9A-Za-z]{8}_[0-9A-Za-z]{24}", made["token"])
    row = await admin.fetchrow("SELECT * FROM api_keys WHERE id = $1", UUID(made["id"]))
    assert (row["org_id"], row["permission"], row["domain_ids"]) == (org, "sending_access", [domain])
    assert row["token_hash"] == hashlib.sha256(made["token"].encode()).digest()
    listed = (await api.get("/api-keys")).json()
    assert made["token"] not in str(listed)
    assert {name: listed["data"][0][name] for name in ("id", "name", "last_used_at")} == {
        "id": made["id"],
        "name": "Sender",
        "last_used_at": None,
    }
    deleted = await api.delete(f"/api-keys/{made['id']}")
    assert deleted.json() == {"object": "api_key", "id": made["id"], "deleted": True}
    assert_error(await api.delete(f"/api-keys/{made['id']}"), 404, "not_found", "API key not found")


@pytest.mark.parametrize(
    ("body", "status", "name", "words"),
    [
        ({}, 422, "missing_required_field", "Missing `name` field."),
        ({"name": "x" * 51}, 422, "validation_error", "`name`"),
        ({"name": "x", "permission": "root"}, 422, "validation_error", "`permission`"),
        ({"name": "x", "domain_id": "01a1fd52-e203-783a-b994-4cff047eb75a"}, 422, "validation_error", "`domain_id`"),
        ({"name": "x", "permission": "sending_access", "domain_id": "x"}, 422, "invalid_parameter", "`domain_id`"),
        (
            {"name": "x", "permission": "sending_access", "domain_id": "01a1fd52-e203-783a-b994-4cff047eb75a"},
            *(404, "not_found", "Domain not found"),
        ),
    ],
)
async def test_bad_keys(api: httpx.AsyncClient, body: dict[str, object], status: int, name: str, words: str) -> None:
    assert_error(await api.post("/api-keys", json=body), status, name, words)


async def test_use_of_a_key_is_noted(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    await api.get("/emails")
    await api._transport.app.ctx.keys.write_use()  # type: ignore[attr-defined]
    assert await admin.fetchval("SELECT last_used_at IS NOT NULL FROM api_keys")


@pytest.mark.parametrize("char", ["\r", "\n", "\x0b", "\x1f", "\x7f", "\x85", "\u2028"])
async def test_no_control_characters_in_names_and_endpoints(api: httpx.AsyncClient, char: str) -> None:
    assert_error(await api.post("/api-keys", json={"name": f"a{char}b"}), 422, "validation_error", "name")
    asked = {"endpoint": f"https://example.com/{char}", "events": ["email.sent"]}
    assert_error(await api.post("/webhooks", json=asked), 422, "validation_error", "endpoint")
