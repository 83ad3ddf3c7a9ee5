"""Quotas as callers meet them: 429 by name, headers, GET /usage; and idempotency keys under a flood."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from .harness import MakeClient, MakeKey, assert_error, email


async def test_over_quota_is_429_by_name(
    token: str, org: UUID, make_client: MakeClient, admin: asyncpg.Connection
) -> None:
    api = await make_client(token, quota={"daily": 4, "monthly": 5})
    sent = await api.post("/emails", json=email(cc=["b@example.com"], bcc=["c@example.com"]))
    assert sent.status_code == 200
    assert (sent.headers["x-resend-daily-quota"], sent.headers["x-resend-monthly-quota"]) == ("3", "3")
    refused = await api.post("/emails/batch", json=[email(), email()])
    assert_error(refused, 429, "daily_quota_exceeded", "You have exceeded your daily email sending quota.")
    assert 1 <= int(refused.headers["retry-after"]) <= 86_400
    assert (await api.post("/emails", json=email())).status_code == 200
    assert_error(await api.post("/emails", json=email()), 429, "daily_quota_exceeded")
    await admin.execute("UPDATE organizations SET daily_quota = 0 WHERE id = $1", org)
    api = await make_client(token, quota={"daily": 4, "monthly": 5})
    last = await api.post("/emails", json=email())
    assert (last.status_code, "x-resend-daily-quota" in last.headers) == (200, False)
    refused = await api.post("/emails", json=email())
    assert_error(refused, 429, "monthly_quota_exceeded", "You have exceeded your monthly email sending quota.")


async def test_usage(token: str, make_client: MakeClient, org: UUID, admin: asyncpg.Connection) -> None:
    api = await make_client(token, quota={"monthly": 1000})
    await api.post("/emails", json=email(cc=["b@example.com"]))
    usage = (await api.get("/usage")).json()
    assert usage["object"] == "usage"
    daily, monthly = usage["emails"]["daily"], usage["emails"]["monthly"]
    assert (daily["used"], daily["limit"], daily["sent"], daily["received"]) == (2, None, 2, 0)
    assert (monthly["used"], monthly["limit"]) == (2, 1000)
    for each in (daily, monthly):
        assert datetime.fromisoformat(each["resets_at"]).tzinfo is not None
    assert usage["domains"]["used"] == 1
    assert usage["contacts"] == {"used": 0, "limit": None}
    assert usage["rate_limit"] == {"limit": None, "duration": "1000ms"}
    await admin.execute("UPDATE organizations SET rate_limit = 7 WHERE id = $1", org)
    assert (await api.get("/usage")).json()["rate_limit"]["limit"] == 7
    mailit = (await api.get("/settings/usage")).json()
    assert mailit == {
        "emails_sent_today": 2,
        "emails_sent_month": 2,
        "domains": 1,
        "api_keys": 1,
        "webhooks": 0,
        "contacts": 0,
    }


async def test_usage_is_ones_own_and_not_for_sending_keys(
    api: httpx.AsyncClient, make_org: Any, make_key: MakeKey, make_client: MakeClient, org: UUID
) -> None:
    await api.post("/emails", json=email())
    stranger = await make_client(await make_key(await make_org()))
    assert (await stranger.get("/usage")).json()["emails"]["daily"]["used"] == 0
    restricted = await make_client(await make_key(org, permission="sending_access"))
    for path in ("/usage", "/settings/usage"):
        assert_error(await restricted.get(path), 401, "restricted_api_key")


async def test_fifty_posts_of_one_key_at_two_processes_make_one_email(
    token: str, make_client: MakeClient, admin: asyncpg.Connection
) -> None:
    both = [await make_client(token), await make_client(token)]
    key = {"idempotency-key": "one"}
    done = await asyncio.gather(*(both[n % 2].post("/emails", json=email(), headers=key) for n in range(50)))
    ids = {each.json()["id"] for each in done if each.status_code == 200}
    assert len(ids) == 1
    others = [each for each in done if each.status_code != 200]
    for each in others:
        assert_error(each, 409, "concurrent_idempotent_requests")
    assert await admin.fetchval("SELECT count(*) FROM emails") == 1
    assert await admin.fetchval("SELECT sum(sent)::bigint FROM usage_deltas") == 1
    again = await both[0].post("/emails", json=email(), headers=key)
    assert (again.status_code, again.json()["id"]) == (200, ids.pop())


async def test_a_replay_is_answered_over_quota(token: str, make_client: MakeClient) -> None:
    api = await make_client(token, quota={"daily": 1})
    key = {"idempotency-key": "one"}
    first = await api.post("/emails", json=email(), headers=key)
    assert_error(
        await api.post("/emails", json=email(), headers={"idempotency-key": "two"}), 429, "daily_quota_exceeded"
    )
    again = await api.post("/emails", json=email(), headers=key)
    assert (again.status_code, again.content) == (first.status_code, first.content) == (200, first.content)
