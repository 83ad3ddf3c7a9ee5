from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.authority import Authority
from fakes.dns_server import DnsServer
from fakes.https_server import HttpsServer
from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, running, settings
from integration.outbound.tls_lab import Sts
from mailcore.blob.local import LocalBlobs
from mailcore.flow.submit import Submits
from mailcore.queue.bell import Ringer
from mailcore.store.session import Store
from outbound.memory import Memory
from outbound.paces import AS_SHIPPED, Paces


@pytest.fixture
async def tenant(
    store: Store, admin: asyncpg.Connection, ringer: Ringer, org: UUID, domain: UUID, tmp_path: Path
) -> AsyncIterator[Tenant]:
    submits = Submits(store, ringer, LocalBlobs(tmp_path / "blobs"))
    yield Tenant(store, admin, submits, org)
    await submits.drain()


@pytest.fixture
async def sink() -> AsyncIterator[SmtpServer]:
    async with SmtpServer() as server:
        yield server


@pytest.fixture
def outbound(database_url: str, redis_url: str, tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Any]]:
    """`outbound(sink)` runs the service with everything going to that server; settings of the group by name."""

    def run(
        sink: SmtpServer | None = None,
        paces: Paces = AS_SHIPPED,
        memory: Callable[[int], Memory] = Memory,
        **changes: Any,
    ) -> AbstractAsyncContextManager[Any]:
        if sink is not None:
            changes = {"route": "catch", "catch_host": f"127.0.0.1:{sink.port}", **changes}
        return running(settings(database_url, redis_url, str(tmp_path / "blobs"), **changes), paces, memory)

    return run


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.pem)
    return str(path)


@pytest.fixture
async def sts(authority: Authority, ca_file: str) -> AsyncIterator[Sts]:
    zones: dict[str, dict[str, list[str]]] = {
        "sts.example": {"MX": ["10 mx.sts.example."]},
        "mx.sts.example": {"A": ["127.0.0.1"]},
        "mta-sts.sts.example": {"A": ["127.0.0.1"]},
        "_smtp._tls.sts.example": {"TXT": ["v=TLSRPTv1; rua=mailto:reports@sts.example"]},
    }
    async with HttpsServer(authority.server("mta-sts.sts.example").context) as host:
        made = Sts(zones, host, ca_file)
        async with DnsServer(zones, ttl=0) as made.dns:
            yield made
