"""The certificate is exchanged while we run; PROXY headers are believed from balancers alone."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from cryptography import x509

from inbound_smtp.recipients import Recipients
from mailcore.flow.receive import Receives
from mailcore.store.session import Store

from .harness import Server, certificate, serving


@pytest.fixture
async def server(domain: UUID, store: Store, receives: Receives, tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(Recipients(store), receives, **certificate(tmp_path)) as server:
        yield server


async def _serial(server: Server) -> int:
    async with server.client() as client:
        await client.ask("EHLO x")
        assert (await client.ask("STARTTLS"))[0] == 220
        await client.start_tls()
        tls: ssl.SSLObject = client.writer.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True)
        assert der is not None
        assert (await client.ask("EHLO x"))[0] == 250
    return x509.load_der_x509_certificate(der).serial_number


async def test_a_new_certificate_is_used_without_a_restart(server: Server, tmp_path: Path) -> None:
    used = server.mx.certificate
    assert used is not None
    first = await _serial(server)
    async with server.client() as client:
        await client.ask("EHLO x")
        assert (await client.ask("STARTTLS"))[0] == 220
        new = tmp_path / "new"
        new.mkdir()
        certificate(new)
        os.replace(new / "cert.pem", tmp_path / "cert.pem")
        used.look()
        assert await _serial(server) == first, "the key does not fit it yet"
        os.replace(new / "key.pem", tmp_path / "key.pem")
        used.look()
        second = await _serial(server)
        assert second != first
        await client.start_tls()  # one that had begun is not harmed
        assert (await client.ask("EHLO x"))[0] == 250
    (tmp_path / "cert.pem").unlink()
    used.look()
    assert await _serial(server) == second


async def test_many_octets_within_tls(server: Server, admin: asyncpg.Connection) -> None:
    message = b"Subject: x\r\n\r\n" + b"y" * 76 + b"\r\n"
    async with server.client() as client:
        await client.ask("EHLO x")
        await client.ask("STARTTLS")
        await client.start_tls()
        for n in range(3):
            await client.begin("v@postroom.test")
            client.send(b"N: %d\r\n" % n + message * (1 + 4_000 * n) + b".\r\n")
            assert (await client.reply())[0] == 250
        # pipelined, in one record, and the client says goodbye as TLS has it
        client.send(b"NOOP\r\nVRFY x\r\nQUIT\r\n")
        assert [(await client.reply())[0] for _ in range(3)] == [250, 252, 221]
        assert await client.ends() == b""
    assert await admin.fetchval("SELECT count(*) FROM arrivals WHERE facts->>'protocol' = 'ESMTPS'") == 3


HEADER = b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 25\r\n"


async def test_a_header_from_elsewhere_is_no_command(
    domain: UUID, store: Store, receives: Receives, admin: asyncpg.Connection
) -> None:
    for trusted, code in (("10.0.0.0/8", 500), ("10.0.0.0/8,127.0.0.0/8", 220)):
        networks = {"proxy_protocol": "v1", "proxy_trusted": trusted}
        async with serving(Recipients(store), receives, **networks) as server, server.client(greet=False) as client:
            client.send(HEADER)
            replies = [(await client.reply())[0]]
            if code == 500:
                replies.append((await client.reply())[0])
            assert replies[-1] == code
            await client.begin("v@postroom.test")
            client.send(trusted.encode() + b": x\r\n\r\n.\r\n")
            assert (await client.reply())[0] == 250
    assert [row["source"] for row in await admin.fetch("SELECT source FROM arrivals ORDER BY id")] == [
        *("127.0.0.1", "192.0.2.7")
    ]
