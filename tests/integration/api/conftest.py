"""The real application over real Postgres and Valkey, asked through ASGI."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from api.api_keys.routes import new_token
from api.main import start
from api.settings import Settings
from mailcore.kit.ids import uuid7

from .harness import MakeClient, MakeKey

MASTER_KEY = bytes(range(32)).hex()


@pytest.fixture
def api_settings(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, Any]:
    return {
        "encryption_key": MASTER_KEY,
        # a busy machine is neither a database nor a Redis that is away: where a test means that it says so
        "database": {"url": database_url, "connect_seconds": 60},
        "redis": {"url": redis_url, "timeout_seconds": 30},
        "blob": {"url": (tmp_path / "blobs").as_uri()},
        "rate_limit": {"requests_per_second": 0},
    }


@pytest.fixture
async def make_client(api_settings: dict[str, Any]) -> AsyncIterator[MakeClient]:
    """Starts an application of its own with some settings changed; `token` None sends no Authorization."""
    opened: list[Any] = []

    async def make(token: str | None = None, **changed: Any) -> httpx.AsyncClient:
        running = start(Settings(**{**api_settings, **changed}))
        parts = await running.__aenter__()
        opened.append((running, parts))
        assert parts.http is not None
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(parts.http.app),
            base_url="http://api.test",
            headers={} if token is None else {"authorization": f"Bearer {token}"},
        )
        opened.append(client)
        return client

    yield make
    for each in reversed(opened):
        if isinstance(each, httpx.AsyncClient):
            await each.aclose()
        else:
            running, parts = each
            for task in parts.tasks:
                task.close()
            await running.__aexit__(None, None, None)


@pytest.fixture
def make_key(admin: asyncpg.Connection) -> MakeKey:
    async def make(org_id: UUID, *, permission: str = "full_access", domain_id: UUID | None = None) -> str:
        token = new_token()
        await admin.execute(
            "INSERT INTO api_keys (id, org_id, name, token_hash, permission, domain_ids) VALUES ($1, $2, 'test', $3, $4, $5)",
            *(
                uuid7(),
                org_id,
                hashlib.sha256(token.encode()).digest(),
                permission,
                None if domain_id is None else [domain_id],
            ),
        )
        return token

    return make


@pytest.fixture
async def token(org: UUID, domain: UUID, make_key: MakeKey) -> str:
    """Of an organization with the verified domain postroom.test."""
    return await make_key(org)


@pytest.fixture
async def api(token: str, make_client: MakeClient) -> httpx.AsyncClient:
    return await make_client(token)
