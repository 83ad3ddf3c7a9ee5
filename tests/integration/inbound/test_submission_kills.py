"""The service killed while a mail is handed in: what was answered 250 is kept, what was not can be repeated without a
second copy."""

from __future__ import annotations

import asyncio
import os
import smtplib
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from mailcore.blob.base import INLINE_BYTES
from peers import free_port

from .submitting import make_key

HEAD = b"From: us@postroom.test\r\nTo: you@example.com\r\nSubject: s\r\n"
SMALL = HEAD + b"Resend-Idempotency-Key: order-1\r\n\r\nhello\r\n"
LARGE = HEAD + b"Resend-Idempotency-Key: order-1\r\n\r\n" + (b"y" * 900 + b"\r\n") * (INLINE_BYTES // 450)


class Service:
    def __init__(self, env: dict[str, str], port: int, certificates: Path) -> None:
        self.env = env
        self.port = port
        self.tls = ssl.create_default_context(cafile=certificates / "ca.pem")

    @asynccontextmanager
    async def running(self, failpoint: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "inbound_smtp"),
            env={**self.env, "POSTROOM_FAILPOINT": failpoint},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        while b'"event": "listening"' not in (line := await asyncio.wait_for(process.stdout.readline(), 60)):
            assert line, "the service ended"
        drain = asyncio.create_task(process.stdout.read())
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 40)
            await drain

    async def submit(self, token: str, message: bytes) -> str:
        """The reply's text. Raises when the connection ends before it."""

        def run() -> str:
            with smtplib.SMTP_SSL("127.0.0.1", self.port, timeout=60, context=self.tls) as connection:
                connection.login("resend", token)
                connection.mail("a@elsewhere.test")
                connection.rcpt("you@example.com")
                code, text = connection.data(message)
                assert code == 250, text
                return text.decode()

        return await asyncio.to_thread(run)


@pytest.fixture
def service(domain: UUID, database_url: str, redis_url: str, tmp_path: Path, certificates: Path) -> Service:
    port = free_port()
    env = {
        **os.environ,
        "POSTROOM_ENCRYPTION_KEY": bytes(range(32)).hex(),
        "POSTROOM_DATABASE__URL": database_url,
        "POSTROOM_REDIS__URL": redis_url,
        "POSTROOM_BLOB__URL": f"file://{tmp_path}/blobs",
        "POSTROOM_SMTP__MX_PORT": "0",
        "POSTROOM_SMTP__SUBMISSIONS_PORT": str(port),
        "POSTROOM_SMTP__TLS_CERT": str(certificates / "cert.pem"),
        "POSTROOM_SMTP__TLS_KEY": str(certificates / "key.pem"),
        "POSTROOM_OPS__PORT": "0",
    }
    return Service(env, port, certificates)


# f2: the blob is written; f3: all is committed
@pytest.mark.parametrize(("failpoint", "message", "stored"), [("f2", LARGE, 0), ("f3", SMALL, 1)], ids=["f2", "f3"])
async def test_a_kill_between_data_and_250_costs_a_repeat_that_is_recognised(
    service: Service, org: UUID, admin: asyncpg.Connection, failpoint: str, message: bytes, stored: int
) -> None:
    token = await make_key(admin, org)
    async with service.running(failpoint) as process:
        with pytest.raises((smtplib.SMTPServerDisconnected, OSError)):
            await service.submit(token, message)
        assert await asyncio.wait_for(process.wait(), 60) == 137
    assert await admin.fetchval("SELECT count(*) FROM emails") == stored
    async with service.running():
        text = await service.submit(token, message)
        assert await service.submit(token, message) == text
    assert text == f"2.0.0 Ok: {await admin.fetchval('SELECT id FROM emails')}"
    assert (
        await admin.fetchval("SELECT count(*) FROM emails") == await admin.fetchval("SELECT count(*) FROM queue") == 1
    )


async def test_what_was_answered_is_kept_through_a_kill(service: Service, org: UUID, admin: asyncpg.Connection) -> None:
    token = await make_key(admin, org)
    async with service.running("f17") as process:
        text = await service.submit(token, SMALL)
        assert await asyncio.wait_for(process.wait(), 60) == 137
    assert text == f"2.0.0 Ok: {await admin.fetchval('SELECT email_id FROM queue')}"
