from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import httpx
import pytest

from .harness import MakeClient, MakeKey, assert_error, email

KEY = {"idempotency-key": "order/1"}


async def test_fifty_at_once_are_one_email(token: str, make_client: MakeClient, admin: asyncpg.Connection) -> None:
    # two applications: neither sees the other's requests in progress but through the database
    clients = [await make_client(token), await make_client(token)]
    answers = await asyncio.gather(*(clients[n % 2].post("/emails", json=email(), headers=KEY) for n in range(50)))
    sent = {answer.json()["id"] for answer in answers if answer.status_code == 200}
    assert len(sent) == 1
    for answer in answers:
        if answer.status_code != 200:
            assert_error(answer, 409, "concurrent_idempotent_requests")
    assert await admin.fetchval("SELECT count(*) FROM emails") == 1
    again = await clients[1].post("/emails", json=email(), headers=KEY)
    assert again.json() == {"id": sent.pop()}
    assert await admin.fetchval("SELECT count(*) FROM emails") == 1


async def test_same_meaning_is_the_same_request(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    first = await api.post("/emails", json=email(to="you@example.com"), headers=KEY)
    body = dict(reversed(email(to=["you@example.com"], unknown=1, cc=None).items()))
    assert (await api.post("/emails", json=body, headers=KEY)).json() == first.json()
    assert await admin.fetchval("SELECT count(*) FROM emails") == 1


@pytest.mark.parametrize(
    "changed", [{"subject": "Other"}, {"html": "<p>Ho</p>"}, {"tags": [{"name": "a", "value": "b"}]}]
)
async def test_another_request_is_refused(api: httpx.AsyncClient, changed: dict[str, object]) -> None:
    await api.post("/emails", json=email(), headers=KEY)
    answer = await api.post("/emails", json=email(**changed), headers=KEY)
    assert_error(answer, 409, "invalid_idempotent_request", "doesn't match the original request")


async def test_keys_are_apart_by_endpoint_and_organization(
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    make_org: Callable[[], Awaitable[UUID]],
    make_domain: Callable[[UUID, str], Awaitable[UUID]],
    make_key: MakeKey,
    make_client: MakeClient,
) -> None:
    first = (await api.post("/emails", json=email(), headers=KEY)).json()
    assert (await api.post("/emails/batch", json=[email()], headers=KEY)).status_code == 200
    other = await make_org()
    await make_domain(other, "other.test")
    stranger = await make_client(await make_key(other))
    answer = await stranger.post("/emails", json=email(**{"from": "a@other.test"}), headers=KEY)
    assert answer.status_code == 200
    assert answer.json() != first
    assert await admin.fetchval("SELECT count(*) FROM emails") == 3


async def test_a_failed_request_does_not_use_up_the_key(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    assert_error(await api.post("/emails", json=email(to="nobody"), headers=KEY), 422, "validation_error")
    foreign = email(**{"from": "a@elsewhere.test"})
    assert_error(await api.post("/emails", json=foreign, headers=KEY), 403, "validation_error")
    assert (await api.post("/emails", json=email(), headers=KEY)).status_code == 200
    assert await admin.fetchval("SELECT count(*) FROM emails") == 1


async def test_after_a_day_a_key_is_new(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    first = (await api.post("/emails", json=email(), headers=KEY)).json()
    await admin.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    second = await api.post("/emails", json=email(subject="Other"), headers=KEY)
    assert second.status_code == 200
    assert second.json() != first
    assert (await api.post("/emails", json=email(subject="Other"), headers=KEY)).json() == second.json()


@pytest.mark.parametrize("key", ["", "x" * 257])
async def test_bad_keys(api: httpx.AsyncClient, key: str) -> None:
    answer = await api.post("/emails", json=email(), headers={"idempotency-key": key})
    assert_error(answer, 400, "invalid_idempotency_key", "between 1 and 256")


async def test_batch_replays_the_whole_answer(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    headers = {**KEY, "x-batch-validation": "permissive"}
    items = [email(), email(to="bad"), email(subject="Two")]
    first = await api.post("/emails/batch", json=items, headers=headers)
    assert (await api.post("/emails/batch", json=items, headers=headers)).json() == first.json()
    assert await admin.fetchval("SELECT count(*) FROM emails") == 2
    other = await api.post("/emails/batch", json=items[:1], headers=headers)
    assert_error(other, 409, "invalid_idempotent_request")
