"""GET /emails/metrics: what is counted, and that an event counts once whoever adds it up, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from mailcore.flow.count import count
from mailcore.kit.ids import uuid7
from mailcore.store import counts, events
from mailcore.store.events import NewEvent
from mailcore.store.session import Store

from .harness import MakeClient, MakeKey, assert_error, email

Raise = Callable[..., Awaitable[None]]


@pytest.fixture
def raise_(store: Store, org: UUID) -> Raise:
    async def raise_(*new: tuple[str, UUID | str], at: datetime | None = None, **detail: Any) -> None:
        """`(type, email id)` each, as settle and tracking do."""
        at = at or datetime.now(UTC)
        async with store.worker() as db:
            await events.insert(
                db,
                [
                    NewEvent(uuid7(), org, f"email.{type_}", UUID(str(id_)), at, ["a@x.example"], detail or None)
                    for type_, id_ in new
                ],
            )

    return raise_


async def _send(api: httpx.AsyncClient, **changed: Any) -> str:
    return str((await api.post("/emails", json=email(**changed))).json()["id"])


async def _totals(api: httpx.AsyncClient, **query: Any) -> dict[str, float]:
    answer = await api.get("/emails/metrics", params=query)
    assert answer.status_code == 200, answer.text
    return {name: n for name, n in answer.json()["totals"].items() if n}


@pytest.mark.parametrize("added_up", [False, True])
async def test_what_is_counted(
    api: httpx.AsyncClient, store: Store, raise_: Raise, domain: UUID, org: UUID, added_up: bool
) -> None:
    id_ = await _send(api, to=["a@x.example", "b@x.example"], cc="c@x.example")
    other = await _send(api)
    await raise_(("delivered", id_), ("delivered", id_), ("delivery_delayed", id_), ("complained", id_))
    await raise_(("bounced", id_), bounce={"type": "Permanent"})
    await raise_(("bounced", other), bounce={"type": "Transient"})
    await raise_(("opened", id_), open={"ipAddress": "192.0.2.1"}, first=True)
    await raise_(("opened", id_), open={"ipAddress": "192.0.2.1"})
    await raise_(("opened", id_), open={"ipAddress": "192.0.2.1", "proxy": "gmail"})
    await raise_(("opened", id_), ("clicked", id_), open={"scanner": True}, click={"scanner": True})
    await raise_(("clicked", id_), click={"link": "https://x.example"}, first=True)
    async with store.worker() as db:
        arrived = NewEvent(uuid7(), org, "email.received", uuid7(), datetime.now(UTC), ["t@Postroom.test"])
        await events.insert(db, [arrived])
    if added_up:
        assert await count(store) > 0
    wanted = {
        **{"sent": 4, "delivered": 2, "delivery_delayed": 1, "complained": 1, "received": 1, "bounced": 2},
        **{"bounced_permanent": 1, "bounced_transient": 1, "opened": 3, "unique_opened": 1, "clicked": 1},
        **{"unique_clicked": 1, "delivery_rate": 50, "open_rate": 50, "click_rate": 50, "bounce_rate": 50},
        **{"complaint_rate": 50},
    }
    assert await _totals(api) == wanted
    assert await _totals(api, domain_id=str(domain)) == wanted
    assert await _totals(api, domain_id=str(uuid4())) == {}
    assert await _totals(api, email_id=other) == {"sent": 1, "bounced": 1, "bounced_transient": 1, "bounce_rate": 100}
    assert await _totals(api, metrics="sent,bounced", email_id=[id_, other]) == {"sent": 4, "bounced": 2}


async def test_an_event_counts_once_however_it_is_added_up(api: httpx.AsyncClient, store: Store, raise_: Raise) -> None:
    id_ = await _send(api)
    for n in range(1, 4):
        await raise_(("delivered", id_))
        assert (await _totals(api))["delivered"] == n
        await asyncio.gather(*(count(store) for _ in range(4)))
        assert (await _totals(api))["delivered"] == n
    assert await count(store) <= 1
    assert (await _totals(api))["delivered"] == 3


async def test_a_late_commit_is_counted(
    api: httpx.AsyncClient, store: Store, raise_: Raise, admin: asyncpg.Connection, org: UUID
) -> None:
    """A transaction that began first and commits last, its events older than those that were added up meanwhile."""
    id_ = UUID(await _send(api))
    late = admin.transaction()
    await late.start()
    await events.insert(
        admin, [NewEvent(uuid7(), org, "email.delivered", id_, datetime.now(UTC) - timedelta(hours=3), ["x@y.example"])]
    )
    await raise_(("delivered", id_), ("delivered", id_))
    await count(store)
    assert (await _totals(api))["delivered"] == 2
    await late.commit()
    assert (await _totals(api))["delivered"] == 3
    await count(store)
    assert (await _totals(api))["delivered"] == 3
    assert await admin.fetchval("SELECT sum(n) FROM event_counts WHERE kind = 'delivered'") == 3


async def test_a_step_that_fails_adds_nothing(api: httpx.AsyncClient, store: Store, raise_: Raise) -> None:
    id_ = await _send(api)
    await raise_(("delivered", id_))
    with pytest.raises(RuntimeError, match="before the commit"):
        async with store.worker() as db:
            mark = await counts.begin(db)
            assert mark is not None
            assert await counts.add_up(db, mark, await counts.ended(db)) > mark
            raise RuntimeError("before the commit")
    assert (await _totals(api))["delivered"] == 1
    await count(store)
    assert (await _totals(api))["delivered"] == 1


async def test_many_events_are_added_up_in_steps(
    api: httpx.AsyncClient, store: Store, raise_: Raise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "STEP", 3)
    id_ = await _send(api)
    for size in (1, 2, 10, 1, 1, 1):  # one transaction is more than a step
        await raise_(*[("delivered", id_)] * size)
    assert await count(store) >= 3
    assert (await _totals(api))["delivered"] == 16


async def test_a_database_restored_into_another_server_is_counted_anew(
    api: httpx.AsyncClient, store: Store, raise_: Raise, admin: asyncpg.Connection
) -> None:
    id_ = await _send(api)
    await raise_(("delivered", id_))
    await count(store)
    await admin.execute("UPDATE events SET xid = xid + 1000000; UPDATE event_counts_mark SET xid = xid + 1000000")
    await raise_(("delivered", id_))
    await count(store)
    assert (await _totals(api))["delivered"] == 2
    assert await admin.fetchval("SELECT sum(n) FROM event_counts WHERE kind = 'delivered'") == 2


async def test_periods_in_a_time_zone(
    api: httpx.AsyncClient, store: Store, raise_: Raise, admin: asyncpg.Connection
) -> None:
    """18:20 UTC is before midnight in Kolkata (+5:30), 18:40 after it; the parts of the clock are no whole hours."""
    id_ = await _send(api)
    await admin.execute("UPDATE events SET created_at = '2020-01-01' WHERE type = 'email.sent'")
    day = (datetime.now(UTC) - timedelta(days=3)).replace(hour=18, minute=20, second=0, microsecond=0)
    await raise_(("delivered", id_), at=day)
    await raise_(("delivered", id_), ("delivered", id_), at=day + timedelta(minutes=20))
    await count(store)
    query = {
        "metrics": "delivered",
        "dimensions": "period",
        "timezone": "asia/kolkata",
        "start_date": f"{day:%Y-%m-%d}",
    }
    answer = (await api.get("/emails/metrics", params=query)).json()
    found = {row["period"]: row["delivered"] for row in answer["data"]}
    assert found[f"{day:%Y-%m-%d}T00:00:00+05:30"] == 1
    assert found[f"{day + timedelta(days=1):%Y-%m-%d}T00:00:00+05:30"] == 2
    assert len(answer["data"]) in (4, 5)  # every day to now, also those without events
    hourly = (await api.get("/emails/metrics", params=query | {"granularity": "hourly"})).json()["data"]
    assert {row["period"][11:]: row["delivered"] for row in hourly if row["delivered"]} == {
        "23:00:00+05:30": 1,
        "00:00:00+05:30": 2,
    }
    cut = query | {"start_date": (day + timedelta(minutes=15)).isoformat(), "timezone": "UTC", "dimensions": ""}
    assert (await api.get("/emails/metrics", params=cut)).json()["totals"] == {"delivered": 2}


async def test_dimensions(api: httpx.AsyncClient, store: Store, raise_: Raise, domain: UUID) -> None:
    ids = sorted([await _send(api), await _send(api)])
    await raise_(("delivered", ids[1]))
    await count(store)
    by_email = (
        await api.get("/emails/metrics", params={"dimensions": "email", "metrics": ["sent", "delivered"]})
    ).json()
    assert by_email["data"] == [
        {"email_id": ids[0], "sent": 1, "delivered": 0},
        {"email_id": ids[1], "sent": 1, "delivered": 1},
    ]
    both = (await api.get("/emails/metrics", params={"dimensions": "period,domain", "metrics": "sent"})).json()
    assert (both["dimensions"], both["granularity"]) == (["period", "domain"], "daily")
    assert sum(row["sent"] for row in both["data"]) == 2
    assert {(row["domain_id"], row["domain_name"]) for row in both["data"]} == {(str(domain), "postroom.test")}
    none = (await api.get("/emails/metrics", params={"dimensions": "broadcast"})).json()
    assert none["data"] == []
    assert "data" not in (await api.get("/emails/metrics")).json()


async def test_scheduled_mail_is_sent_when_it_leaves(api: httpx.AsyncClient) -> None:
    await _send(api, scheduled_at="in 2 hours")
    assert await _totals(api) == {}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"metrics": "sent,lost"}, "metrics"),
        ({"dimensions": "size"}, "dimensions"),
        ({"dimensions": "email,broadcast"}, "combined"),
        ({"dimensions": "email", "broadcast_id": str(uuid4())}, "combined"),
        ({"granularity": "yearly"}, "granularity"),
        ({"timezone": "Mars/Base"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"start_date": "yesterday"}, "start_date"),
        ({"start_date": "2999-01-01"}, "start_date"),
        ({"start_date": "2020-01-02", "end_date": "2020-01-01"}, "start_date"),
        ({"start_date": "0001-01-01", "timezone": "Asia/Tokyo"}, "start_date"),
        ({"end_date": "0001-01-01"}, "end_date"),
        ({"start_date": "2020-01-01", "granularity": "hourly"}, "10,000"),
        ({"email_id": ",".join(str(uuid4()) for _ in range(101))}, "100"),
    ],
)
async def test_bad_queries(api: httpx.AsyncClient, query: dict[str, str], words: str) -> None:
    assert_error(await api.get("/emails/metrics", params=query), 422, "validation_error", words)


async def test_bad_ids(api: httpx.AsyncClient) -> None:
    assert_error(await api.get("/emails/metrics", params={"email_id": "x"}), 422, "invalid_parameter", "email_id")


async def test_an_organization_counts_its_own(
    api: httpx.AsyncClient,
    store: Store,
    org: UUID,
    make_org: Callable[[], Awaitable[UUID]],
    make_key: MakeKey,
    make_client: MakeClient,
) -> None:
    id_ = await _send(api)
    stranger = await make_client(await make_key(await make_org()))
    assert await _totals(stranger) == {}
    assert await _totals(stranger, email_id=id_) == {}
    await count(store)
    assert await _totals(stranger) == {}
    assert await _totals(api) == {"sent": 1}
    sender = await make_client(await make_key(org, permission="sending_access"))
    assert_error(await sender.get("/emails/metrics"), 401, "restricted_api_key")


@pytest.mark.parametrize(("period", "rows"), [("24h", 24), ("7d", 7), ("30d", 30)])
async def test_mailits_form(api: httpx.AsyncClient, raise_: Raise, period: str, rows: int) -> None:
    await raise_(("delivered", await _send(api)))
    answer = (await api.get("/metrics", params={"period": period})).json()
    assert set(answer) == {"period", "from", "to", "totals", "data"}
    assert (answer["totals"]["sent"], answer["totals"]["delivery_rate"], len(answer["data"])) == (1, 100, rows)
    assert answer["data"][-1]["delivered"] + answer["data"][-2]["delivered"] == 1
    assert_error(await api.get("/metrics", params={"period": "1y"}), 422, "validation_error", "period")
