"""What the outbound tests share: a tenant that submits, the service in this process, and waiting for what must come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.blob.base import BlobStore
from mailcore.flow.submit import NewAttachment, NewEmail, Submits
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.store.session import Store
from outbound.main import start
from outbound.memory import Memory
from outbound.paces import AS_SHIPPED, Paces
from outbound.settings import Settings

KEY = bytes(range(32)).hex()
"""The key of the keyring fixture."""


@dataclass
class Tenant:
    store: Store
    admin: asyncpg.Connection
    submits: Submits
    org_id: UUID
    domain: str = "postroom.test"

    async def send(self, *to: str, org_id: UUID | None = None, domain: str | None = None, **changes: Any) -> UUID:
        """One email to these recipients, through the door of sending."""
        return (await self.send_each([list(to)], org_id=org_id, domain=domain, **changes))[0]

    async def send_each(
        self, recipients: list[list[str]], *, org_id: UUID | None = None, domain: str | None = None, **changes: Any
    ) -> list[UUID]:
        name = domain or self.domain
        emails = [
            NewEmail(f"Us <us@{name}>", name, to, [parse_address(each) for each in to], **{**_LETTER, **changes})
            for to in recipients
        ]
        return (await self.submits.submit(org_id or self.org_id, emails, door="test")).ids

    async def delivery(self, email_id: UUID, n: int = 0) -> asyncpg.Record:
        row = await self.admin.fetchrow("SELECT * FROM deliveries WHERE email_id = $1 AND n = $2", email_id, n)
        assert row is not None
        return row

    async def attempts(self, email_id: UUID, n: int = 0) -> list[asyncpg.Record]:
        return list(
            await self.admin.fetch(
                "SELECT * FROM attempts WHERE email_id = $1 AND n = $2 ORDER BY attempt", email_id, n
            )
        )

    async def queued(self, email_id: UUID, n: int = 0) -> asyncpg.Record | None:
        return await self.admin.fetchrow("SELECT * FROM queue WHERE email_id = $1 AND n = $2", email_id, n)

    async def events(self, email_id: UUID) -> list[asyncpg.Record]:
        return list(await self.admin.fetch("SELECT * FROM events WHERE object_id = $1 ORDER BY id", email_id))

    async def state(self, email_id: UUID, state: str, n: int = 0, seconds: float = 100) -> asyncpg.Record:
        """Waits until the delivery has that state."""
        await until(lambda: self._has_state(email_id, n, state), f"delivery {state}", seconds)
        return await self.delivery(email_id, n)

    async def _has_state(self, email_id: UUID, n: int, state: str) -> bool:
        return bool((await self.delivery(email_id, n))["state"] == state)


_LETTER: dict[str, Any] = {"subject": "Hello", "html": "<p>Hello there</p>", "text": "Hello there"}


async def until(there: Callable[[], Awaitable[object]], what: str, seconds: float = 100) -> None:
    """Polls the database; fails with `what` when it does not come about in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await there():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.02)


def settings(database_url: str, redis_url: str, tmp: str, **outbound: Any) -> Settings:
    """Sweeps often, signs in threads; leases live long, a delay is told at once, and a name server, which shares this process, has
    time, unless a test says otherwise."""
    top = {
        name: outbound.pop(name) for name in ("providers", "queue", "dns", "network", "retention") if name in outbound
    }
    top["dns"] = {"timeout_seconds": 30, **top.get("dns", {})}
    return Settings(
        encryption_key=KEY,  # type: ignore[arg-type]
        database={"url": database_url},  # type: ignore[arg-type]
        redis={"url": redis_url},  # type: ignore[arg-type]
        blob={"url": f"file://{tmp}"},  # type: ignore[arg-type]
        outbound={"ehlo_name": "outbound.test", "delay_notice_seconds": 0, "signing_processes": 0, **outbound},  # type: ignore[arg-type]
        **{"queue": {"sweep_seconds": 0.2, "lease_seconds": 60}, **top},  # type: ignore[arg-type]
    )


@asynccontextmanager
async def running(
    given: Settings, paces: Paces = AS_SHIPPED, memory: Callable[[int], Memory] = Memory
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """The service's own composition root in this process, without signals and servers. Yields its drain."""
    async with start(given, paces, memory) as service:
        tasks = [asyncio.ensure_future(task) for task in service.tasks]
        try:
            yield service.drain
            await service.drain()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


__all__ = ["BlobStore", "NewAttachment", "Ringer", "Tenant", "datetime", "running", "settings", "until"]
