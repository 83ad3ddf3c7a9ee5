"""API keys: what they open, for which domains, until when (resend.md §1.2, §7; reliability D6)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from mailcore.kit.ids import uuid7

from .harness import MakeClient, MakeKey, assert_error, email

MakeDomain = Callable[[UUID, str], Awaitable[UUID]]


def forget(client: httpx.AsyncClient, key_id: str) -> None:
    """What three seconds do."""
    client._transport.app.ctx.keys.forget(UUID(key_id))  # type: ignore[attr-defined]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def made(api: httpx.AsyncClient, **asked: Any) -> tuple[str, dict[str, str]]:
    answer = await api.post("/api-keys", json={"name": "k", **asked})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"], bearer(answer.json()["token"])


async def test_a_key_for_several_domains(
    api: httpx.AsyncClient, org: UUID, domain: UUID, make_domain: MakeDomain
) -> None:
    second, _third = await make_domain(org, "second.test"), await make_domain(org, "third.test")
    id_, key = await made(api, permission="sending", domain_ids=[str(domain), str(second)])
    for name, status in (("postroom.test", 200), ("second.test", 200), ("third.test", 403)):
        answer = await api.post("/emails", json=email(**{"from": f"a@{name}"}), headers=key)
        assert answer.status_code == status, name
    shown = (await api.get("/api-keys")).json()["data"][0]
    assert (shown["permission"], shown["domain_ids"]) == ("sending_access", [str(domain), str(second)])
    # narrowed, and widened to all
    assert (await api.patch(f"/api-keys/{id_}", json={"domain_ids": [str(second)]})).status_code == 200
    assert_error(await api.post("/emails", json=email(), headers=key), 403, "validation_error")
    assert (await api.patch(f"/api-keys/{id_}", json={"domain_ids": None})).status_code == 200
    assert (await api.post("/emails", json=email(**{"from": "a@third.test"}), headers=key)).status_code == 200


async def test_a_key_whose_domains_are_gone_sends_from_none(
    api: httpx.AsyncClient, org: UUID, domain: UUID, make_domain: MakeDomain
) -> None:
    await make_domain(org, "second.test")
    id_, key = await made(api, permission="sending_access", domain_id=str(domain))
    assert (await api.delete(f"/domains/{domain}")).status_code == 200
    forget(api, id_)
    for name in ("postroom.test", "second.test"):
        answer = await api.post("/emails", json=email(**{"from": f"a@{name}"}), headers=key)
        assert_error(answer, 403, "validation_error")


async def test_states(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    id_, key = await made(api, permission="full")
    assert (await api.get("/emails", headers=key)).status_code == 200
    assert (await api.patch(f"/api-keys/{id_}", json={"status": "inactive"})).json() == {"object": "api_key", "id": id_}
    for method, path in (("GET", "/emails"), ("POST", "/emails")):
        answer = await api.request(method, path, headers=key, content=b"{broken")
        assert_error(answer, 403, "restricted_api_key", "API key is not active")
    await api.patch(f"/api-keys/{id_}", json={"status": "active"})
    assert (await api.get("/emails", headers=key)).status_code == 200
    await admin.execute("UPDATE api_keys SET status = 'suspended' WHERE id = $1", UUID(id_))
    forget(api, id_)
    assert_error(await api.get("/emails", headers=key), 403, "suspended_api_key", "This API key is suspended")
    # which is not the organization's to take back
    answer = await api.patch(f"/api-keys/{id_}", json={"status": "active"})
    assert_error(answer, 403, "suspended_api_key")
    assert (await api.patch(f"/api-keys/{id_}", json={"name": "still has a name"})).status_code == 200


async def test_a_key_ends(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    id_, key = await made(api, expires_at=later.isoformat())
    assert (await api.get("/emails", headers=key)).status_code == 200
    shown = (await api.get("/api-keys")).json()["data"][0]
    assert datetime.fromisoformat(shown["expires_at"]) == later
    await admin.execute("UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE id = $1", UUID(id_))
    forget(api, id_)
    assert_error(await api.get("/emails", headers=key), 403, "restricted_api_key", "API key is not active")
    await api.patch(f"/api-keys/{id_}", json={"expires_at": None})
    assert (await api.get("/emails", headers=key)).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "name", "words"),
    [
        ({}, 422, "missing_required_field", "Missing `name` field."),
        ({"name": None}, 422, "missing_required_field", "Missing `name` field."),
        ({"name": "x" * 51}, 422, "validation_error", "`name`"),
        ({"name": "a\nb"}, 422, "validation_error", "name"),
        ({"status": "suspended"}, 422, "validation_error", "`status`"),
        ({"domain_ids": []}, 422, "validation_error", "`domain_ids`"),
        ({"domain_ids": ["x"]}, 422, "invalid_parameter", "`domain_ids`"),
        ({"domain_ids": ["01a1fd52-e203-783a-b994-4cff047eb75a"] * 101}, 422, "validation_error", "`domain_ids`"),
        ({"domain_ids": ["01a1fd52-e203-783a-b994-4cff047eb75a"]}, 404, "not_found", "Domain not found"),
        ({"expires_at": "tomorrow"}, 422, "validation_error", "`expires_at`"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, 422, "validation_error", "`expires_at`"),
        ({"expires_at": "2999-01-01T00:00:00"}, 422, "validation_error", "`expires_at`"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, 422, "validation_error", "`expires_at`"),
    ],
)
async def test_bad_changes(api: httpx.AsyncClient, body: dict[str, Any], status: int, name: str, words: str) -> None:
    id_, _ = await made(api, permission="sending_access")
    assert_error(await api.patch(f"/api-keys/{id_}", json=body), status, name, words)
    if "status" not in body:
        asked = {"name": "k", "permission": "sending_access", **body}
        if body != {}:
            assert (await api.post("/api-keys", json=asked)).status_code == status


async def test_what_does_not_go_together(api: httpx.AsyncClient, domain: UUID) -> None:
    both = {"name": "k", "permission": "sending_access", "domain_id": str(domain), "domain_ids": [str(domain)]}
    assert_error(await api.post("/api-keys", json=both), 422, "validation_error", "not both")
    full = {"name": "k", "domain_ids": [str(domain)]}
    assert_error(await api.post("/api-keys", json=full), 422, "validation_error", "`domain_ids`")
    id_, _ = await made(api)
    assert_error(await api.patch(f"/api-keys/{id_}", json={"domain_ids": [str(domain)]}), 422, "validation_error")
    assert (await api.post("/api-keys", json={"name": ""})).status_code == 201  # as Resend does


async def test_pages(api: httpx.AsyncClient) -> None:
    ids: list[str] = []
    for n in range(4):
        ids.insert(0, (await made(api, name=str(n)))[0])
        await asyncio.sleep(0.002)  # of what was made within one millisecond nobody knows the order
    everything = (await api.get("/api-keys")).json()
    assert [row["id"] for row in everything["data"]][:4] == ids
    first = (await api.get("/api-keys", params={"limit": 2})).json()
    assert ([row["id"] for row in first["data"]], first["has_more"]) == (ids[:2], True)
    after = (await api.get("/api-keys", params={"limit": 2, "after": ids[1]})).json()
    assert [row["id"] for row in after["data"]] == ids[2:]


async def test_another_organizations_key_and_domain_do_not_exist(
    api: httpx.AsyncClient,
    domain: UUID,
    make_org: Callable[[], Awaitable[UUID]],
    make_key: MakeKey,
    make_client: MakeClient,
) -> None:
    id_, key = await made(api)
    stranger = await make_client(await make_key(await make_org()))
    for method in ("PATCH", "DELETE"):
        theirs = await stranger.request(method, f"/api-keys/{id_}", json={"name": "x"})
        unknown = await stranger.request(method, f"/api-keys/{uuid7()}", json={"name": "x"})
        assert (theirs.status_code, theirs.json()) == (404, unknown.json())
        assert_error(await stranger.request(method, "/api-keys/x", json={"name": "x"}), 422, "invalid_parameter")
    asked = {"name": "x", "permission": "sending_access", "domain_ids": [str(domain)]}
    assert_error(await stranger.post("/api-keys", json=asked), 404, "not_found", "Domain not found")
    assert (await api.get("/emails", headers=key)).status_code == 200
