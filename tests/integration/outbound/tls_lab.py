"""Where mail hosts, their DNS and their policies ask for TLS: DANE in a signed zone, an MTA-STS policy host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from fakes.authority import Authority, Server
from fakes.dns_server import DnsServer
from fakes.https_server import HttpsServer
from fakes.smtp_server import SmtpServer
from fakes.validating_resolver import Records, ValidatingResolver, Zone
from integration.outbound.harness import Tenant, until

LOOPBACK = {"allow": {"mx": ["127.0.0.0/8"]}}
Outbound = Callable[..., AbstractAsyncContextManager[Any]]


def by_mx(address: str, peer: SmtpServer, **changes: Any) -> dict[str, Any]:
    dns = {"nameservers": [address]}
    return {"route": "mx", "mx_port": peer.port, "dns": dns, "network": LOOPBACK, **changes}


@asynccontextmanager
async def signed(
    folder: Path, peer: SmtpServer, record: str | None, spoiled: str | None = None, *, secure: bool = True
) -> AsyncIterator[ValidatingResolver]:
    """dane.example with its mail host in one zone, and the TLSA record of the peer's port."""
    name = f"_{peer.port}._tcp.mx.dane.example"
    records: dict[str, dict[str, list[str]]] = {
        "dane.example": {"MX": ["10 mx.dane.example."]},
        "mx.dane.example": {"A": ["127.0.0.1"]},
    }
    if record:
        records[name] = {"TLSA": [record]}
    changed: Records = {name: {"TLSA": [spoiled]}} if spoiled else {}
    async with ValidatingResolver(folder, [Zone("dane.example", records, secure, changed)]) as server:
        yield server


async def attempt_of(tenant: Tenant, domain: str) -> asyncpg.Record:
    email_id = await tenant.send(f"a@{domain}")
    await until(lambda: tenant.attempts(email_id), "an attempt")
    return (await tenant.attempts(email_id))[0]


@dataclass
class Sts:
    """sts.example: its zone, its policy host, and how outbound is set up to find them."""

    zones: dict[str, dict[str, list[str]]]
    host: HttpsServer
    ca_file: str
    dns: DnsServer = field(init=False)

    def policy(self, mode: str, mx: str = "mx.sts.example", id_: str = "1", max_age: int = 86400) -> None:
        text = f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: {max_age}\n"
        self.host.pages["/.well-known/mta-sts.txt"] = (200, "text/plain", text.encode())
        self.zones["_mta-sts.sts.example"] = {"TXT": [f"v=STSv1; id={id_}"]}

    def settings(self, peer: SmtpServer) -> dict[str, Any]:
        return by_mx(self.dns.address, peer, mta_sts_port=self.host.port, ca_file=self.ca_file)


def good(authority: Authority) -> Server:
    return authority.server("mx.sts.example")
