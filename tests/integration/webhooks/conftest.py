from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from api.main import start
from api.settings import Settings as ApiSettings
from integration.webhooks.harness import KEY, TOKEN, MakeSettings, Receiver, Run, Tenant, add_key, running
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
def make_settings(database_url: str, redis_url: str, tmp_path: Path) -> MakeSettings:
    def make(
        *,
        allow: tuple[str, ...] = ("127.0.0.0/8",),
        sweep_seconds: float = 0.5,
        lease_seconds: float = 60,  # a machine that stands still takes no lease away
        redis: str = redis_url,
        **webhooks: Any,
    ) -> Settings:
        return Settings(  # type: ignore[call-arg]
            encryption_key=KEY,
            database={"url": database_url, "connect_seconds": 60},
            redis={"url": redis},
            blob={"url": (tmp_path / "blobs").as_uri()},
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


@pytest.fixture
async def client(
    admin: asyncpg.Connection, org: UUID, database_url: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """The whole application, asked through ASGI with a key of `org`."""
    await add_key(admin, org, TOKEN)
    settings = ApiSettings(  # type: ignore[call-arg]
        encryption_key=KEY,
        database={"url": database_url, "connect_seconds": 60},
        redis={"url": redis_url},
        blob={"url": (tmp_path / "blobs").as_uri()},
        network={"allow": {"webhooks": ["127.0.0.0/8"]}},
        rate_limit={"requests_per_second": 0},
    )
    async with start(settings) as running:
        assert running.http is not None
        tasks = [asyncio.ensure_future(task) for task in running.tasks]
        transport = httpx.ASGITransport(app=running.http.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://api", headers={"authorization": f"Bearer {TOKEN}"}
        ) as client:
            yield client
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
