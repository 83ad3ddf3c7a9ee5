from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, running, settings
from mailcore.blob.local import LocalBlobs
from mailcore.flow.submit import Submits
from mailcore.queue.bell import Ringer
from mailcore.store.session import Store


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

    def run(sink: SmtpServer | None = None, **changes: Any) -> AbstractAsyncContextManager[Any]:
        if sink is not None:
            changes = {"route": "catch", "catch_host": f"127.0.0.1:{sink.port}", **changes}
        return running(settings(database_url, redis_url, str(tmp_path / "blobs"), **changes))

    return run
