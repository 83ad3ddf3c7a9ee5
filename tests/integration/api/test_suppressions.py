"""The six routes of /suppressions: each way to name an address, foreign ones, bad ones, what events they raise."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from .harness import MakeClient, MakeKey, assert_error, email


async def _add(api: httpx.AsyncClient, address: str) -> str:
    answer = await api.post("/suppressions", json={"email": address})
    assert answer.status_code == 201, answer.text
    assert set(answer.json()) == {"object", "id"}
    return str(answer.json()["id"])


async def test_one_address_by_every_name(api: httpx.AsyncClient) -> None:
    id_ = await _add(api, "Steve+News@EXAMPLE.com")
    assert await _add(api, "steve+news@example.com") == id_
    for name in (id_, "steve+news@example.com", "STEVE%2BNews%40example.com", "Steve+News@Example.COM"):
        answer = await api.get(f"/suppressions/{name}")
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["object"], found["id"], found["email"]) == ("suppression", id_, "steve+news@example.com")
        assert (found["origin"], found["source_id"]) == ("manual", None)
    gone = await api.delete("/suppressions/steve%2Bnews@example.com")
    assert gone.json() == {"object": "suppression", "id": id_, "deleted": True}
    for name in (id_, "steve+news@example.com"):
        assert_error(await api.get(f"/suppressions/{name}"), 404, "not_found", "Suppression not found")
        assert_error(await api.delete(f"/suppressions/{name}"), 404, "not_found")


async def test_an_address_may_hold_a_slash_and_another_alphabet(api: httpx.AsyncClient) -> None:
    for address, kept in (("a/b@example.com", "a/b@example.com"), ("jö@bücher.example", "jö@xn--bcher-kva.example")):
        id_ = await _add(api, address)
        for path in (f"/suppressions/{address}", f"/suppressions/{address.replace('/', '%2F')}"):
            assert (await api.get(path)).json()["id"] == id_
        assert (await api.get(f"/suppressions/{id_}")).json()["email"] == kept


async def test_the_list_by_pages_and_by_origin(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    ids = [await _add(api, f"u{n}@example.com") for n in range(5)]
    await admin.execute("UPDATE suppressions SET origin = 'bounce' WHERE email = 'u1@example.com'")
    first = (await api.get("/suppressions", params={"limit": 2})).json()
    assert (first["object"], first["has_more"]) == ("list", True)
    assert [row["id"] for row in first["data"]] == [ids[4], ids[3]]
    assert set(first["data"][0]) == {"id", "email", "origin", "source_id", "created_at"}
    rest = (await api.get("/suppressions", params={"after": ids[3]})).json()
    assert ([row["id"] for row in rest["data"]], rest["has_more"]) == (ids[2::-1], False)
    bounced = (await api.get("/suppressions", params={"origin": "bounce"})).json()
    assert [row["id"] for row in bounced["data"]] == [ids[1]]
    assert_error(await api.get("/suppressions", params={"origin": "spam"}), 422, "invalid_parameter", "bounce")


async def test_batches(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    there = await _add(api, "b@example.com")
    added = await api.post(
        "/suppressions/batch/add", json={"emails": ["a@example.com", "B@example.com", "A@example.com"]}
    )
    assert added.status_code == 201
    ids = [row["id"] for row in added.json()["data"]]
    assert (ids[1], ids[0] == ids[2], {row["object"] for row in added.json()["data"]}) == (there, True, {"suppression"})
    gone = await api.post("/suppressions/batch/remove", json={"emails": ["A@example.com", "unknown@example.com"]})
    assert (gone.status_code, gone.json()) == (
        200,
        {"data": [{"object": "suppression", "id": ids[0], "deleted": True}]},
    )
    gone = await api.post("/suppressions/batch/remove", json={"ids": [there, str(uuid4())]})
    assert [row["id"] for row in gone.json()["data"]] == [there]
    assert await admin.fetchval("SELECT count(*) FROM suppressions") == 0


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("", {}, "Missing `email`"),
        ("", {"email": "nobody"}, "Invalid `email`"),
        ("", {"email": "a@b.example\r\nBcc: x@y.example"}, "Invalid `email`"),
        ("", {"email": "\ud800@b.example"}, ""),
        ("", {"email": "a\0@b.example"}, "NUL"),
        ("", {"email": ["a@b.example"]}, "`email`"),
        ("", [], "object"),
        ("/batch/add", {"emails": []}, "`emails`"),
        ("/batch/add", {"emails": ["a@b.example"] * 101}, "`emails`"),
        ("/batch/add", {"emails": ["a@b.example", "x"]}, "`emails.1`"),
        ("/batch/remove", {}, "either"),
        ("/batch/remove", {"emails": ["a@b.example"], "ids": [str(uuid4())]}, "either"),
        ("/batch/remove", {"ids": ["x"]}, "UUID"),
    ],
)
async def test_bad_bodies(api: httpx.AsyncClient, path: str, body: Any, words: str) -> None:
    import json

    answer = await api.post(
        f"/suppressions{path}", content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    assert answer.status_code in (400, 422), answer.text
    assert words in answer.json()["message"]


async def test_nobody_elses(
    api: httpx.AsyncClient, make_org: Any, make_key: MakeKey, make_client: MakeClient, org: UUID
) -> None:
    id_ = await _add(api, "a@example.com")
    stranger = await make_client(await make_key(await make_org()))
    for name in (id_, "a@example.com"):
        for method in ("GET", "DELETE"):
            answer = await stranger.request(method, f"/suppressions/{name}")
            assert_error(answer, 404, "not_found", "Suppression not found")
    removed = await stranger.post("/suppressions/batch/remove", json={"ids": [id_]})
    assert removed.json() == {"data": []}
    assert (await stranger.get("/suppressions")).json()["data"] == []
    assert (await api.get(f"/suppressions/{id_}")).status_code == 200
    assert_error(await api.get("/suppressions/nonsense"), 422, "invalid_parameter", "UUID")
    restricted = await make_client(await make_key(org, permission="sending_access"))
    for method, path in (("GET", ""), ("POST", ""), ("GET", f"/{id_}"), ("DELETE", f"/{id_}"), ("POST", "/batch/add")):
        assert_error(await restricted.request(method, f"/suppressions{path}"), 401, "restricted_api_key")


async def test_events_carry_the_whole_entry(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    id_ = await _add(api, "a@example.com")
    await _add(api, "a@example.com")
    await api.delete(f"/suppressions/{id_}")
    rows = await admin.fetch("SELECT type, object_id, detail FROM events ORDER BY created_at")
    assert [(row["type"], str(row["object_id"])) for row in rows] == [
        ("suppression.added", id_),
        ("suppression.removed", id_),
    ]
    for row in rows:
        assert set(row["detail"]) == {"id", "email", "origin", "source_id", "created_at"}
        assert row["detail"]["created_at"].endswith("Z")


async def test_a_suppressed_recipient_is_no_error(api: httpx.AsyncClient) -> None:
    await _add(api, "you@example.com")
    sent = await api.post("/emails", json=email())
    assert sent.status_code == 200
    got = (await api.get(f"/emails/{sent.json()['id']}")).json()
    assert got["last_event"] == "suppressed"
    (delivery,) = (await api.get(f"/v1/emails/{sent.json()['id']}/deliveries")).json()["data"]
    assert (delivery["state"], delivery["attempts"]) == ("suppressed", [])
