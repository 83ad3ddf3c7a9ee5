"""The head of a request: limits, and answers in our shape to what is no HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Request

from chassis.http import HttpProtocol
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
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionError:  # closed with our bytes unread: the answer may be lost with them
        return b""
    finally:
        writer.close()


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
