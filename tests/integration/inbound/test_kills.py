"""The service as a process of its own, killed where it hurts (f14 to f17): nothing answered is lost, nothing is twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from mailcore.blob.base import INLINE_BYTES
from mailcore.kit.ids import uuid7

from .harness import Client, certificate

Start = Callable[..., object]
SMALL = b"Subject: x\r\n\r\nbody\r\n"
LARGE = b"Subject: x\r\n\r\n" + b"y" * (2 * INLINE_BYTES) + b"\r\n"


class Service:
    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        assert (await client.reply())[0] == 220
        return client

    async def deliver(self, message: bytes) -> tuple[int, str]:
        """Raises when the connection ends before the answer."""
        client = await self.connect()
        try:
            await client.begin("v@postroom.test")
            client.send(message + b".\r\n")
            return await client.reply()
        finally:
            client.writer.transport.abort()


@pytest.fixture
def service(domain: UUID, database_url: str, redis_url: str, tmp_path: Path):  # type: ignore[no-untyped-def]
    @asynccontextmanager
    async def start(failpoint: str = "") -> AsyncIterator[Service]:
        env = {
            **os.environ,
            "POSTROOM_ENCRYPTION_KEY": bytes(range(32)).hex(),
            "POSTROOM_DATABASE__URL": database_url,
            "POSTROOM_REDIS__URL": redis_url,
            "POSTROOM_BLOB__URL": f"file://{tmp_path}/blobs",
            "POSTROOM_SMTP__HOSTNAME": "mx.postroom.test",
            "POSTROOM_SMTP__MX_PORT": "0",
            "POSTROOM_OPS__PORT": "0",
            "POSTROOM_QUEUE__SWEEP_SECONDS": "0.2",
            "POSTROOM_QUEUE__LEASE_SECONDS": "60",
            "POSTROOM_FAILPOINT": failpoint,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "inbound_smtp", env=env, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            port = 0
            while not port:
                line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
                assert line, "the service ended"
                if '"event": "listening"' in line:
                    port = int(line.split('"smtp": "127.0.0.1:')[1].split('"')[0])
            drain = asyncio.create_task(process.stdout.read())
            yield Service(process, port)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 40)
            await drain

    return start


async def _died(running: Service, admin: asyncpg.Connection) -> None:
    """At its failpoint; and the database has ended what it began: a statement that was under way is committed all the same."""
    assert await asyncio.wait_for(running.process.wait(), 60) == 137
    begun = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'postroom inbound-smtp'"
    )
    async with asyncio.timeout(60):
        while await admin.fetchval(begun):
            await asyncio.sleep(0.02)
    # a lease so short that it ended by itself would end for who is only slow, too
    await admin.execute("UPDATE workers SET heartbeat_at = now() - interval '1 hour'")


async def _routed(admin: asyncpg.Connection, count: int) -> None:
    async with asyncio.timeout(60):
        while await admin.fetchval("SELECT count(*) FROM arrivals WHERE state = 'routed'") < count:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("message", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(("failpoint", "stored"), [("f14", 0), ("f15", 0), ("f16", 1)])
async def test_a_kill_before_the_answer_costs_at_most_a_repeat_that_is_recognised(
    service: Start, admin: asyncpg.Connection, failpoint: str, stored: int, message: bytes
) -> None:
    async with service(failpoint) as running:  # type: ignore[attr-defined]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await running.deliver(message)
        await _died(running, admin)
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == stored
    async with service() as running:  # type: ignore[attr-defined]
        code, _ = await running.deliver(message)
        assert code == 250
        assert await admin.fetchval("SELECT count(*) FROM arrivals") == 1
        await _routed(admin, 1)
    assert await admin.fetchval("SELECT count(*) FROM messages") == 1
    assert await admin.fetchval("SELECT count(*) FROM events") == 1


async def test_what_was_answered_is_routed_after_a_kill(service: Start, admin: asyncpg.Connection) -> None:
    async with service("f17") as running:  # type: ignore[attr-defined]
        assert (await running.deliver(SMALL))[0] == 250
        await _died(running, admin)
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 1
    async with service():  # type: ignore[attr-defined]
        await _routed(admin, 1)
    assert await admin.fetchval("SELECT count(*) FROM messages") == 1


@pytest.mark.parametrize("failpoint", ["f17-routing", "f17-routed"])
async def test_a_kill_while_routing_passes_everything_on_once(
    service: Start, admin: asyncpg.Connection, org: UUID, failpoint: str
) -> None:
    webhook = uuid7()
    await admin.execute(
        "INSERT INTO webhooks (id, org_id, endpoint, events, secret_sealed) VALUES ($1, $2, 'https://x', '{}', '')",
        *(webhook, org),
    )
    forward = {"type": "forward", "to": ["boss@elsewhere.example"]}
    await admin.execute(
        "INSERT INTO routes (id, org_id, position, name, match, actions) VALUES ($1, $2, 1, 'all', '{}', $3)",
        *(uuid7(), org, [{"type": "store"}, forward, {"type": "webhook", "webhook_id": str(webhook)}]),
    )
    async with service(failpoint) as running:  # type: ignore[attr-defined]
        for n in range(3):
            try:
                await running.deliver(b"From: a@b.example\r\nSubject: %d\r\n\r\nbody\r\n" % n)
            except (OSError, EOFError):
                break  # it is dead already
        await _died(running, admin)
    answered = await admin.fetchval("SELECT count(*) FROM arrivals")
    assert answered >= 1
    async with service():  # type: ignore[attr-defined]
        await _routed(admin, answered)
    for table in ("messages", "emails", "deliveries", "queue", "webhook_queue"):
        assert await admin.fetchval(f"SELECT count(*) FROM {table}") == answered, table
    # received, sent, routed
    assert await admin.fetchval("SELECT count(*) FROM events") == 3 * answered


async def test_sigterm_finishes_what_is_under_way_and_ends_with_0(service: Start, admin: asyncpg.Connection) -> None:
    async with service() as running:  # type: ignore[attr-defined]
        client = await running.connect()
        await client.begin("v@postroom.test")
        running.process.send_signal(signal.SIGTERM)
        client.send(SMALL + b".\r\n")
        assert (await client.reply())[0] == 250
        assert (await client.ends()).startswith(b"421 4.3.2")
        client.writer.close()
        assert await asyncio.wait_for(running.process.wait(), 60) == 0
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 1
    assert await admin.fetchval("SELECT count(*) FROM workers") == 0


async def test_tls_in_the_service_as_it_runs(
    service: Start, admin: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop of the service is not that of the tests (uvloop)."""
    files = certificate(tmp_path)
    monkeypatch.setenv("POSTROOM_SMTP__TLS_CERT", files["tls_cert"])
    monkeypatch.setenv("POSTROOM_SMTP__TLS_KEY", files["tls_key"])
    async with service() as running:  # type: ignore[attr-defined]
        client = await running.connect()
        await client.ask("EHLO x")
        client.send(b"STARTTLS\r\nNOOP\r\n")
        assert (await client.reply())[0] == 220
        await client.start_tls()
        await client.begin("v@postroom.test")
        client.send(LARGE + b".\r\n")
        assert (await client.reply())[0] == 250
        client.writer.transport.abort()
        await _routed(admin, 1)
    assert await admin.fetchval("SELECT facts->>'protocol' FROM arrivals") == "ESMTPS"
