"""The service as it runs, with the scanners that Debian has: SMTP in, and a scanner that is stopped among the mail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from fakes.scanner_daemons import EICAR, Daemon
from inbound_smtp.main import start
from inbound_smtp.settings import Settings
from mailcore.scanners.gtube import STRINGS
from peers import free_port

from .harness import TO, mail


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[int]:
    """Its port."""
    port = free_port()
    told = {"hostname": "mx.postroom.test", "mx_port": port}
    async with start(Settings(encryption_key=bytes(range(32)).hex(), smtp=told, **settings)) as service:
        tasks = [asyncio.ensure_future(task) for task in service.tasks]
        try:
            yield port
        finally:
            await service.drain()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _send(port: int, *mails: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(line: bytes, code: bytes) -> None:
        writer.write(line)
        while True:
            said = await asyncio.wait_for(reader.readline(), 60)
            assert said.startswith(code), said
            if said[3:4] == b" ":
                return

    await ask(b"", b"220")
    await ask(b"EHLO mx.sender.example\r\n", b"250")
    for raw in mails:
        await ask(b"MAIL FROM:<ann@sender.example>\r\n", b"250")
        await ask(f"RCPT TO:<{TO}>\r\n".encode(), b"250")
        await ask(b"DATA\r\n", b"354")
        await ask(raw + b"\r\n.\r\n", b"250")
    with suppress(OSError):
        writer.close()
        await writer.wait_closed()


async def test_c6_the_service_waits_for_clamd_and_goes_on_when_it_is_back(
    domain: UUID,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    spamd: Daemon,
    clamd: Daemon,
    admin: asyncpg.Connection,
) -> None:
    async def states() -> list[str]:
        rows = await admin.fetch(
            "SELECT CASE WHEN pending IS NULL THEN state ELSE 'pending' END AS s FROM arrivals ORDER BY created_at"
        )
        return [row["s"] for row in rows]

    async def until(count: int, *wanted: str) -> list[str]:
        async with asyncio.timeout(100):
            while True:
                found = await states()
                if len(found) == count and set(found) <= set(wanted):
                    return found
                await asyncio.sleep(0.05)

    scanners = {
        "spamd": f"127.0.0.1:{spamd.port}",
        "clamd": f"127.0.0.1:{clamd.port}",
        "again_seconds": 0.2,
        "spamd_seconds": 60,
    }
    async with running(
        database={"url": database_url},
        redis={"url": redis_url, "timeout_seconds": 1},
        blob={"url": (tmp_path / "blobs").as_uri()},
        dns={"nameservers": ["127.0.0.1:9"], "timeout_seconds": 0.2},
        queue={"sweep_seconds": 0.3},
        scanners=scanners,
    ) as port:
        await _send(port, mail(), mail(EICAR), mail(STRINGS[0].encode()))
        assert await until(3, "routed", "quarantined") == ["routed", "quarantined", "routed"]
        clamd.kill()
        try:
            await _send(port, *(mail(EICAR if n == 7 else b"Hello") for n in range(12)))
            found = await until(15, "routed", "quarantined", "pending")
            async with asyncio.timeout(100):
                while (await states())[3:] != ["pending"] * 12:
                    await asyncio.sleep(0.05)
            assert found[:3] == ["routed", "quarantined", "routed"]
        finally:
            clamd.start()
        found = await until(15, "routed", "quarantined")
        assert [n for n, state in enumerate(found) if state == "quarantined"] == [1, 10]
    assert await admin.fetchval("SELECT count(*) FROM messages") == 13
    assert await admin.fetchval("SELECT count(*) FROM messages WHERE junk") == 1
