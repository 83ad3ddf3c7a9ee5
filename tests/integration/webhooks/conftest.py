from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from integration.webhooks.harness import KEY, MakeSettings, Receiver, Run, Tenant, running
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.store.session import Store
from webhooks.settings import Settings


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "0.0.0.0", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    yield receiver
    receiver.released.set()
    server.close()


@pytest.fixture
def make_settings(database_url: str, redis_url: str) -> MakeSettings:
    def make(
        *,
        allow: tuple[str, ...] = ("127.0.0.0/8",),
        sweep_seconds: float = 0.5,
        lease_seconds: float = 5,
        redis: str = redis_url,
        **webhooks: Any,
    ) -> Settings:
        return Settings(  # type: ignore[call-arg]
            encryption_key=KEY,
            database={"url": database_url},
            redis={"url": redis},
            network={"allow": {"webhooks": list(allow)}},
            queue={"sweep_seconds": sweep_seconds, "lease_seconds": lease_seconds},
            webhooks=webhooks,
        )

    return make


@pytest.fixture
def run(make_settings: MakeSettings) -> Run:
    def run(**changes: Any) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        return running(make_settings(**changes))

    return run


@pytest.fixture
async def tenant(store: Store, admin: asyncpg.Connection, keyring: Keyring, ringer: Ringer, org: UUID) -> Tenant:
    return Tenant(store, admin, keyring, ringer, org)
