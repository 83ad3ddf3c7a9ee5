"""A running webhooks service, endpoints to post to, events to post."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from mailcore import events
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import WEBHOOKS
from mailcore.store import events as event_rows
from mailcore.store import webhooks
from mailcore.store.events import NewEvent
from mailcore.store.session import Store
from webhooks.main import start
from webhooks.settings import Settings

TOKEN = "re_c1tpEyD8_NKFusih9vKVQknRAQfmFcWCv"
KEY = bytes(range(32)).hex()  # tests/integration/conftest.py, MASTER_KEY


@dataclass
class Post:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """An HTTP server on loopback that remembers every post and answers by path."""

    port: int = 0
    connections: int = 0
    posts: list[Post] = field(default_factory=list)
    answers: dict[str, list[int]] = field(default_factory=dict)
    """Path → statuses in turn; the last one stays. 0 never answers, -1 closes. 200 where there is nothing."""
    judge: Callable[[Post], int] | None = None
    """Instead of `answers`: the status for a post."""
    said: dict[str, dict[str, str]] = field(default_factory=dict)
    """Path → header fields of its answers."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Once set, posts that were never to be answered are."""
    body: bytes = b"ok"
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def at(self, path: str) -> list[Post]:
        return [post for post in self.posts if post.path == path]

    async def until(self, there: Callable[[], bool], seconds: float = 100) -> None:
        async with self._changed, asyncio.timeout(seconds):
            await self._changed.wait_for(there)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
                }
                path = head[0].split(" ")[1]
                post = Post(path, headers, await reader.readexactly(int(headers.get("content-length", "0"))))
                async with self._changed:
                    self.posts.append(post)
                    self._changed.notify_all()
                statuses = [self.judge(post)] if self.judge else self.answers.get(path, [200])
                status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
                if not status:
                    await self.released.wait()
                    status = 200
                if status < 0:  # closes without a word
                    return
                extra = f"Location: {self.url('/elsewhere')}\r\n" if 300 <= status < 400 else ""
                extra += "".join(f"{name}: {value}\r\n" for name, value in self.said.get(path, {}).items())
                writer.write(
                    f"HTTP/1.1 {status} X\r\n{extra}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


MakeSettings = Callable[..., Settings]


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """The service's own composition root in this process, without signals and servers. Yields its drain."""
    async with start(settings) as service:
        tasks = [asyncio.ensure_future(task) for task in service.tasks]
        try:
            yield service.drain
            await service.drain()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


Run = Callable[..., AbstractAsyncContextManager[Callable[[], Awaitable[None]]]]


@dataclass
class Tenant:
    """An organization with its endpoints and events."""

    store: Store
    admin: asyncpg.Connection
    keyring: Keyring
    ringer: Ringer
    org_id: UUID
    secrets: dict[UUID, bytes] = field(default_factory=dict)

    async def endpoint(self, url: str, *types: str, **more: bool) -> UUID:
        webhook_id, secret = uuid7(), events.new_secret()
        self.secrets[webhook_id] = secret
        async with self.store.tenant(self.org_id) as db:
            await webhooks.add(
                db,
                webhook_id=webhook_id,
                org_id=self.org_id,
                endpoint=url,
                events=types or ("email.delivered",),
                secret_sealed=self.keyring.seal(secret, "webhook"),
                **more,
            )
        return webhook_id

    async def email(self) -> UUID:
        email_id = uuid7()
        await self.admin.execute(
            "INSERT INTO emails (id, org_id, domain_id, from_, to_, subject, tags, message_id, created_at) "
            "VALUES ($1, $2, $3, 'Acme <a@postroom.test>', '{d@y.test,e@y.test}', 'Hello', $4, '<1@postroom.test>', now())",
            email_id,
            self.org_id,
            uuid7(),
            [{"name": "category", "value": "confirm"}],
        )
        return email_id

    async def raise_events(self, count: int = 1, type_: str = "email.delivered", **changes: Any) -> list[UUID]:
        """Raises events as the doors do, and rings."""
        object_id = changes.pop("object_id", None) or await self.email()
        new = [
            NewEvent(
                uuid7(),
                self.org_id,
                type_,
                object_id,
                datetime.now(UTC),
                changes.get("recipients", ["d@y.test"]),
                changes.get("detail"),
            )
            for _ in range(count)
        ]
        async with self.store.worker() as db:
            await event_rows.insert(db, new)
        self.ring()
        return [event.id for event in new]

    async def states(self) -> dict[str, int]:
        rows = await self.admin.fetch("SELECT state, count(*) AS n FROM webhook_deliveries GROUP BY state")
        return {row["state"]: row["n"] for row in rows}

    def ring(self) -> None:
        self.ringer.ring(WEBHOOKS)

    async def until(self, there: Callable[[], Awaitable[Any]], seconds: float = 100) -> None:
        async with asyncio.timeout(seconds):
            while not await there():
                await asyncio.sleep(0.02)

    async def until_state(self, state: str, seconds: float = 100) -> None:
        """Some event is in that state, and nothing is in hand."""
        sql = (
            "SELECT EXISTS (SELECT FROM webhook_deliveries WHERE state = $1) "
            "AND NOT EXISTS (SELECT FROM webhook_queue WHERE worker IS NOT NULL)"
        )
        await self.until(lambda: self.admin.fetchval(sql, state), seconds)

    async def until_empty(self, seconds: float = 100) -> None:
        """Nothing waits and nothing is in hand any more."""
        async with asyncio.timeout(seconds):
            while await self.admin.fetchval("SELECT count(*) FROM webhook_queue"):
                await asyncio.sleep(0.02)


async def add_key(admin: asyncpg.Connection, org_id: UUID, token: str, permission: str = "full_access") -> None:
    await admin.execute(
        "INSERT INTO api_keys (id, org_id, name, token_hash, permission) VALUES ($1, $2, 'test', $3, $4)",
        uuid7(),
        org_id,
        hashlib.sha256(token.encode()).digest(),
        permission,
    )


def refused(answer: httpx.Response, status: int = 422) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert set(body) == {"statusCode", "name", "message"}
    assert body["statusCode"] == status
    return body
