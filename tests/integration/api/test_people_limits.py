"""How often somebody may try, from where; and what a hostile client does to the routes that need no key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI, Request

from api.main import start
from api.settings import Settings
from chassis.process import make_server
from mailcore.flow.people import People
from mailcore.kit.passwords import Passwords

from .harness import MakeClient, assert_error

ANN = {"email": "ann@example.com", "password": "correct horse battery", "name": "Ann", "team_name": "Ann's"}
LOGIN = {"email": ANN["email"], "password": ANN["password"]}
WRONG = LOGIN | {"password": "wrong"}
AWAY = "redis://127.0.0.1:1/0"


def quick(api: httpx.AsyncClient) -> httpx.AsyncClient:
    people: People = api._transport.app.ctx.people  # type: ignore[attr-defined]
    people.passwords = Passwords(cost=4)
    return api


def at(api: httpx.AsyncClient, ip: str) -> httpx.AsyncClient:
    """The same application, asked from another address."""
    app = api._transport.app  # type: ignore[attr-defined]
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(ip, 1)), base_url="http://api.test")


async def test_ten_logins_from_an_address(make_client: MakeClient, admin: asyncpg.Connection) -> None:
    api = quick(await make_client())
    other = quick(await make_client())  # another process counts the same
    answers = [await (api, other)[n % 2].post("/auth/login", json=WRONG | {"email": f"u{n}@x.test"}) for n in range(12)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
    assert_error(answers[-1], 429, "rate_limit_exceeded", "minutes")
    assert 600 < int(answers[-1].headers["retry-after"]) <= 900
    as_browser = await api.post("/v1/auth/session", json=LOGIN, headers={"x-requested-with": "x"})
    assert as_browser.status_code == 429, "one limit for both ways in"
    assert (await api.post("/auth/register", json=ANN)).status_code == 201, "registering has its own"
    assert (await at(api, "192.0.2.9").post("/auth/login", json=LOGIN)).status_code == 200
    assert await admin.fetchval("SELECT count(*) FROM auth_events WHERE type = 'limited'") == 1


async def test_ten_registrations_from_an_address(make_client: MakeClient) -> None:
    api = quick(await make_client(auth={"registration_enabled": "true"}))
    answers = [await api.post("/auth/register", json=ANN | {"email": f"u{n}@x.test"}) for n in range(11)]
    assert [answer.status_code for answer in answers] == [201] * 10 + [429]


async def test_the_limit_is_set_and_its_window_ends(make_client: MakeClient, redis_url: str) -> None:
    from redis.asyncio import Redis

    api = quick(await make_client(auth={"attempts": 2, "attempts_minutes": 1}))
    answers = [await api.post("/auth/login", json=WRONG) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [401, 401, 429]
    assert int(answers[-1].headers["retry-after"]) <= 60
    async with Redis.from_url(redis_url) as redis:
        keys = [key async for key in redis.scan_iter("postroom:attempts:*")]
        assert {0 < await redis.ttl(key) <= 60 for key in keys} == {True}
        assert not any(b"ann@example" in key for key in keys)
        await redis.delete(*keys)  # what the window's end does
    assert (await api.post("/auth/login", json=WRONG)).status_code == 401


async def test_an_account_is_guessed_at_ten_times_from_all_the_world(
    make_client: MakeClient, admin: asyncpg.Connection
) -> None:
    api = quick(await make_client())
    await api.post("/auth/register", json=ANN)  # signs in from 127.0.0.1
    for known in (LOGIN["email"], "nobody@example.com"):
        statuses = []
        for n in range(12):
            async with at(api, f"198.51.100.{n}") as stranger:
                tried = await stranger.post("/auth/login", json={"email": known.upper(), "password": "wrong"})
                statuses.append(tried.status_code)
        assert statuses == [401] * 10 + [429] * 2, "known or not"
    async with at(api, "203.0.113.1") as stranger:
        assert (await stranger.post("/auth/login", json=LOGIN)).status_code == 429
    # who has been here before is not locked out by strangers
    assert (await api.post("/auth/login", json=LOGIN)).status_code == 200
    async with at(api, "203.0.113.1") as stranger:
        assert (await stranger.post("/auth/login", json=LOGIN)).status_code == 200, "and their count begins anew"


async def test_a_network_of_ipv6_is_one_address(make_client: MakeClient) -> None:
    api = quick(await make_client(auth={"attempts": 3}))
    statuses = []
    for ip in ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:DB8:0:1::3", "2001:db8:0:1::4", "2001:db8:0:2::1"):
        async with at(api, ip) as client:
            statuses.append((await client.post("/auth/login", json=WRONG | {"email": f"{ip[-1]}@x.test"})).status_code)
    assert statuses == [401, 401, 401, 429, 401]
    statuses = []
    for ip in ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "::ffff:c000:201"):
        async with at(api, ip) as client:
            statuses.append((await client.post("/auth/login", json=WRONG | {"email": f"{ip}@y.test"})).status_code)
    assert statuses == [401, 401, 401, 429]


async def test_without_redis_each_process_counts(make_client: MakeClient) -> None:
    api = quick(await make_client(redis={"url": AWAY, "timeout_seconds": 0.05}))
    statuses = [(await api.post("/auth/login", json=WRONG | {"email": f"u{n}@x.test"})).status_code for n in range(11)]
    assert statuses == [401] * 10 + [429]


async def test_attempts_at_once_are_all_counted(make_client: MakeClient) -> None:
    api = quick(await make_client(auth={"attempts": 5}))
    answers = await asyncio.gather(*(api.post("/auth/login", json=WRONG) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 15


async def test_the_old_password_is_not_guessed_at_for_ever(make_client: MakeClient) -> None:
    api = quick(await make_client(auth={"attempts": 3}))
    token = (await api.post("/auth/register", json=ANN)).json()["token"]
    guess = {"old_password": "wrong", "new_password": "another fine password"}
    headers = {"authorization": f"Bearer {token}"}
    statuses = [(await api.post("/v1/auth/password", json=guess, headers=headers)).status_code for _ in range(4)]
    assert statuses == [401, 401, 401, 429]


# ---- over a real socket --------------------------------------------------------------------------------------------------


@pytest.fixture
async def serve(api_settings: dict[str, Any]) -> AsyncIterator[Any]:
    running: list[Any] = []

    async def serve(**changed: Any) -> int:
        service = start(Settings(**{**api_settings, **changed}))
        parts = await service.__aenter__()
        assert parts.http is not None
        server, sock = make_server(parts.http.app, "127.0.0.1", 0, parts.http.trusted_proxies)
        parts.http.app.ctx.people.passwords = Passwords(cost=4)
        running.append((service, parts, server, asyncio.create_task(server.serve(sockets=[sock]))))
        return int(sock.getsockname()[1])

    yield serve
    for service, parts, server, task in running:
        server.should_exit = True
        await task
        for each in parts.tasks:
            each.close()
        await service.__aexit__(None, None, None)


async def test_only_a_trusted_proxy_says_who_asks(serve: Any, admin: asyncpg.Connection) -> None:
    """X-Forwarded-For of a stranger neither moves the limit nor makes a request one by TLS."""
    alone, behind = (
        await serve(auth={"attempts": 3}),
        await serve(auth={"attempts": 3}, http={"trusted_proxies": ["127.0.0.1/32", "10.0.0.0/8"]}),
    )
    async with httpx.AsyncClient(timeout=60) as client:

        async def login(port: int, forwarded: str, n: int) -> httpx.Response:
            headers = {"x-forwarded-for": forwarded, "x-forwarded-proto": "https", "forwarded": f"for={forwarded}"}
            body = WRONG | {"email": f"u{n}@{port}.test"}
            return await client.post(f"http://127.0.0.1:{port}/auth/login", json=body, headers=headers)

        spoofed = [(await login(alone, f"192.0.2.{n}", n)).status_code for n in range(5)]
        assert spoofed == [401] * 3 + [429] * 2
        told = [(await login(behind, f"192.0.2.{n}", n)).status_code for n in range(5)]
        assert told == [401] * 5
        # what the client itself put before the proxy's word counts for nothing
        chain = [(await login(behind, f"198.51.100.{n}, 203.0.113.7, 10.0.0.3", n)).status_code for n in range(5)]
        assert chain == [401] * 3 + [429] * 2
        nonsense = [(await login(behind, forwarded, 9)).status_code for forwarded in ("x", "'; --", "::1%25eth0, y")]
        assert set(nonsense) <= {401, 429}
        registered = await client.post(f"http://127.0.0.1:{behind}/auth/register", json=ANN)
        assert registered.status_code == 201
        for port, secure in ((alone, False), (behind, True)):
            answer = await client.post(
                f"http://127.0.0.1:{port}/v1/auth/session",
                json=LOGIN,
                headers={"x-requested-with": "x", "x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.99"},
            )
            if port == alone:
                assert answer.status_code == 429
                continue
            assert ("secure" in answer.headers["set-cookie"].lower()) is secure
    ips = {str(row["ip"]) for row in await admin.fetch("SELECT DISTINCT ip FROM auth_events")}
    assert "127.0.0.1" in ips
    assert "203.0.113.7" in ips
    assert "198.51.100.1" not in ips


async def test_a_proxy_is_known_by_its_ipv4_address_on_a_socket_of_both_families() -> None:
    app = FastAPI()

    @app.get("/")
    async def client(request: Request) -> list[str | None]:
        return [request.client.host if request.client else None, request.url.scheme]

    answers = []
    for trusted in (["127.0.0.0/8"], ["127.0.0.1"], ["10.0.0.0/8"]):
        server, sock = make_server(app, "::", 0, trusted)
        task = asyncio.create_task(server.serve(sockets=[sock]))
        headers = {"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https"}
        async with httpx.AsyncClient(timeout=60) as client_:
            answers.append((await client_.get(f"http://127.0.0.1:{sock.getsockname()[1]}/", headers=headers)).json())
        server.should_exit = True
        await task
    assert answers == [["192.0.2.1", "https"], ["192.0.2.1", "https"], ["::ffff:127.0.0.1", "http"]]


async def _raw(port: int, *pieces: bytes, drips_until: asyncio.Event | None = None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        while drips_until is not None and not drips_until.is_set():
            writer.write(b"x")
            await asyncio.sleep(0.1)
        with contextlib.suppress(OSError):  # the other side was quicker
            writer.write_eof()
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


POST = b"POST /auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
SMUGGLED = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


TWO_READINGS = [
    b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}   ",
    b"content-length: 2, 3\r\n\r\n{}",
    b"content-length: +2\r\n\r\n{}",
    b"content-length: 0x2\r\n\r\n{}",
    b"content-length: -1\r\n\r\n{}",
    b"content-length: 99999999999999999999999\r\n\r\n{}",
    b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"transfer-encoding: identity, chunked, identity\r\n\r\n0\r\n\r\n",
    b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    b"x: a\r\n b\r\ncontent-length\x0b: 2\r\n\r\n{}",
]


async def test_no_second_request_hides_in_a_first(serve: Any) -> None:
    """Where two readers could disagree on where a body ends, nothing after it is answered (RFC 9112 §6.3, §11.2)."""
    port = await serve()
    for head in TWO_READINGS:
        answer = await _raw(port, POST + head + SMUGGLED)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
        assert b'"ok"' not in answer
        assert answer.count(b"HTTP/1.1 ") <= 1, answer
        assert b"HTTP/1.1 5" not in answer


async def test_bodies_that_drip_hold_up_nobody(serve: Any) -> None:
    port = await serve()
    registered = asyncio.Event()
    head = POST + b"content-length: 1000\r\n\r\n"
    slow = [asyncio.create_task(_raw(port, head, drips_until=registered)) for _ in range(50)]
    await asyncio.sleep(0.1)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        answer = await client.post("/auth/register", json=ANN)
        assert answer.status_code == 201
        assert not any(task.done() for task in slow), "answered while they drip"
    registered.set()
    for answered in await asyncio.gather(*slow):
        assert b"HTTP/1.1 5" not in answered


async def test_large_bodies_without_a_key_are_refused_unread(serve: Any) -> None:
    port = await serve()
    for path in (b"/auth/login", b"/auth/register", b"/v1/auth/session"):
        head = b"POST " + path + b" HTTP/1.1\r\nhost: x\r\nx-requested-with: x\r\n"
        answer = await _raw(port, head + b"content-length: 60000001\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 "), answer
    form = b"--b\r\ncontent-disposition: form-data; name=a\r\n\r\nb\r\n" * 10_000 + b"--b--\r\n"
    head = POST.replace(b"application/json", b"multipart/form-data; boundary=b")
    answer = await _raw(port, head + b"content-length: %d\r\n\r\n" % len(form) + form)
    assert answer.startswith(b"HTTP/1.1 4"), answer
