from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg
import httpx
import pytest

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


async def test_a_batch_in_an_object(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    """MailIt's form."""
    answer = await api.post("/emails/batch", json={"emails": [email(subject="a"), email(subject="b")]})
    assert (answer.status_code, len(answer.json()["data"])) == (200, 2)
    for wrong in ({"emails": []}, {"emails": "x"}, {"emails": [email()] * 101}):
        assert_error(await api.post("/emails/batch", json=wrong), 422, "validation_error")


@pytest.mark.parametrize("mode", ["strict", "permissive"])
async def test_a_batch_under_a_key_is_sent_once(api: httpx.AsyncClient, admin: asyncpg.Connection, mode: str) -> None:
    headers = {"idempotency-key": "batch-1", "x-batch-validation": mode}
    batch = [email(subject="a"), email(subject="b", scheduled_at="in 2 hours")]
    if mode == "permissive":
        batch += [email(to="x"), email(**{"from": "a@elsewhere.test"})]
    answers = await asyncio.gather(*(api.post("/emails/batch", json=batch, headers=headers) for _ in range(20)))
    done = {answer.content for answer in answers if answer.status_code == 200}
    assert len(done) == 1
    assert {answer.status_code for answer in answers} <= {200, 409}
    again = await api.post("/emails/batch", json=batch, headers=headers)
    assert (again.status_code, again.content) == (200, done.pop())
    assert [error["index"] for error in again.json().get("errors", [])] == ([2, 3] if mode == "permissive" else [])
    assert await admin.fetchval("SELECT count(*) FROM emails") == 2
    other = await api.post("/emails/batch", json=batch[::-1], headers=headers)
    assert_error(other, 409, "invalid_idempotent_request")
    other_mode = {"strict": "permissive", "permissive": "strict"}[mode]
    other = await api.post("/emails/batch", json=batch[:2], headers={**headers, "x-batch-validation": other_mode})
    assert_error(other, 409, "invalid_idempotent_request")


async def test_a_strict_batch_that_fails_uses_no_key_up(api: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "batch-2"}
    bad = [email(), email(**{"from": "a@elsewhere.test"})]
    assert_error(await api.post("/emails/batch", json=bad, headers=headers), 403, "validation_error")
    assert (await api.post("/emails/batch", json=[email()], headers=headers)).status_code == 200


async def test_for_who_may_not_send_nothing_is_fetched(make_client: MakeClient, token: str) -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    api = await make_client(token, network={"allow": {"attachments": ["127.0.0.0/8"]}})
    file = {"attachments": [{"path": f"http://127.0.0.1:{port}/f"}]}
    try:
        for body in (
            [email(**{"from": "a@elsewhere.test"}, **file)],
            [email(**file), email(**{"from": "a@elsewhere.test"}, **file)],
        ):
            assert_error(await api.post("/emails/batch", json=body), 403, "validation_error", "not verified")
        assert asked == []
        assert_error(await api.post("/emails/batch", json=[email(**file)]), 422, "invalid_attachment")
        assert len(asked) == 1
    finally:
        server.close()
