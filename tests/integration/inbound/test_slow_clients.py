"""Five hundred clients that drip, and one that does not (reliability A9): the service as a process of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from .harness import Client
from .test_kills import SMALL, Start, service  # noqa: F401

SLOW = 500
MOST_MORE = 100 * 1024 * 1024


LARGE, AT_ONCE, MOST_EACH = 10_000_000, 4, 6_000_000
"""Octets of a mail, mails that come in together, octets that each may cost. bench/slow has 40 MB."""


def _resident(pid: int) -> int:
    """Octets."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


async def test_a9_five_hundred_slow_clients_hold_up_nobody(
    service: Start,  # noqa: F811
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POSTROOM_SMTP__MAX_CONNECTIONS_PER_IP", str(SLOW + 10))
    async with service() as running:  # type: ignore[attr-defined]
        code, _ = await running.deliver(SMALL)
        assert code == 250
        before = _resident(running.process.pid)
        slow = await asyncio.gather(*(running.connect() for _ in range(SLOW)))
        half = slow[: SLOW // 2]
        for client in half:  # these drip a message, the others a command
            client.send(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<v@postroom.test>\r\nDATA\r\n")
        for octet in b"Subject: slow":
            for client in slow:
                client.send(bytes((octet,)))
            await asyncio.sleep(0)
        code, _ = await running.deliver(b"A: b\r\n" + SMALL)
        assert code == 250
        assert _resident(running.process.pid) - before < MOST_MORE
        for client in slow:
            client.writer.transport.abort()
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 2


async def test_a10_large_mails_are_not_in_memory_while_they_come_in(
    service: Start,  # noqa: F811
    admin: asyncpg.Connection,
) -> None:
    async with service() as running:  # type: ignore[attr-defined]
        assert (await running.deliver(SMALL))[0] == 250
        before = _resident(running.process.pid)
        clients = [await running.connect() for _ in range(AT_ONCE)]

        async def pour(client: Client) -> None:
            await client.begin("v@postroom.test")
            line = b"x" * 998 + b"\r\n"
            for _ in range(LARGE // 100_000):
                client.send(line * 100)
                await client.writer.drain()

        pouring = asyncio.gather(*(pour(client) for client in clients))
        most = 0
        while not pouring.done():
            most = max(most, _resident(running.process.pid))
            await asyncio.sleep(0.02)
        await pouring
        assert most - before < AT_ONCE * MOST_EACH < AT_ONCE * LARGE
        for client in clients:
            client.writer.transport.abort()
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 1
