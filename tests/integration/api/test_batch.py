from __future__ import annotations

from uuid import UUID

import asyncpg
import httpx

from .harness import MakeClient, MakeKey, assert_error, email


async def test_strict_is_all_or_nothing(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    answer = await api.post("/emails/batch", json=[email(subject=f"{n}") for n in range(100)])
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"data"}
    ids = [UUID(each["id"]) for each in body["data"]]
    subjects = {row["id"]: row["subject"] for row in await admin.fetch("SELECT id, subject FROM emails")}
    assert [subjects[id_] for id_ in ids] == [str(n) for n in range(100)]
    for bad, status, name in (
        (email(to=...), 422, "missing_required_field"),
        (email(to="x"), 422, "validation_error"),
        (email(**{"from": "a@elsewhere.test"}), 403, "validation_error"),
        ("text", 422, "validation_error"),
    ):
        assert_error(await api.post("/emails/batch", json=[email(), bad]), status, name)
    assert await admin.fetchval("SELECT count(*) FROM emails") == 100


async def test_permissive_sends_what_is_good(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    answer = await api.post(
        "/emails/batch",
        json=[
            email(subject="a"),
            email(to=...),
            5,
            email(**{"from": "a@elsewhere.test"}),
            email(subject="b"),
            email(attachments=[{"path": "http://127.0.0.1/"}]),
        ],
        headers={"x-batch-validation": "permissive"},
    )
    body = answer.json()
    assert answer.status_code == 200
    assert [each["index"] for each in body["errors"]] == [1, 2, 3, 5]
    assert body["errors"][0]["message"] == "Missing `to` field."
    assert "`elsewhere.test` domain is not verified" in body["errors"][2]["message"]
    rows = {row["id"]: row["subject"] for row in await admin.fetch("SELECT id, subject FROM emails")}
    assert [rows[UUID(each["id"])] for each in body["data"]] == ["a", "b"]
    good = await api.post("/emails/batch", json=[email()], headers={"x-batch-validation": "permissive"})
    assert good.json()["errors"] == []
    none = await api.post("/emails/batch", json=[email(to="x")], headers={"x-batch-validation": "permissive"})
    assert (none.status_code, none.json()["data"], len(none.json()["errors"])) == (200, [], 1)


async def test_bad_batches(api: httpx.AsyncClient) -> None:
    for body in ({}, [], [email()] * 101, "x", None):
        assert_error(await api.post("/emails/batch", json=body), 422, "validation_error")
    answer = await api.post("/emails/batch", json=[email()], headers={"x-batch-validation": "lax"})
    assert_error(answer, 422, "validation_error", "strict")


async def test_a_key_for_one_domain(
    org: UUID, domain: UUID, make_domain: object, make_key: MakeKey, make_client: MakeClient
) -> None:
    await make_domain(org, "second.test")  # type: ignore[operator]
    client = await make_client(await make_key(org, permission="sending_access", domain_id=domain))
    assert (await client.post("/emails", json=email())).status_code == 200
    other = email(**{"from": "a@second.test"})
    assert_error(await client.post("/emails", json=other), 403, "validation_error", "may not send from")
    assert_error(await client.post("/emails/batch", json=[email(), other]), 403, "validation_error")
