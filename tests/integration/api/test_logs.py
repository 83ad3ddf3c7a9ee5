"""GET /logs: every call of an organization leaves a row, without its secrets (resend.md §7, reliability D6)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson
from prometheus_client import REGISTRY

from api.logs.writer import MAX_ROWS, LogWriter
from mailcore.kit.ids import lower_bound, uuid7
from mailcore.store import logs
from mailcore.store.pages import Page
from mailcore.store.session import Store

from .harness import MakeClient, MakeKey, assert_error, email


async def flush(client: httpx.AsyncClient) -> None:
    await client._transport.app.ctx.logs.flush()  # type: ignore[attr-defined]


async def listed(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    await flush(client)
    answer = await client.get("/logs", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]  # type: ignore[no-any-return]


async def newest(client: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    found = (await listed(client, **query))[0]
    return (await client.get(f"/logs/{found['id']}")).json()  # type: ignore[no-any-return]


async def test_the_duration_is_shown_as_it_was_taken(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    """4.2 is kept in four bytes, and was shown as 4.199999809265137."""
    await api.get("/domains")
    await flush(api)
    await admin.execute("UPDATE logs SET duration_ms = 4.2")
    answer = await api.get("/logs")
    assert [row["duration_ms"] for row in answer.json()["data"]] == [4.2]


async def test_a_send_and_its_bodies(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    asked = email(
        cc="c@example.com",
        tags=[{"name": "a", "value": "b"}],
        attachments=[{"filename": "a.txt", "content": "QUFBQQ=="}],
        headers={"X-A": "b"},
    )
    sent = await api.post("/emails", json=asked, headers={"user-agent": "resend-node:6.38.0"})
    log = await newest(api)
    assert (
        log.items()
        >= {
            "object": "log",
            "endpoint": "/emails",
            "method": "POST",
            "response_status": 200,
            "user_agent": "resend-node:6.38.0",
            "response_body": sent.json(),
        }.items()
    )
    assert log["request_body"] == {
        "from": asked["from"],
        "to": ["you@example.com"],
        "cc": ["c@example.com"],
        "subject": "Hello",
        "html": "<p>Hi</p>",
        "tags": asked["tags"],
        "headers": {"X-A": "b"},
        "attachments": [{"filename": "a.txt", "content_type": "text/plain", "content": "(4 bytes)"}],
    }
    assert sent.headers["x-request-id"] == log["id"] == log["request_id"]
    # the mail is stored once
    assert await admin.fetchval("SELECT request_body FROM logs WHERE id = $1", UUID(log["id"])) is None


async def test_a_large_body_and_a_batch(api: httpx.AsyncClient) -> None:
    await api.post("/emails", json=email(html="x" * 70_000))
    assert "70" in (await newest(api))["request_body"]["html"]
    batch = await api.post("/emails/batch", json=[email(subject="one"), email(subject="two")])
    log = await newest(api, endpoint="/emails/batch")
    assert [each["subject"] for each in log["request_body"]] == ["one", "two"]
    assert log["response_body"] == batch.json()
    # what was refused is nowhere else
    headers = {"x-batch-validation": "permissive"}
    await api.post("/emails/batch", json=[email(), email(subject="bad", to="nobody")], headers=headers)
    log = await newest(api, endpoint="/emails/batch")
    assert (log["request_body"][1]["to"], log["response_body"]["errors"][0]["index"]) == ("nobody", 1)


async def test_what_was_refused_is_there_too(api: httpx.AsyncClient, org: UUID, make_key: MakeKey) -> None:
    await api.post("/emails", json=email(to="nobody"))
    log = await newest(api)
    assert (log["response_status"], log["request_body"]["to"]) == (422, "nobody")
    assert log["response_body"]["name"] == "validation_error"
    await api.post("/emails", content=b"{broken")
    log = await newest(api, status="400")  # calls of the same millisecond have no order
    assert (log["response_status"], log["request_body"]) == (400, None)
    restricted = {"authorization": f"Bearer {await make_key(org, permission='sending_access')}"}
    await api.get("/domains", headers=restricted)
    assert (await newest(api, status="401"))["endpoint"] == "/domains"
    await api.get("/nowhere")
    assert (await newest(api, status="404"))["endpoint"] == "/nowhere"


async def test_secrets_are_not_in_the_log(api: httpx.AsyncClient, admin: asyncpg.Connection, token: str) -> None:
    made = (await api.post("/api-keys", json={"name": f"my {token}"})).json()
    hook = (
        await api.post("/webhooks", json={"endpoint": "https://u:geheim@example.com/x", "events": ["email.sent"]})
    ).json()
    secrets = [token, made["token"], "geheim"] + ([hook["signing_secret"]] if "signing_secret" in hook else [])
    account = {"host": "203.0.113.1", "port": 993, "username": "u", "password": "hunter2-hunter2"}
    await api.post("/v1/accounts", json=account | {"nested": {"Authorization": "Basic hunter2-hunter2"}})
    await api.get(f"/emails/{token}", headers={"user-agent": f"curl {token}", "x-request-id": token})
    bad = email(
        to="nobody",
        attachments=[{"filename": "a", "content": "SEVNTElDSA==" * 10}],
        headers={"X-Api-Key": "hunter2-hunter2"},
    )
    await api.post("/emails", json=bad)
    await flush(api)
    rows = await admin.fetch("SELECT * FROM logs")
    assert len(rows) == 5
    for row in rows:
        text = str(dict(row))
        for secret in (*secrets, "hunter2-hunter2", "SEVNTElDSA"):
            assert secret not in text, (secret, text)
    assert (await newest(api, method="POST", endpoint="/api-keys"))["response_body"] == {
        "id": made["id"],
        "token": "***",
    }
    assert (await newest(api, endpoint="/emails", method="POST"))["request_body"]["attachments"][0][
        "content"
    ] == "(90 bytes)"


async def test_search(api: httpx.AsyncClient) -> None:
    await api.get("/domains")
    await api.post("/emails", json=email(to="nobody%_"))
    await api.get("/emails")
    await api.delete(f"/api-keys/{uuid7()}")

    async def paths(**query: Any) -> list[str]:
        """Sorted: calls of the same millisecond have no order."""
        return sorted(f"{row['method']} {row['endpoint'][:9]}" for row in await listed(api, **query))

    assert await paths(endpoint="/emails") == ["GET /emails", "POST /emails"]
    assert await paths(method="post") == ["POST /emails"]
    assert await paths(status="4xx") == ["DELETE /api-keys", "POST /emails"]
    assert await paths(status="404") == ["DELETE /api-keys"]
    assert await paths(status="5xx") == []
    assert await paths(q="NOBODY%_") == ["POST /emails"]
    assert await paths(q="nobodyx_") == []
    day = datetime.now(UTC).date()
    assert await paths(start_date=str(day + timedelta(days=2))) == []
    assert len(await paths(end_date=str(day))) >= 4
    assert await paths(end_date=(datetime.now(UTC) - timedelta(hours=1)).isoformat()) == []
    first = (await api.get("/logs", params={"limit": 2})).json()
    assert (len(first["data"]), first["has_more"]) == (2, True)
    after = await listed(api, after=first["data"][1]["id"], limit=100)
    assert first["data"][1]["id"] not in [row["id"] for row in after]
    mailit = (await api.get("/logs", params={"level": "warn"})).json()["data"]
    assert set(mailit[0]) == {"id", "level", "message", "email_id", "created_at"}
    assert [row["level"] for row in mailit] == ["warn", "warn"]


async def test_bad_filters(api: httpx.AsyncClient) -> None:
    for query in (
        *({"status": "6xx"}, {"status": "4x"}, {"status": ""}, {"level": "fatal"}, {"method": "STEAL"}, {"q": ""}),
        *({"q": "x" * 201}, {"limit": "0"}, {"after": "x"}, {"limit": "101"}),
    ):
        assert_error(await api.get("/logs", params=query), 422, "validation_error")
    for name in ("start_date", "end_date"):
        for value in ("", "yesterday", "2026-13-01", "0001-01-01", "9999-12-31T23:59:59-23:59"):
            assert_error(await api.get("/logs", params={name: value}), 422, "validation_error", f"Invalid `{name}`.")
    assert_error(await api.get("/logs/x"), 422, "invalid_parameter", "The `logId` must be a valid UUID.")
    assert_error(await api.get(f"/logs/{uuid7()}"), 404, "not_found", "Log not found")


async def test_another_organizations_calls_are_not_seen(
    api: httpx.AsyncClient, make_org: Callable[[], Awaitable[UUID]], make_key: MakeKey, make_client: MakeClient
) -> None:
    await api.get("/domains")
    ours = (await listed(api))[0]
    stranger = await make_client(await make_key(await make_org()))
    assert await listed(stranger) == []
    theirs, unknown = await stranger.get(f"/logs/{ours['id']}"), await stranger.get(f"/logs/{uuid7()}")
    assert (theirs.status_code, theirs.json()) == (404, unknown.json())


async def test_old_rows_are_not_shown_and_dropped_with_their_month(
    api: httpx.AsyncClient, store: Store, admin: asyncpg.Connection, org: UUID
) -> None:
    async def add(id_: UUID) -> None:
        async with store.door() as db:
            await logs.insert(db, [(str(id_), org, None, None, "GET", "/x", 200, 1.0, None, None, None, None, None)])

    now = datetime.now(UTC)
    old, fresh = lower_bound(now - timedelta(days=30, minutes=1)), lower_bound(now - timedelta(days=29, hours=23))
    for id_ in (old, fresh):
        await add(id_)
    assert [row["id"] for row in await listed(api, endpoint="/x")] == [str(fresh)]
    assert_error(await api.get(f"/logs/{old}"), 404, "not_found", "Log not found")
    await admin.execute(
        "CREATE TABLE logs_2020_01 PARTITION OF logs FOR VALUES FROM (month_bound('2020-01-01')) TO (month_bound('2020-02-01'))"
    )
    await add(lower_bound(datetime(2020, 1, 5, tzinfo=UTC)))
    async with store.worker() as db:
        assert await logs.drop_old(db, now) == 1
    async with store.worker() as db:
        assert await logs.drop_old(db, now) == 0
    assert await admin.fetchval("SELECT to_regclass('logs_2020_01')") is None
    assert await admin.fetchval("SELECT count(*) FROM logs WHERE endpoint = '/x'") == 2


async def test_a_page_of_a_large_organization_reads_a_page(store: Store, admin: asyncpg.Connection, org: UUID) -> None:
    """Among many small ones, which the planner takes for the rule."""
    now = datetime.now(UTC)

    def row(org_id: UUID, n: int) -> logs.NewLog:
        id_ = UUID(int=lower_bound(now - timedelta(seconds=n)).int | n)
        return (str(id_), org_id, None, None, "GET", "/x", 200, 1.0, None, None, None, None, None)

    async with store.door() as db:
        await logs.insert(db, [row(org, n) for n in range(5_000)] + [row(uuid7(), n) for n in range(5_000)])
    await admin.execute("ANALYZE logs")
    async with store.tenant(org) as db:
        before = await db.fetchval(_READ)
        found = await logs.page(db, Page(20), logs.Wanted())
        assert (len(found.rows), found.has_more) == (20, True)
        assert await db.fetchval(_READ) - before < 100


_READ = """SELECT sum(pg_stat_get_xact_tuples_returned(c.oid) + pg_stat_get_xact_tuples_fetched(c.oid))::bigint
FROM pg_class c WHERE c.relname LIKE 'logs%'"""


async def test_without_a_database_rows_are_dropped_and_counted(store: Store) -> None:
    def dropped(reason: str) -> float:
        return REGISTRY.get_sample_value("postroom_logs_dropped_total", {"reason": reason}) or 0

    row: logs.NewLog = (str(uuid7()), uuid7(), None, None, "GET", "/x", 200, 1.0, None, None, None, None, None)
    away = await Store.open("postgresql://postroom@127.0.0.1:1/none", connect_seconds=1)
    writer = LogWriter(away)
    before = dropped("unavailable")
    for _ in range(3):
        writer.note(row)
    await writer.flush()
    assert dropped("unavailable") == before + 3
    await away.close()
    # more than a process holds; and one bad row, which takes no other with it
    writer = LogWriter(store)
    full, refused = dropped("full"), dropped("refused")
    for n in range(MAX_ROWS + 5):
        writer.note((str(uuid7()), *row[1:]) if n else (*row[:4], "\0", *row[5:]))
    await writer.flush()
    assert (dropped("full"), dropped("refused")) == (full + 5, refused + 1)


async def test_rows_outlive_the_process(
    api: httpx.AsyncClient, make_client: MakeClient, admin: asyncpg.Connection
) -> None:
    writer: LogWriter = api._transport.app.ctx.logs  # type: ignore[attr-defined]
    task = asyncio.create_task(writer.run())
    await api.get("/domains")
    async with asyncio.timeout(60):
        while not await admin.fetchval("SELECT count(*) FROM logs"):
            await asyncio.sleep(0.05)
    task.cancel()


async def test_odd_bodies_are_kept_as_they_can_be(api: httpx.AsyncClient) -> None:
    async def asked(raw: bytes) -> Any:
        await api.post("/domains", content=raw)
        return (await newest(api, endpoint="/domains"))["request_body"]

    assert await asked(b"[" * 100_000) is None
    deep = await asked(b'{"a":' * 500 + b"1" + b"}" * 500)
    assert "…" in orjson.dumps(deep).decode()
    assert await asked(b'{"name":"a\\u0000b"}') == {"name": "a\0b"}
    long = await asked(orjson.dumps({"name": "x" * 100_000}))
    assert (len(long["name"]) < 17_000, "100000 characters" in long["name"]) == (True, True)
    many = await asked(orjson.dumps({"name": ["x" * 100] * 900}))
    assert many["truncated"] is True
    huge = await asked(orjson.dumps({"name": "x" * 300_000}))
    assert huge == {"truncated": True, "bytes": 300_011}


async def test_a_switch_turns_the_log_off(token: str, make_client: MakeClient, admin: asyncpg.Connection) -> None:
    api = await make_client(token, logs={"enabled": False})
    await api.get("/domains")
    assert (await api.get("/logs")).json()["data"] == []
