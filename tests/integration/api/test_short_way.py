"""A send over a real connection: whichever way its body and answer take (chassis.http), client and log are told the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from chassis.process import make_server

from .harness import MakeClient, email

BODY = json.dumps(email(subject="Short")).encode()


@pytest.fixture
async def client(token: str, make_client: MakeClient) -> httpx.AsyncClient:
    return await make_client(token, rate_limit={"requests_per_second": 1000})


@pytest.fixture
async def port(client: httpx.AsyncClient) -> AsyncIterator[int]:
    server, sock = make_server(client._transport.app, "127.0.0.1", 0, [])  # type: ignore[attr-defined,arg-type]
    task = asyncio.create_task(server.serve(sockets=[sock]))
    yield sock.getsockname()[1]
    server.should_exit = True
    await task


def head(token: str, *lines: str, version: str = "1.1", path: str = "/emails", length: int | None = len(BODY)) -> bytes:
    given = [f"POST {path} HTTP/{version}", "Host: x", f"Authorization: Bearer {token}", "User-Agent: tester", *lines]
    if length is not None:
        given.append(f"Content-Length: {length}")
    return "\r\n".join([*given, "", ""]).encode()


class Answer:
    def __init__(self, status: int, headers: dict[str, str], names: list[str], body: bytes) -> None:
        self.status, self.headers, self.names, self.body = status, headers, names, body


async def read(reader: asyncio.StreamReader) -> Answer:
    async with asyncio.timeout(60):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        pairs = [line.split(": ", 1) for line in lines]
        headers = dict(pairs)
        body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(first.split()[1]), headers, sorted(name for name, _ in pairs), body)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def ask(port: int, *pieces: bytes, answers: int = 1) -> list[Answer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for n, piece in enumerate(pieces):
            if n:
                await asyncio.sleep(0.05)
            writer.write(piece)
        return [await read(reader) for _ in range(answers)]
    finally:
        await close(writer)


async def logged(client: httpx.AsyncClient, admin: asyncpg.Connection, count: int) -> list[asyncpg.Record]:
    async with asyncio.timeout(60):
        while await admin.fetchval("SELECT count(*) FROM logs") < count:
            await client._transport.app.ctx.logs.flush()  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
    return await admin.fetch("SELECT * FROM logs ORDER BY id")


async def test_all_ways_tell_the_client_and_the_log_the_same(
    port: int, client: httpx.AsyncClient, token: str, admin: asyncpg.Connection
) -> None:
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    ways = {
        "short": [head(token, "X-Request-Id: mine.short") + BODY],
        "late": [head(token, "X-Request-Id: mine.late") + BODY[:10], BODY[10:]],
        "chunked": [head(token, "X-Request-Id: mine.chunked", "Transfer-Encoding: chunked", length=None) + chunked],
        "last": [head(token, "X-Request-Id: mine.last", "Connection: close") + BODY],
        "old": [head(token, "X-Request-Id: mine.old", version="1.0") + BODY],
        "slashes": [head(token, "X-Request-Id: mine.slashes", path="//emails/") + BODY],
    }
    answers = {name: (await ask(port, *pieces))[0] for name, pieces in ways.items()}
    short = answers["short"]
    assert {"x-content-type-options", "x-frame-options", "referrer-policy", "date", "content-type"} <= set(short.names)
    assert {"ratelimit-remaining", "x-ratelimit-limit", "x-resend-monthly-quota"} <= set(short.names)
    for name, answer in answers.items():
        assert answer.status == 200
        assert answer.headers["x-request-id"] == f"mine.{name}"
        assert [each for each in answer.names if each != "connection"] == short.names
        assert ("connection" in answer.names) is (name in {"last", "old"})
    rows = {row["request_id"]: row for row in await logged(client, admin, len(ways))}
    assert set(rows) == {f"mine.{name}" for name in ways}
    for name, answer in answers.items():
        row = rows[f"mine.{name}"]
        assert (row["status"], row["user_agent"], row["response_body"].encode()) == (200, "tester", answer.body)
    assert await admin.fetchval("SELECT count(*) FROM emails WHERE subject = 'Short'") == len(ways)


async def test_requests_behind_each_other_and_refusals_among_them(
    port: int, client: httpx.AsyncClient, token: str, admin: asyncpg.Connection
) -> None:
    """In one packet: a send, one that is wrong, one without a key, a send; each answered in its turn, each with its own id."""
    wrong = b"{" * len(BODY)
    one = head(token, "X-Request-Id: a") + BODY
    two = head(token, "X-Request-Id: b") + wrong
    three = head(token, "X-Request-Id: c").replace(token.encode(), b"re_nobody") + BODY
    four = head(token, "X-Request-Id: d") + BODY
    answers = await ask(port, one + two + three + four, answers=4)
    assert [(each.status, each.headers["x-request-id"]) for each in answers] == [
        (200, "a"),
        (400, "b"),
        (400, "c"),
        (200, "d"),
    ]
    rows = await logged(client, admin, 3)  # those of one millisecond have no order
    assert sorted((row["request_id"], row["status"]) for row in rows) == [("a", 200), ("b", 400), ("d", 200)]
    assert await admin.fetchval("SELECT count(*) FROM emails") == 2


async def test_who_expects_to_be_told_to_continue_is_told(port: int, token: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(token, "Expect: 100-continue"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY + head(token) + BODY)
    assert [(await read(reader)).status for _ in range(2)] == [200, 200]
    await close(writer)


@pytest.mark.parametrize("way", ["gone", "reset", "half"])
async def test_mail_of_a_client_that_hangs_up_is_stored_and_logged(
    port: int, client: httpx.AsyncClient, token: str, admin: asyncpg.Connection, way: str
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(token, "X-Request-Id: gone") + BODY)
    await writer.drain()
    if way == "half":
        writer.write_eof()
    elif way == "reset":
        writer.transport.abort()
    else:
        writer.close()
    rows = await logged(client, admin, 1)
    assert [(row["request_id"], row["status"]) for row in rows] == [("gone", 200)]
    assert await admin.fetchval("SELECT count(*) FROM emails") == 1
    await close(writer)
    assert [each.status for each in await ask(port, head(token) + BODY)] == [200]


async def test_what_is_under_way_at_shutdown_is_answered(
    client: httpx.AsyncClient, token: str, admin: asyncpg.Connection
) -> None:
    server, sock = make_server(client._transport.app, "127.0.0.1", 0, [])  # type: ignore[attr-defined,arg-type]
    task = asyncio.create_task(server.serve(sockets=[sock]))
    port = sock.getsockname()[1]
    assert (await ask(port, head(token) + BODY))[0].status == 200
    lock = admin.transaction()
    await lock.start()
    await admin.execute("LOCK TABLE emails IN ACCESS EXCLUSIVE MODE")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write((head(token) + BODY) * 2)
    async with asyncio.timeout(60):
        while not await admin.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0.01)
    server.should_exit = True
    await asyncio.sleep(0.3)
    await lock.rollback()
    first, second = await read(reader), await read(reader)
    assert (first.status, second.status) == (200, 200)
    assert second.headers["connection"] == "close"
    assert await reader.read() == b""
    await close(writer)
    await task
