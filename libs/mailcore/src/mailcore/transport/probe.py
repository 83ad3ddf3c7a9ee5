"""A look at a server: does its port answer, does it greet, with which certificate does it do TLS? No mail is sent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

MAX_LINE = 4096
MAX_LINES = 100


@dataclass(frozen=True, slots=True)
class Certificate:
    names: tuple[str, ...]
    """DNS names that it is for, in lower case."""
    expires_at: datetime
    issuer: str
    self_signed: bool

    def covers(self, host: str) -> bool:
        """RFC 6125 §6.4: exactly, or by a `*` that stands for the first label."""
        host = host.lower()
        return any(
            name == host or (name.startswith("*.") and host.partition(".")[2] == name[2:]) for name in self.names
        )


@dataclass(frozen=True, slots=True)
class Probe:
    error: str = ""
    """Why there is no greeting; empty: there is one."""
    greeting: str = ""
    """The first line of it."""
    starttls: bool = False
    certificate: Certificate | None = None


async def probe(
    ip: str, port: int, host: str, *, helo: str, seconds: float, source_ip: str | None = None, tls: bool = True
) -> Probe:
    """`host` is the name whose certificate is asked for. Raises nothing of its own."""
    found = Probe()
    try:
        async with asyncio.timeout(seconds):
            found = await _talk(ip, port, host, helo, source_ip, tls=tls)
    except TimeoutError:
        return Probe(f"no answer from {ip}:{port} within {seconds:.0f} s")
    except OSError as error:
        return Probe(f"{ip}:{port} cannot be reached ({_words(error)})")
    return found


async def probe_tls(ip: str, port: int, host: str, *, seconds: float) -> Probe:
    """TLS from the first octet (HTTPS): only the certificate is looked at. Raises nothing of its own."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(ip, port, ssl=_unverified(), server_hostname=host)
            try:
                return Probe(certificate=_presented(writer))
            finally:
                writer.close()
    except TimeoutError:
        return Probe(f"no answer from {ip}:{port} within {seconds:.0f} s")
    except OSError as error:  # of TLS too
        return Probe(f"{ip}:{port} cannot be reached ({_words(error)})")


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) or not error.errno:
        return error.strerror or type(error).__name__
    return os.strerror(error.errno)  # asyncio puts words of its own in the place of the system's


async def _talk(ip: str, port: int, host: str, helo: str, source_ip: str | None, *, tls: bool) -> Probe:
    local = (source_ip, 0) if source_ip else None
    reader, writer = await asyncio.open_connection(ip, port, local_addr=local, limit=MAX_LINE)
    try:
        code, lines = await _reply(reader)
        if code != 220:
            return Probe(f"{ip}:{port} greets with `{(lines or [''])[0][:200]}`")
        greeting = lines[0][:200]
        code, lines = await _ask(reader, writer, f"EHLO {helo}")
        offered = code == 250 and any(line[4:].strip().upper() == "STARTTLS" for line in lines)
        certificate = None
        if offered and tls:
            code, _ = await _ask(reader, writer, "STARTTLS")
            if code == 220:
                certificate = await _certificate(writer, host)
        with contextlib.suppress(OSError):
            writer.write(b"QUIT\r\n")
        return Probe(greeting=greeting, starttls=offered, certificate=certificate)
    finally:
        writer.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: str) -> tuple[int, list[str]]:
    writer.write(command.encode("ascii", "replace") + b"\r\n")
    await writer.drain()
    return await _reply(reader)


async def _reply(reader: asyncio.StreamReader) -> tuple[int, list[str]]:
    """RFC 5321 §4.2.1. Code 0 when the peer says nothing that is one."""
    lines: list[str] = []
    while len(lines) < MAX_LINES:
        try:
            line = (await reader.readline()).decode("utf-8", "replace").rstrip("\r\n")
        except ValueError:  # longer than MAX_LINE
            break
        if not line:
            break
        lines.append(line)
        if line[3:4] != "-":
            return (int(line[:3]) if line[:3].isascii() and line[:3].isdigit() else 0), lines
    return 0, lines


async def _certificate(writer: asyncio.StreamWriter, host: str) -> Certificate | None:
    await writer.start_tls(_unverified(), server_hostname=host)
    return _presented(writer)


def _unverified() -> ssl.SSLContext:
    """Whatever certificate there is: whether it is any good is the caller's question."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _presented(writer: asyncio.StreamWriter) -> Certificate | None:
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    octets = tls.getpeercert(binary_form=True) if tls else None
    return None if octets is None else read_certificate(octets)


def read_certificate(octets: bytes) -> Certificate | None:
    try:
        certificate = x509.load_der_x509_certificate(octets)
    except ValueError:
        return None
    names: list[str] = []
    with contextlib.suppress(x509.ExtensionNotFound):
        alternative = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        if isinstance(alternative, x509.SubjectAlternativeName):
            names = [name.lower() for name in alternative.get_values_for_type(x509.DNSName)]
    if not names:
        names = [str(each.value).lower() for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return Certificate(
        tuple(names),
        certificate.not_valid_after_utc.astimezone(UTC),
        certificate.issuer.rfc4514_string()[:200],
        self_signed=certificate.issuer == certificate.subject,
    )
