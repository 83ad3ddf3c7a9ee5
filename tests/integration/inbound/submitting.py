"""A submission listener of a test: the real session class on real sockets with TLS, both ways of it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import smtplib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from inbound_smtp.main import listen, make_mx, make_submission
from inbound_smtp.recipients import Recipients
from inbound_smtp.settings import Smtp
from inbound_smtp.submission.listener import Submission
from inbound_smtp.submission.session import SubmissionSession
from mailcore.blob.base import BlobStore
from mailcore.flow.keys import Keys
from mailcore.flow.quota import Quotas
from mailcore.flow.receive import Receives
from mailcore.flow.submit import Submits
from mailcore.kit.ids import uuid7
from mailcore.queue.bell import Ringer
from mailcore.queue.rate import RateLimiter
from mailcore.store.session import Store

from .harness import Client

T = TypeVar("T")


@dataclass
class Submitting:
    listener: Submission
    port: int
    """STARTTLS."""
    tls_port: int
    tls: ssl.SSLContext
    """Of a client that trusts the server."""

    def limit_errors(self, errors: int) -> None:
        self.listener.limits = replace(self.listener.limits, errors=errors)

    @asynccontextmanager
    async def client(self, *, tls: bool = True, token: str | None = None) -> AsyncIterator[Client]:
        """Greeted; with `token` logged in and past EHLO."""
        reader, writer = await asyncio.open_connection(
            *("127.0.0.1", self.tls_port if tls else self.port),
            ssl=self.tls if tls else None,
        )
        client = Client(reader, writer)
        try:
            assert (await client.reply())[0] == 220
            if token is not None:
                assert (await client.ask("EHLO client.example"))[0] == 250
                assert (await client.ask(f"AUTH PLAIN {plain(token)}"))[0] == 235
            yield client
        finally:
            writer.transport.abort()

    async def by_smtplib(self, use: Callable[[smtplib.SMTP], T], *, tls: bool = False) -> T:
        """In a thread, with a connection that is past STARTTLS or within TLS."""

        def run() -> T:
            if tls:
                connection: smtplib.SMTP = smtplib.SMTP_SSL("127.0.0.1", self.tls_port, timeout=60, context=self.tls)
            else:
                connection = smtplib.SMTP("127.0.0.1", self.port, timeout=60)
                connection.starttls(context=self.tls)
            with connection:
                return use(connection)

        return await asyncio.to_thread(run)

    async def submit(
        self, token: str, message: bytes, *to: str, mail_from: str = "a@elsewhere.test"
    ) -> tuple[int, str]:
        """The reply to the dot."""
        async with self.client(token=token) as client:
            for line in (f"MAIL FROM:<{mail_from}>", *(f"RCPT TO:<{each}>" for each in to)):
                code, text = await client.ask(line)
                if code != 250:
                    return code, text
            assert (await client.ask("DATA"))[0] == 354
            client.send(message + b".\r\n")
            return await client.reply()


def plain(token: str, user: str = "resend", *, acting_for: str = "") -> str:
    return base64.b64encode(f"{acting_for}\0{user}\0{token}".encode()).decode()


async def make_key(
    admin: asyncpg.Connection, org_id: UUID, *domain_ids: UUID, permission: str = "sending_access"
) -> str:
    token = f"re_{secrets.token_hex(16)}"
    await admin.execute(
        "INSERT INTO api_keys (id, org_id, name, token_hash, permission, domain_ids) VALUES ($1, $2, 'test', $3, $4, $5)",
        *(uuid7(), org_id, hashlib.sha256(token.encode()).digest(), permission, list(domain_ids) or None),
    )
    return token


@asynccontextmanager
async def submitting(
    store: Store, ringer: Ringer, blobs: BlobStore, certificates: Path, *, rate: int = 0, daily: int = 0, **smtp: Any
) -> AsyncIterator[Submitting]:
    settings = Smtp(
        hostname="mx.postroom.test",
        tls_cert=str(certificates / "cert.pem"),
        tls_key=str(certificates / "key.pem"),
        **{"auth_failure_seconds": 0.02, **smtp},
    )
    submits = Submits(store, ringer, blobs, quotas=Quotas(store, daily=daily))
    mx = make_mx(settings, Recipients(store), Receives(store, ringer, blobs))
    listener = make_submission(settings, mx, Keys(store), submits, RateLimiter(ringer, rate))
    servers = [
        await listen(SubmissionSession, listener, "127.0.0.1", 0),
        await listen(SubmissionSession, listener, "127.0.0.1", 0, tls=True),
    ]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    client_tls = ssl.create_default_context(cafile=certificates / "ca.pem")
    try:
        yield Submitting(listener, *ports, client_tls)
    finally:
        for server in servers:
            server.close()
        await listener.drain()
        await submits.drain()
