"""The MX of a test: the real session class on a real socket, in this process, and a client that sends exactly what it is told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inbound_smtp.connections import Connections
from inbound_smtp.main import make_mx
from inbound_smtp.mx import Mx, MxSession
from inbound_smtp.recipients import Recipients
from inbound_smtp.settings import Smtp
from mailcore.flow.receive import Receives


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def reply(self) -> tuple[int, str]:
        """One reply: its code, and its lines without code joined by newlines."""
        lines = []
        while True:
            line = await asyncio.wait_for(self.reader.readuntil(b"\r\n"), 60)
            lines.append(line[4:-2].decode())
            if line[3:4] == b" ":
                return int(line[:3]), "\n".join(lines)

    def send(self, octets: bytes) -> None:
        self.writer.write(octets)

    async def ask(self, line: str | bytes) -> tuple[int, str]:
        self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return await self.reply()

    async def begin(self, *recipients: str, sender: str = "a@sender.example") -> None:
        """EHLO, MAIL, RCPT …, DATA, all accepted."""
        for line in ("EHLO client.example", f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{to}>" for to in recipients)):
            code, text = await self.ask(line)
            assert code == 250, text
        assert (await self.ask("DATA"))[0] == 354

    async def ends(self) -> bytes:
        """What still comes until the server closes."""
        return await asyncio.wait_for(self.reader.read(), 60)

    async def start_tls(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        await self.writer.start_tls(context)


class Server:
    def __init__(self, mx: Mx, port: int) -> None:
        self.mx = mx
        self.port = port

    def limit(self, **limits: Any) -> None:
        self.mx.limits = replace(self.mx.limits, **limits)

    def allow_connections(self, *, total: int = 1000, per_ip: int = 50) -> None:
        self.mx.connections = Connections(total=total, per_ip=per_ip)

    @asynccontextmanager
    async def client(self, *, greet: bool = True) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        client = Client(reader, writer)
        try:
            if greet:
                code, _ = await client.reply()
                assert code == 220
            yield client
        finally:
            writer.transport.abort()

    async def deliver(self, message: bytes, *recipients: str, sender: str = "a@sender.example") -> tuple[int, str]:
        """Stuffed, in one transaction of its own; the reply to the dot."""
        async with self.client() as client:
            await client.begin(*recipients, sender=sender)
            client.send(stuffed(message) + b".\r\n")
            return await client.reply()


def stuffed(message: bytes) -> bytes:
    """RFC 5321 §4.5.2."""
    return (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:]


@asynccontextmanager
async def serving(recipients: Recipients, receives: Receives, **smtp: Any) -> AsyncIterator[Server]:
    mx = make_mx(Smtp(hostname="mx.postroom.test", **smtp), recipients, receives)
    server = await asyncio.get_running_loop().create_server(lambda: MxSession(mx), "127.0.0.1", 0)
    try:
        yield Server(mx, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await mx.drain()
        await receives.drain()


def certificate(folder: Path) -> dict[str, str]:
    """`tls_cert` and `tls_key`: self-signed, for mx.postroom.test."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx.postroom.test")])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {"tls_cert": str(folder / "cert.pem"), "tls_key": str(folder / "key.pem")}
