"""GET /emails with filters, and MailIt's pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import httpx
import pytest

from mailcore.kit.ids import uuid7
from mailcore.store import sent

from .harness import MakeClient, MakeKey, assert_error, email


@pytest.fixture
async def ids(api: httpx.AsyncClient) -> list[str]:
    """Oldest first."""
    emails = [
        email(to="Ann@One.example", subject="Invoice 1", tags=[{"name": "kind", "value": "invoice"}]),
        email(to=["bob@two.example"], cc="ann@one.example", subject="Hello", **{"from": "Sales <sales@postroom.test>"}),
        email(to="carl@three.example", subject="100% off_er", tags=[{"name": "kind", "value": "ad"}]),
        email(to="ann@one.example", subject="Later", scheduled_at="in 2 hours"),
    ]
    return [(await api.post("/emails", json=one)).json()["id"] for one in emails]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"to": "ann@one.example"}, [3, 1, 0]),
        ({"to": "ANN@ONE.EXAMPLE"}, [3, 1, 0]),
        ({"to": "Ann <ann@one.example>", "limit": "2"}, [3, 1]),
        ({"to": "nobody@one.example"}, []),
        ({"from": "sales@"}, [1]),
        ({"from": "ACME"}, [3, 2, 0]),
        ({"subject": "invoice"}, [0]),
        ({"subject": "0% off_"}, [2]),
        ({"subject": "%"}, [2]),
        ({"tag": "kind"}, [2, 0]),
        ({"tag": "kind:invoice"}, [0]),
        ({"tag": "kin"}, []),
        ({"status": "scheduled"}, [3]),
        ({"status": "sent", "to": "ann@one.example"}, [1, 0]),
        ({"start_date": "2020-01-01", "end_date": "2020-01-31"}, []),
        ({"start_date": "2020-01-01"}, [3, 2, 1, 0]),
        ({"to": ""}, [3, 2, 1, 0]),
    ],
)
async def test_filters(api: httpx.AsyncClient, ids: list[str], query: dict[str, str], wanted: list[int]) -> None:
    answer = await api.get("/emails", params=query)
    assert answer.status_code == 200, answer.text
    assert [one["id"] for one in answer.json()["data"]] == [ids[n] for n in wanted]


async def test_a_filtered_list_has_pages(api: httpx.AsyncClient, ids: list[str]) -> None:
    first = (await api.get("/emails", params={"to": "ann@one.example", "limit": 1})).json()
    assert ([one["id"] for one in first["data"]], first["has_more"]) == ([ids[3]], True)
    rest = (await api.get("/emails", params={"to": "ann@one.example", "after": ids[3]})).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([ids[1], ids[0]], False)
    newer = (await api.get("/emails", params={"to": "ann@one.example", "before": ids[0], "limit": 1})).json()
    assert ([one["id"] for one in newer["data"]], newer["has_more"]) == ([ids[1]], True)


async def test_an_end_date_is_its_whole_day(api: httpx.AsyncClient, ids: list[str]) -> None:
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    # a test that begins before midnight is allowed to end after it
    days = {today, f"{datetime.now(UTC) - timedelta(minutes=1):%Y-%m-%d}"}
    found = (await api.get("/emails", params={"start_date": min(days), "end_date": max(days)})).json()["data"]
    assert len(found) == 4
    begun = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert (await api.get("/emails", params={"start_date": begun})).json()["data"] == []


@pytest.mark.parametrize(
    "query",
    [
        {"to": "ann"},
        {"to": "x" * 600},
        {"subject": "x" * 501},
        {"status": "lost"},
        {"start_date": "yesterday"},
        {"end_date": "2026-13-01"},
        {"start_date": "0001-01-01T00:00:00+14:00"},
        {"start_date": "2026-08-05", "end_date": "2026-08-01"},
        {"page": "0"},
        {"page": "x"},
        {"per_page": "101"},
    ],
)
async def test_bad_filters(api: httpx.AsyncClient, query: dict[str, str]) -> None:
    assert_error(await api.get("/emails", params=query), 422, "validation_error", next(iter(query)).split("_")[0])


async def test_pages_end_somewhere(api: httpx.AsyncClient) -> None:
    answer = await api.get("/emails", params={"page": "99999", "per_page": "100"})
    assert_error(answer, 422, "validation_error", "`after`")


async def test_mailits_pages(api: httpx.AsyncClient, ids: list[str]) -> None:
    first = (await api.get("/emails", params={"page": 1, "per_page": 3})).json()
    assert set(first) == {"data", "total", "page", "per_page", "total_pages", "has_more"}
    assert [one["id"] for one in first["data"]] == [ids[3], ids[2], ids[1]]
    assert [first[name] for name in ("total", "page", "per_page", "total_pages", "has_more")] == [4, 1, 3, 2, True]
    second = (await api.get("/emails", params={"page": 2, "per_page": 3})).json()
    assert ([one["id"] for one in second["data"]], second["has_more"]) == ([ids[0]], False)
    assert (await api.get("/emails", params={"page": 9})).json()["data"] == []
    some = (await api.get("/emails", params={"page": 1, "to": "ann@one.example"})).json()
    assert (some["total"], some["per_page"], some["total_pages"]) == (3, 20, 1)


async def test_a_search_keeps_within_its_organization(
    ids: list[str], make_org: Callable[[], Awaitable[UUID]], make_key: MakeKey, make_client: MakeClient
) -> None:
    stranger = await make_client(await make_key(await make_org()))
    for query in ({"to": "ann@one.example"}, {"subject": "Invoice"}, {"page": "1"}):
        assert (await stranger.get("/emails", params=query)).json()["data"] == []


async def test_what_would_take_too_long_is_refused(
    api: httpx.AsyncClient, admin: asyncpg.Connection, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real limit, met by a search that waits for a lock."""
    monkeypatch.setattr(sent, "SEARCH_SECONDS", 0.2)
    async with admin.transaction():
        await admin.execute("LOCK emails IN ACCESS EXCLUSIVE MODE")
        answer = await api.get("/emails", params={"subject": "x"})
    assert_error(answer, 422, "validation_error", "start_date")


async def test_more_emails_to_one_address_than_are_looked_at(
    api: httpx.AsyncClient, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent, "MAX_TO", 2)
    found = await api.get("/emails", params={"to": "ann@one.example", "limit": 1})
    assert [one["id"] for one in found.json()["data"]] == [ids[3]]
    unsure = await api.get("/emails", params={"to": "ann@one.example", "subject": "Invoice"})
    assert_error(unsure, 422, "validation_error", "Narrow")


async def test_the_index_of_recipients_is_used(admin: asyncpg.Connection, org: UUID) -> None:
    """Of the statement as the function runs it: by its role, under row-level security, on many rows."""
    await admin.execute(
        "INSERT INTO deliveries (email_id, n, org_id, recipient, last_event_at) "
        "SELECT overlay($1::uuid::text placing lpad(to_hex(i), 12, '0') from 25)::uuid, 0, "
        "CASE WHEN i % 2 = 0 THEN $2::uuid ELSE gen_random_uuid() END, 'user' || i % 5000 || '@example.com', now() "
        "FROM generate_series(1, 30000) i",
        uuid7(),
        org,
    )
    await admin.execute("ANALYZE deliveries")
    source: str = await admin.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'lookup_emails_to'")
    async with admin.transaction():
        await admin.execute(f"SET LOCAL ROLE postroom_lookup; SET LOCAL app.org_id = '{org}'")
        await admin.execute(f"PREPARE search(text, uuid, uuid, boolean, integer) AS {source}")
        high = UUID(int=2**128 - 1)
        lines = await admin.fetch(
            f"EXPLAIN (ANALYZE) EXECUTE search('User8@example.com', '{UUID(int=0)}', '{high}', false, 10000)"
        )
    plan = "\n".join(line[0] for line in lines)
    full = await admin.fetchval("SELECT tableoid::regclass::text FROM deliveries LIMIT 1")
    assert f"using {full}_hashtext_email_id_idx" in plan, plan
    assert f"Seq Scan on {full}" not in plan, plan
    assert "Rows Removed by Filter" not in plan, plan
