from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from mailcore.kit.ids import uuid7

from .harness import MakeClient, MakeKey, assert_error, email


async def test_send_stores_email_deliveries_queue_and_event(
    api: httpx.AsyncClient, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    answer = await api.post(
        "/emails",
        json=email(
            to=["One <one@example.com>", "two@example.org"],
            cc="Two Again <TWO@example.org>",
            bcc=["three@example.com"],
            reply_to="back@postroom.test",
            text="Hi",
            headers={"X-Entity-Ref-ID": "7"},
            tags=[{"name": "category", "value": "confirm"}, {"name": "bare"}],
            unknown_key={"is": "ignored"},
        ),
    )
    assert answer.status_code == 200
    assert set(answer.json()) == {"id"}
    id_ = UUID(answer.json()["id"])
    row = await admin.fetchrow("SELECT * FROM emails WHERE id = $1", id_)
    assert row is not None
    assert (row["org_id"], row["domain_id"], row["class"]) == (org, domain, 0)
    assert row["to_"] == ["One <one@example.com>", "two@example.org"]
    assert (row["cc"], row["bcc"], row["reply_to"]) == (
        ["Two Again <TWO@example.org>"],
        ["three@example.com"],
        ["back@postroom.test"],
    )
    assert row["headers"] == {"X-Entity-Ref-ID": "7"}
    assert row["tags"] == [{"name": "category", "value": "confirm"}, {"name": "bare", "value": ""}]
    assert row["message_id"] == f"<{id_}@postroom.test>"
    deliveries = await admin.fetch("SELECT n, recipient, state FROM deliveries WHERE email_id = $1 ORDER BY n", id_)
    # the same mailbox in To and Cc gets one copy
    assert [tuple(each) for each in deliveries] == [
        (0, "one@example.com", "queued"),
        (1, "two@example.org", "queued"),
        (2, "three@example.com", "queued"),
    ]
    queued = await admin.fetch(
        "SELECT q.n, l.domain, s.key, q.due_at <= now() AS due FROM queue q JOIN lanes l ON l.id = q.lane_id "
        "JOIN recipient_domains r USING (domain) JOIN sites s ON s.id = r.site_id WHERE email_id = $1 ORDER BY n",
        id_,
    )
    assert [tuple(each) for each in queued] == [
        (0, "example.com", "domain:example.com", True),
        (1, "example.org", "domain:example.org", True),
        (2, "example.com", "domain:example.com", True),
    ]
    events = await admin.fetch("SELECT type, org_id FROM events WHERE object_id = $1", id_)
    assert [tuple(each) for each in events] == [("email.sent", org)]


async def test_get_and_list(api: httpx.AsyncClient) -> None:
    ids = [(await api.post("/emails", json=email(subject=f"n {n}"))).json()["id"] for n in range(5)]
    got = (await api.get(f"/emails/{ids[0]}")).json()
    assert got == {
        "object": "email",
        "id": ids[0],
        "message_id": f"<{ids[0]}@postroom.test>",
        "to": ["you@example.com"],
        "from": "Acme <hello@postroom.test>",
        "created_at": got["created_at"],
        "subject": "n 0",
        "html": "<p>Hi</p>",
        "text": None,
        "bcc": None,
        "cc": None,
        "reply_to": None,
        "last_event": "sent",
        "scheduled_at": None,
        "topic_id": None,
        "tags": [],
    }
    assert datetime.fromisoformat(got["created_at"]).tzinfo is not None
    newest_first = ids[::-1]
    everything = (await api.get("/emails")).json()
    assert (everything["object"], everything["has_more"]) == ("list", False)
    assert [each["id"] for each in everything["data"]] == newest_first
    assert "html" not in everything["data"][0]
    first = (await api.get("/emails", params={"limit": 2})).json()
    assert ([each["id"] for each in first["data"]], first["has_more"]) == (newest_first[:2], True)
    older = (await api.get("/emails", params={"limit": 2, "after": newest_first[1]})).json()
    assert ([each["id"] for each in older["data"]], older["has_more"]) == (newest_first[2:4], True)
    last = (await api.get("/emails", params={"limit": 2, "after": newest_first[3]})).json()
    assert ([each["id"] for each in last["data"]], last["has_more"]) == (newest_first[4:], False)
    newer = (await api.get("/emails", params={"limit": 2, "before": newest_first[4]})).json()
    assert ([each["id"] for each in newer["data"]], newer["has_more"]) == (newest_first[2:4], True)
    newest = (await api.get("/emails", params={"limit": 2, "before": newest_first[1]})).json()
    assert ([each["id"] for each in newest["data"]], newest["has_more"]) == (newest_first[:1], False)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "limit=-1", "limit=1e2", "after=x", "after=a&before=b"]
)
async def test_bad_pages(api: httpx.AsyncClient, query: str) -> None:
    assert_error(await api.get(f"/emails?{query}"), 422, "validation_error")


async def test_nul_in_a_query(api: httpx.AsyncClient) -> None:
    assert_error(await api.get("/emails?before=%00"), 422, "invalid_parameter", "NUL")


async def test_both_cursors(api: httpx.AsyncClient) -> None:
    answer = await api.get(f"/emails?after={uuid4()}&before={uuid4()}")
    assert_error(answer, 422, "validation_error", "`after` or `before`")


async def test_foreign_and_absent_ids_look_alike(
    api: httpx.AsyncClient, make_org: object, make_domain: object, make_key: MakeKey, make_client: MakeClient
) -> None:
    other = await make_org()  # type: ignore[operator]
    await make_domain(other, "other.test")  # type: ignore[operator]
    stranger = await make_client(await make_key(other))
    id_ = (await api.post("/emails", json=email())).json()["id"]
    domain = (await api.get("/domains")).json()["data"][0]["id"]
    key = (await api.get("/api-keys")).json()["data"][0]["id"]
    for method, path in (
        ("GET", "/emails/{}"),
        ("GET", "/v1/emails/{}/deliveries"),
        ("GET", "/domains/{}"),
        ("POST", "/domains/{}/verify"),
        ("DELETE", "/domains/{}"),
        ("DELETE", "/api-keys/{}"),
    ):
        mine = key if "keys" in path else domain if "domains" in path else id_
        foreign = await stranger.request(method, path.format(mine))
        absent = await stranger.request(method, path.format(uuid7()))
        assert (foreign.status_code, foreign.json()) == (404, absent.json())
        assert_error(foreign, 404, "not_found")
    assert [each["name"] for each in (await stranger.get("/domains")).json()["data"]] == ["other.test"]
    assert (await stranger.get("/emails")).json()["data"] == []
    # and nobody sends from a domain that is another's
    assert_error(await stranger.post("/emails", json=email()), 403, "validation_error", "`postroom.test` domain is not")
    assert (await api.get(f"/emails/{id_}")).status_code == 200


async def test_deliveries_tell_what_happened(api: httpx.AsyncClient, admin: asyncpg.Connection, org: UUID) -> None:
    id_ = (await api.post("/emails", json=email(to=["a@example.com", "b@example.com"]))).json()["id"]
    await admin.execute(
        "INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, site, mx_host, mx_ip, source_ip, tls, code, "
        "enhanced_code, reply, conversation) VALUES ($1, 0, 1, $2, now(), 'deferred', 'mx:a', 'mx.example.com', "
        "'192.0.2.1', '192.0.2.9', 'TLSv1.3', 451, '4.7.1', 'later', $3)",
        *(UUID(id_), org, [[1767225600.5, "heard", "451 4.7.1 later"]]),  # as flow.settle writes it
    )
    await admin.execute(
        "UPDATE queue SET worker = 1, possible_duplicate = true WHERE email_id = $1 AND n = 1", UUID(id_)
    )
    answer = (await api.get(f"/v1/emails/{id_}/deliveries")).json()
    assert answer["object"] == "list"
    first, second = answer["data"]
    attempt = first["attempts"][0]
    datetime.fromisoformat(attempt.pop("at"))
    assert attempt == {
        "attempt": 1,
        "outcome": "deferred",
        "site": "mx:a",
        "mx_host": "mx.example.com",
        "mx_ip": "192.0.2.1",
        "source_ip": "192.0.2.9",
        "tls": "TLSv1.3",
        "tls_policy": None,
        "code": 451,
        "enhanced_code": "4.7.1",
        "reply": "later",
        "rule": None,
        "category": None,
        "category_rule": None,
        "possible_duplicate": False,
        "conversation": [{"at": "2026-01-01T00:00:00.500000+00:00", "heard": "451 4.7.1 later"}],
    }
    assert (first["recipient"], first["state"], first["site"]) == ("a@example.com", "queued", "domain:example.com")
    assert first["next_attempt_at"] is not None
    assert (first["next_attempt"]["at"], first["next_attempt"]["attempt"]) == (first["next_attempt_at"], 1)
    assert "deferred by mx.example.com: 451 4.7.1 later" in first["next_attempt"]["why"]
    assert second["next_attempt"]["at"] is None and "under way" in second["next_attempt"]["why"]
    assert (second["state"], second["next_attempt_at"], second["possible_duplicate"]) == ("leased", None, True)


async def test_scheduled(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    at = (datetime.now(UTC) + timedelta(hours=2)).replace(microsecond=0)
    id_ = (await api.post("/emails", json=email(scheduled_at=at.isoformat().replace("+00:00", "Z")))).json()["id"]
    row = await admin.fetchrow(
        "SELECT d.state, q.due_at, e.type FROM deliveries d JOIN queue q USING (email_id, n) "
        "JOIN events e ON e.object_id = d.email_id WHERE d.email_id = $1",
        UUID(id_),
    )
    assert tuple(row) == ("scheduled", at, "email.scheduled")
    got = (await api.get(f"/emails/{id_}")).json()
    assert (got["last_event"], datetime.fromisoformat(got["scheduled_at"])) == ("scheduled", at)
    # a moment that has passed means now
    id_ = (await api.post("/emails", json=email(scheduled_at="2020-01-01T00:00:00Z"))).json()["id"]
    assert (await api.get(f"/emails/{id_}")).json()["scheduled_at"] is None


@pytest.mark.parametrize(
    "at", ["tomorrow at 9", "in 31 days", "next week", "", "2026-13-01", 5, "9999-12-31T23:59:59-12:00"]
)
async def test_bad_schedules(api: httpx.AsyncClient, at: object) -> None:
    assert_error(await api.post("/emails", json=email(scheduled_at=at)), 422, "validation_error", "scheduled_at")


async def test_large_parts_go_to_the_blob_store(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    html = "<p>ä</p>" * 20_000
    file = bytes(range(256)) * 400
    answer = await api.post(
        "/emails",
        json=email(
            html=html,
            attachments=[
                {"filename": "big.bin", "content": base64.b64encode(file).decode()},
                {"filename": "small.txt", "content": "aGk=", "content_id": "logo"},
            ],
        ),
    )
    assert answer.status_code == 200, answer.text
    row = await admin.fetchrow(
        "SELECT html, body_blob, attachments FROM emails WHERE id = $1", UUID(answer.json()["id"])
    )
    assert row["html"] is None
    assert row["body_blob"]
    big, small = row["attachments"]
    assert (big["size"], "content" in big, big["content_type"]) == (len(file), False, "application/octet-stream")
    assert (small["content"], small["disposition"], small["content_id"]) == ("aGk=", "inline", "logo")
    assert (await api.get(f"/emails/{answer.json()['id']}")).json()["html"] == html
    ctx = api._transport.app.ctx  # type: ignore[attr-defined]
    assert await ctx.blobs.get(big["blob"]) == file


@pytest.mark.parametrize(
    "content",
    [
        "aGVsbG8=",
        "aGVs\r\nbG8=\n",
        list(b"hello"),
        {"type": "Buffer", "data": list(b"hello")},
    ],
)
async def test_attachment_encodings(api: httpx.AsyncClient, admin: asyncpg.Connection, content: object) -> None:
    answer = await api.post("/emails", json=email(attachments=[{"filename": "a.txt", "content": content}]))
    assert answer.status_code == 200, answer.text
    row = await admin.fetchrow("SELECT attachments FROM emails WHERE id = $1", UUID(answer.json()["id"]))
    assert [(each["content"], each["content_type"], each["size"]) for each in row["attachments"]] == [
        ("aGVsbG8=", "text/plain", 5)
    ]


@pytest.mark.parametrize(
    "attachment",
    [
        {"filename": "a.txt"},
        {"filename": "a.txt", "content": None},
        {"filename": "a.txt", "content": "!!"},
        {"filename": "a.txt", "content": [256]},
        {"filename": "a.txt", "content": ["x"]},
        {"filename": "a.txt", "content": {"type": "Buffer"}},
        {"filename": "a.exe", "content": "aGk="},
        {"filename": 5, "content": "aGk="},
        {"path": "file:///etc/passwd"},
        {"path": "http://127.0.0.1/secret"},
        {"path": "http://169.254.169.254/latest/meta-data"},
    ],
)
async def test_bad_attachments(api: httpx.AsyncClient, attachment: dict[str, object]) -> None:
    assert_error(await api.post("/emails", json=email(attachments=[attachment])), 422, "invalid_attachment")


async def test_attachment_by_path(token: str, make_client: MakeClient, admin: asyncpg.Connection) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/csv; charset=x\r\nContent-Length: 3\r\nConnection: close\r\n\r\na,b"
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        api = await make_client(token, network={"allow": {"attachments": ["127.0.0.0/8"]}})
        path = f"http://127.0.0.1:{port}/files/table.csv?x=1"
        answer = await api.post("/emails", json=email(attachments=[{"path": path}]), headers={"idempotency-key": "k"})
        assert answer.status_code == 200, answer.text
        row = await admin.fetchrow("SELECT attachments FROM emails WHERE id = $1", UUID(answer.json()["id"]))
        assert [(a["filename"], a["content_type"], a["content"]) for a in row["attachments"]] == [
            ("table.csv", "text/csv", "YSxi")
        ]
    finally:
        server.close()
    # the server is gone: only a replay can answer
    again = await api.post("/emails", json=email(attachments=[{"path": path}]), headers={"idempotency-key": "k"})
    assert again.json() == answer.json()
    assert_error(await api.post("/emails", json=email(attachments=[{"path": path}])), 422, "invalid_attachment", path)


async def test_other_doors_of_the_same_path(api: httpx.AsyncClient) -> None:
    for path in ("/emails/", "//emails", "//emails//"):
        answer = await api.post(f"http://api.test{path}", json=email())
        assert answer.status_code == 200, path
    assert (await api.get("http://api.test/emails/")).status_code == 200
