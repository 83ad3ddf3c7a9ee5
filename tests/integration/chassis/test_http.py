"""The head of a request: limits, and answers in our shape to what is no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request

from chassis.http import WHOLE, HttpProtocol, Whole
from chassis.process import make_server


class Hasty(HttpProtocol):
    head_seconds = 0.2


@pytest.fixture(params=[HttpProtocol])
async def port(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    app = FastAPI()

    @app.post("/length")
    async def length(request: Request) -> int:
        return len(await request.body())

    server, sock = make_server(app, "127.0.0.1", 0, [], request.param)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    yield sock.getsockname()[1]
    server.should_exit = True
    await task


async def _ask(port: int, *pieces: bytes) -> bytes:
    """All that came until the server closed. By hand: a stream forgets what it has read of a connection that is then reset, as one
    is that the server closes with our bytes unread."""
    loop = asyncio.get_running_loop()
    answer = b""
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    await loop.sock_sendall(sock, piece)
            with contextlib.suppress(ConnectionError):
                while octets := await loop.sock_recv(sock, 65_536):
                    answer += octets
    return answer


def _error(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    told = json.loads(body)
    assert set(told) == {"statusCode", "name", "message"}
    assert head.startswith(b"HTTP/1.1 %d " % told["statusCode"])
    assert {b"x-frame-options: DENY", b"x-content-type-options: nosniff"} <= set(head.split(b"\r\n"))
    return told["statusCode"], told["message"]


async def test_a_header_without_end_is_refused_early(port: int) -> None:
    start = b"POST /length HTTP/1.1\r\nhost: x\r\nx: "
    answer = await _ask(port, start, *[b"a" * 16_384] * 40)
    assert answer == b"" or _error(answer)[0] == 431


@pytest.mark.parametrize(
    "head",
    [
        b"POST /length HTTP/1.1\r\n" + b"".join(b"x%d: %s\r\n" % (n, b"a" * 100) for n in range(1000)) + b"\r\n",
        b"POST /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
async def test_a_complete_head_that_is_too_large_is_refused(port: int, head: bytes) -> None:
    status, _ = _error(await _ask(port, head))
    assert status == 431


async def test_what_is_no_http_gets_our_shape(port: int) -> None:
    assert _error(await _ask(port, b"EHLO there\r\n\r\n"))[0] == 400


async def test_large_bodies_and_requests_behind_them_are_not_heads(port: int) -> None:
    body = b"b" * 300_000
    one = b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    last = b"POST /length HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
    answer = await _ask(port, one + one + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.endswith(b"2")


@pytest.mark.parametrize("port", [Hasty], indirect=True)
async def test_a_head_that_does_not_come_ends_the_connection(port: int) -> None:
    assert await _ask(port) == b""
    assert await _ask(port, b"POST /length HTTP/1.1\r\nhost") == b""


# ---- offers of another protocol

_OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
_NEXT = b"POST /length HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
_HIDDEN = b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
async def test_what_offers_another_protocol_is_a_request_like_others(port: int, chunked: bool, pause: bool) -> None:
    """RFC 9110 §7.8. Java's client offers HTTP/2 with its first request; the body is its body, and no request of its own."""
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(_HIDDEN), _HIDDEN) if chunked else _HIDDEN
    framing = b"transfer-encoding: chunked\r\n" if chunked else b"content-length: %d\r\n" % len(body)
    head = b"POST /length HTTP/1.1\r\nhost: x\r\n" + _OFFER + framing + b"\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in (head, body + head + body, _NEXT) if pause else (head + body + head + body + _NEXT,):
        writer.write(piece)
        await asyncio.sleep(0.05)
    answers = (await reader.read()).split(b"HTTP/1.1 200 OK\r\n")[1:]
    writer.close()
    await writer.wait_closed()
    told = [b"%d" % len(_HIDDEN)] * 2 + [b"2"]
    assert [each.partition(b"\r\n\r\n")[2] for each in answers] == told


async def test_a_thousand_offers_are_declined_and_a_tunnel_is_refused(port: int) -> None:
    offer = b"POST /length HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\nok"
    assert (await _ask(port, offer * 1000 + _NEXT)).count(b"HTTP/1.1 200 OK") == 1001
    for target in (b"a:1", b"/length"):
        assert _error(await _ask(port, b"CONNECT " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n"))[0] == 400


# ---- the short way


@pytest.fixture
def received() -> asyncio.Event:
    """Set once a request is there whose body is not."""
    return asyncio.Event()


@pytest.fixture
async def echo(received: asyncio.Event) -> AsyncIterator[int]:
    """Answers with the body, by the short way where it is open, and says in a header whether each half was."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        whole: Whole = scope["extensions"][WHOLE]
        body = whole.body()
        short = body is not None
        if body is None:
            received.set()
            body, more = b"", True
            while more:
                message = await receive()
                assert message["type"] == "http.request"
                body, more = body + message["body"], message["more_body"]
        headers = [(b"content-length", b"%d" % len(body)), (b"x-short", b"%d" % short)]
        if not whole.answer(200, headers, body):
            headers.append((b"x-answer", b"long"))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        assert (await receive())["type"] == "http.disconnect"

    server, sock = make_server(app, "127.0.0.1", 0, [])
    task = asyncio.create_task(server.serve(sockets=[sock]))
    yield sock.getsockname()[1]
    server.should_exit = True
    await task


_HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
_LAST = b"connection: close\r\n\r\n"


async def test_requests_in_one_packet_are_answered_in_their_order(echo: int) -> None:
    answer = await _ask(echo, _HEAD + b"\r\nfirst" + _HEAD + b"\r\nother" + _HEAD + _LAST + b"third")
    first, other, third = answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert [each.partition(b"\r\n\r\n")[2] for each in (first, other, third)] == [b"first", b"other", b"third"]
    assert all(b"date: " in each for each in (first, other, third))
    assert b"x-short: 1" in first and b"x-answer: long" not in first and b"connection: close" not in first
    assert b"x-answer: long" in third and b"connection: close" in third


async def test_a_body_that_comes_later_is_received(echo: int, received: asyncio.Event) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", echo)
    writer.write(_HEAD + b"\r\nfi")
    async with asyncio.timeout(60):
        await received.wait()
    writer.write(b"rst")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"x-short: 0" in head and b"x-answer" not in head
    assert await reader.readexactly(5) == b"first"
    writer.write(_HEAD + b"expect: 100-continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"again")
    assert b"x-short: 0" in await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(5) == b"again"
    writer.close()


async def test_a_client_of_http_1_0_has_its_connection_closed(echo: int) -> None:
    answer = await _ask(echo, b"POST / HTTP/1.0\r\ncontent-length: 5\r\n\r\nfirst")
    assert b"x-answer: long" in answer and answer.endswith(b"connection: close\r\n\r\nfirst")


async def test_who_does_not_read_its_answers_is_not_answered_without_end(echo: int) -> None:
    """Beyond what the transport buffers, answers wait for the client as ASGI's messages do."""
    reader, writer = await asyncio.open_connection("127.0.0.1", echo, limit=1000)
    body = b"a" * 60_000
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n" + body
    for _ in range(100):
        writer.write(request)
    came = 0
    async with asyncio.timeout(60):
        while came < 100 * len(body):
            came += len(await reader.read(100_000))
    writer.close()
