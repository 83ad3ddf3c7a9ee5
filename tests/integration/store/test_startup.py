"""What a connection says first: PgBouncer refuses start-up parameters that it does not keep track of."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mailcore.kit.errors import Unavailable
from mailcore.store.session import Store

TRACKED = {
    "user",
    "database",
    "application_name",
    "client_encoding",
    "datestyle",
    "timezone",
    "standard_conforming_strings",
}


async def test_only_what_pgbouncer_tracks_is_asked_for_at_start() -> None:
    asked: asyncio.Queue[bytes] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                message = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)
                if message[:4] != bytes.fromhex("04d2162f"):  # SSLRequest
                    asked.put_nowait(message[4:])
                    break
                writer.write(b"N")
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    url = f"postgresql://postroom:x@127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    store = await Store.open(url, connect_seconds=60)
    try:
        with pytest.raises(Unavailable):
            await store.check()
        words = (await asyncio.wait_for(asked.get(), 60)).rstrip(b"\0").split(b"\0")
        assert {word.decode().lower() for word in words[::2]} <= TRACKED
    finally:
        store.terminate()
        server.close()


async def test_statements_are_not_compiled(store: Store) -> None:
    """Plans that must not scan have a huge cost, which would have each of them compiled first."""
    async with store.worker() as db:
        assert await db.fetchval("SHOW jit") == "off"
