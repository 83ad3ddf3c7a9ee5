"""What the transport tests share: mails, quick timeouts, a run that gives every mail's outcome."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from fakes.smtp_server import SmtpServer
from mailcore.smtp.outcome import Outcome
from mailcore.transport import Destination, Hop, Mail, MailQueue, Pool, Timeouts, TlsPolicy

PATIENT = Timeouts(gate_age=60, patience=60, quit=20)
"""RFC's own; what a test needs short it replaces."""
CONTENT = b"Subject: hello\r\n\r\nBody.\r\n"


def mail(name: str = "bob", content: bytes = CONTENT) -> Mail:
    return Mail(f"bounce+{name}@ours.test", f"{name}@peer.test", content, key=name)


def hop(server: SmtpServer, host: str = "mx.test") -> Hop:
    return Hop(host, ("127.0.0.1",), server.port)


def to(*servers: SmtpServer, **changes: Any) -> Destination:
    hops = tuple(hop(server, f"mx{n}.test") for n, server in enumerate(servers))
    return replace(Destination("peer.test", hops, tls=TlsPolicy.NONE), **changes)


async def yes(_: Mail) -> bool:
    return True


@dataclass
class Run:
    outcomes: dict[str, Outcome]
    order: list[str]
    asked: list[str]
    """Mails for which leave was asked."""

    def __getitem__(self, name: str) -> Outcome:
        return self.outcomes[name]


async def deliver(
    destination: Destination,
    mails: Sequence[Mail],
    *,
    pool: Pool | None = None,
    timeouts: Timeouts = PATIENT,
    connections: int = 1,
    before_dot: Callable[[Mail], Awaitable[bool]] = yes,
    **pool_options: Any,
) -> Run:
    """Every mail has exactly one outcome, or this fails."""
    run = Run({}, [], [])

    def on_outcome(of: Mail, outcome: Outcome) -> None:
        assert of.key not in run.outcomes, f"two outcomes for {of.key}"
        run.outcomes[str(of.key)] = outcome
        run.order.append(str(of.key))

    def ask(of: Mail) -> Awaitable[bool]:
        run.asked.append(str(of.key))
        return before_dot(of)

    own = pool or Pool("ours.test", timeouts=timeouts, **pool_options)
    try:
        async with asyncio.timeout(90):
            await own.deliver(
                destination,
                MailQueue(list(mails), closed=True),
                connections=connections,
                before_dot=ask,
                on_outcome=on_outcome,
            )
    finally:
        if pool is None:
            await own.close()
            assert own.open_connections() == 0
    assert sorted(run.outcomes) == sorted(str(m.key) for m in mails)
    return run


async def until(condition: Callable[[], object], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@cache
def certificate(
    host: str = "mx0.test", *, rsa_bits: int = 0, ciphers: str = "", most: ssl.TLSVersion | None = None
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for `host`, and a client's that trusts it.

    `rsa_bits` 0: of an elliptic curve. `ciphers` and `most`: all that the server can, as old as OpenSSL has it.
    """
    with TemporaryDirectory() as folder:
        pem = certificate_file(host, Path(folder), rsa_bits=rsa_bits)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if ciphers:
            server.set_ciphers(ciphers)
        if most:
            server.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                server.maximum_version = most
        server.load_cert_chain(pem)
        return server, ssl.create_default_context(cafile=str(pem))


def certificate_file(host: str, folder: Path, *, rsa_bits: int = 0) -> Path:
    """The same certificate and its key, in one PEM file of that folder."""
    pem = folder / f"{host}.pem"
    pem.write_bytes(_pem(host, rsa_bits))
    pem.chmod(0o600)
    return pem


@cache
def _pem(host: str, rsa_bits: int) -> bytes:
    key: Any = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + signed.public_bytes(serialization.Encoding.PEM)
