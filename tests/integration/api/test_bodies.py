"""Request bodies over a real connection: what all of them may hold, and how slowly one may come (reliability D13)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response

from api import errors
from api.app import Api
from api.bodies import Bodies
from api.edge import Edge
from api.settings import Http
from chassis.process import make_server

MB = 1_000_000


class Server:
    """Two routes that answer with the size of the body; `gate` shut, they answer when it opens."""

    def __init__(self, bodies: Bodies) -> None:
        self.bodies = bodies
        self.gate = asyncio.Event()
        self.gate.set()
        self.read = 0
        self.app = Api()
        self.app.edge = Edge(super(Api, self.app).__call__, hot={("POST", "/hot"): self.size}, bodies=bodies)
        errors.install(self.app)
        self.app.add_api_route("/routed", self.routed, methods=["POST"])
        self.port = 0

    async def size(self, request: Request) -> Response:
        if request.headers.get("authorization") is None:
            raise errors.ApiError(401, "missing_api_key", "Missing API Key")
        size = len(await request.body())
        self.read += 1
        await self.gate.wait()
        return Response(str(size))

    async def routed(self, request: Request) -> Response:
        return await self.size(request)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Connection(reader, writer)
        finally:
            writer.transport.abort()

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.01)


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def begin(self, path: str, *headers: str, body: bytes = b"") -> None:
        """`body`: what comes together with the head."""
        lines = [f"POST {path} HTTP/1.1", "host: x", "authorization: Bearer x", *headers]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def send(self, octets: bytes) -> None:
        self.writer.write(octets)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(60):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split(" ")[1]), headers, body


@asynccontextmanager
async def serving(bodies: Bodies) -> AsyncIterator[Server]:
    served = Server(bodies)
    server, sock = make_server(served.app, "127.0.0.1", 0, [])
    served.port = sock.getsockname()[1]
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield served
    finally:
        served.gate.set()
        server.should_exit = True
        await task


def name_of(body: bytes) -> str:
    found = orjson.loads(body)
    assert set(found) == {"statusCode", "name", "message"}
    return str(found["name"])


@pytest.mark.parametrize("path", ["/hot", "/routed"])
@pytest.mark.parametrize("declared", [True, False])
async def test_what_all_bodies_hold_is_bounded(path: str, declared: bool) -> None:
    async with serving(Bodies(4 * MB, 5 * MB)) as server, server.connection() as first, server.connection() as second:
        await post(first, path, 3 * MB, declared)
        assert await answered(first) == (200, b"%d" % (3 * MB))
        assert server.bodies.held == 0
        server.gate.clear()
        await post(first, path, 3 * MB, declared)
        await server.until(lambda: server.read == 2)
        assert server.bodies.held == 3 * MB, "also when it has been read, until it is answered"
        await post(second, path, 3 * MB, declared)
        status, headers, body = await second.answer()
        assert (status, name_of(body), headers["retry-after"]) == (503, "service_unavailable", "1")
        assert server.bodies.held == 3 * MB
        # the connection goes on, and small bodies find their way
        server.gate.set()
        await post(second, path, MB, declared)
        assert await answered(second) == (200, b"%d" % MB)
        assert await answered(first) == (200, b"%d" % (3 * MB))
        await post(second, path, 4 * MB, declared)
        assert await answered(second) == (200, b"%d" % (4 * MB))
        await post(second, path, 4 * MB + 1, declared)
        assert (await answered(second))[0] == 413
        assert server.bodies.held == 0


async def post(connection: Connection, path: str, size: int, declared: bool) -> None:
    if declared:
        connection.begin(path, f"content-length: {size}")
        await connection.send(b"x" * size)
    else:
        connection.begin(path, "transfer-encoding: chunked")
        for at in range(0, size, 50_000):
            part = min(50_000, size - at)
            await connection.send(b"%x\r\n%b\r\n" % (part, b"x" * part))
        await connection.send(b"0\r\n\r\n")


async def answered(connection: Connection) -> tuple[int, bytes]:
    status, _, body = await connection.answer()
    return status, body


async def test_a_body_counts_from_its_first_read_until_its_client_goes() -> None:
    async with serving(Bodies(60 * MB, 60 * MB)) as server, server.connection() as one, server.connection() as other:
        one.writer.write(b"POST /hot HTTP/1.1\r\nhost: x\r\ncontent-length: 60000000\r\n\r\n")
        assert (await answered(one))[0] == 401
        assert server.bodies.held == 0
        other.begin("/hot", f"content-length: {60 * MB}")
        await other.send(b"x" * MB)
        await server.until(lambda: server.bodies.held == 60 * MB)
        other.writer.transport.abort()
        await server.until(lambda: server.bodies.held == 0)


@pytest.mark.parametrize("path", ["/hot", "/routed"])
async def test_a_body_that_stands_still(path: str) -> None:
    async with serving(Bodies(4 * MB, 5 * MB, idle_seconds=0.1)) as server, server.connection() as connection:
        connection.begin(path, f"content-length: {3 * MB}")
        await connection.send(b"x")
        status, headers, body = await connection.answer()
        assert (status, name_of(body), headers["connection"]) == (408, "validation_error", "close")
        assert await asyncio.wait_for(connection.reader.read(), 60) == b""
        assert (server.bodies.held, server.read) == (0, 0)


@pytest.mark.parametrize("path", ["/hot", "/routed"])
@pytest.mark.parametrize("form", ["content-length: 1000", "transfer-encoding: chunked"])
async def test_a_body_that_drips(path: str, form: str) -> None:
    """Never silent for long, and too slow all the same; others go on."""
    async with serving(Bodies(4 * MB, 5 * MB, grace_seconds=0.1)) as server, server.connection() as connection:
        connection.begin(path, form)
        answer = asyncio.create_task(connection.answer())
        async with asyncio.timeout(60):
            while not answer.done():
                connection.writer.write(b"x" if "length" in form else b"1\r\nx\r\n")
                await asyncio.wait([answer], timeout=0.02)
        status, headers, body = answer.result()
        assert (status, name_of(body), headers["connection"]) == (408, "validation_error", "close")
        async with server.connection() as other:
            other.begin(path, "content-length: 5", body=b"12345")
            assert await answered(other) == (200, b"5")


async def test_an_answer_may_take_longer_than_a_body() -> None:
    async with serving(Bodies(4 * MB, 5 * MB, idle_seconds=0.05, grace_seconds=0.05)) as server:
        server.gate.clear()
        async with server.connection() as connection:
            # in one piece, or a machine that stands still for a moment makes it a slow one
            connection.begin("/routed", "content-length: 5", body=b"12345")
            await server.until(lambda: server.read == 1)
            answer = asyncio.create_task(answered(connection))
            assert await asyncio.wait([answer], timeout=0.2) == (set(), {answer})
            server.gate.set()
            assert await answer == (200, b"5")


def test_the_largest_body_finds_room() -> None:
    assert Http(body_limit_bytes=2 * MB, bodies_bytes=2 * MB).bodies_bytes == 2 * MB
    with pytest.raises(ValueError, match="at least body_limit_bytes"):
        Http(body_limit_bytes=3 * MB, bodies_bytes=2 * MB)
