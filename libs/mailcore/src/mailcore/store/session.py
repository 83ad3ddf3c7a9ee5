"""The database as a process sees it: one pool, and for every transaction a role and, for a tenant, an organization.

The login inherits nothing (migrations, roles), so a statement outside these blocks is refused by Postgres:

    async with store.tenant(org_id) as db:    reads and writes of one organization, held by row-level security
    async with store.search(org_id) as db:    the same, for a statement that may take seconds
    async with store.door() as db:            inserts for any organization, reads none: submit and receive
    async with store.worker() as db:          claim and settle: the runners
    async with store.people() as db:          users, memberships, sessions of all; nothing else: who signs people in
    await store.lookup(sql, ...)              a lookup_* function, before the tenant is known
    await store.call(sql, ...)                a function that takes its role itself: a transaction in one round trip

Each block is one transaction and `db` a plain asyncpg connection: statements are hand-written SQL, kept in store/, a module an
aggregate (ADR 0003). Transaction-local settings only, so that PgBouncer's transaction mode will do.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import orjson

from mailcore.kit.errors import Exceeded, Unavailable
from mailcore.kit.metrics import DB_POOL_IN_USE
from mailcore.store import plans

Connection: TypeAlias = "asyncpg.Connection"

_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)


MAX_SEARCHES = 10
"""Of one organization in a process: one is made, the others wait."""


def is_lost(error: BaseException) -> bool:
    """Whether the database, not the statement, was the trouble: worth trying again later, as a whole."""
    return isinstance(error, _LOST)


class Store:
    def __init__(self, pool: asyncpg.Pool, *, wait_seconds: float = 10.0, searches: int = 3) -> None:
        """`wait_seconds`: the longest that a block waits for a connection of the pool; then it raises Unavailable.

        `searches`: how many connections they may have, of all organizations.
        """
        self._pool = pool
        self._wait_seconds = wait_seconds
        self._searches = asyncio.Semaphore(searches)
        self._searching: Counter[UUID] = Counter()
        self._turns: dict[UUID, asyncio.Lock] = {}

    @classmethod
    async def open(cls, url: str, *, pool_size: int = 6, connect_seconds: float = 5.0, name: str = "postroom") -> Store:
        """Connects lazily: the first block finds out whether the server is there.

        A server that never answers is known as such after `connect_seconds`; who waits in line behind others for a connection
        gives up after twice that.
        """
        pool = asyncpg.create_pool(
            url,
            min_size=0,
            max_size=pool_size,
            timeout=connect_seconds,
            command_timeout=60,
            max_inactive_connection_lifetime=300,
            init=set_codecs,
            reset=_check_idle,
            server_settings={"application_name": name},  # PgBouncer takes few others; the login has the rest (migrate)
        )
        await pool
        return cls(pool, wait_seconds=2 * connect_seconds, searches=max(1, pool_size // 2))

    async def close(self) -> None:
        await self._pool.close()

    def terminate(self) -> None:
        """At the end of a drain that took too long: cuts every connection."""
        self._pool.terminate()

    @asynccontextmanager
    async def tenant(self, org_id: UUID, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        """`snapshot`: all that is read is of one moment, for an answer that several statements put together; read only."""
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if snapshot else "BEGIN"
        # the id is a UUID, hence safe to stand in the statement: one round trip opens the transaction with its scope
        async with self._transaction(
            f"{begin}; SET LOCAL ROLE postroom_app; SET LOCAL app.org_id = '{UUID(int=org_id.int)}'"
        ) as db:
            yield db

    @asynccontextmanager
    async def search(self, org_id: UUID) -> AsyncIterator[Connection]:
        """As `tenant`, for what may take seconds: one an organization at a time, so that mail never waits for a connection behind
        somebody's searches. Raises Exceeded when MAX_SEARCHES of the organization are here already."""
        if self._searching[org_id] >= MAX_SEARCHES:
            raise Exceeded(
                "Too many searches at once. Wait for the answers of those under way.",
                name="rate_limit_exceeded",
                retry_after=5,
            )
        self._searching[org_id] += 1
        try:
            async with self._turns.setdefault(org_id, asyncio.Lock()), self._searches, self.tenant(org_id) as db:
                yield db
        finally:
            self._searching[org_id] -= 1
            if not self._searching[org_id]:
                del self._searching[org_id], self._turns[org_id]

    @asynccontextmanager
    async def door(self) -> AsyncIterator[Connection]:
        async with self._transaction("BEGIN; SET LOCAL ROLE postroom_door") as db:
            yield db

    @asynccontextmanager
    async def worker(self, *, durable: bool = True, by_index: bool = False) -> AsyncIterator[Connection]:
        """`durable=False` does not wait for the disk: only for what may be lost in a crash (`dot_sent`). `by_index`: as
        `plans.by_index`, with `plans.ONE_PLAN`, without a round trip of its own."""
        begin = "BEGIN; SET LOCAL ROLE postroom_worker"
        if not durable:
            begin += "; SET LOCAL synchronous_commit = off"
        if by_index:
            begin += f"; {plans.BY_INDEX}; {plans.ONE_PLAN}"
        async with self._transaction(begin) as db:
            yield db

    async def worker_script(self, script: str) -> int:
        """Statements as one transaction in one round trip, without waiting for the disk; the rows that the last one wrote.

        For what many wait for at a time (`dot_sent`). Values stand in the text: numbers, UUIDs, times and nothing that anybody
        outside may choose. By index (`plans`). Raises Unavailable.
        """
        async with self._connection() as connection:
            # several statements in one message are a transaction, so that SET LOCAL is of this one only
            status: str = await connection.execute(
                f"SET LOCAL ROLE postroom_worker; SET LOCAL synchronous_commit = off; {plans.BY_INDEX}; {script}"
            )
            return int(status.rpartition(" ")[2])

    async def call(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """Rows of a function that takes its role itself (`take_arrivals`), as a transaction in one round trip; it is on disk when
        this returns. For what many wait for at a time. Raises Unavailable."""
        async with self._connection() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(sql, *args)
            return rows

    @asynccontextmanager
    async def people(self) -> AsyncIterator[Connection]:
        async with self._transaction("BEGIN; SET LOCAL ROLE postroom_people") as db:
            yield db

    async def lookup(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """Rows of a lookup_* function. Read-only: any role may call them."""
        async with self._transaction("BEGIN READ ONLY; SET LOCAL ROLE postroom_app") as db:
            rows: list[asyncpg.Record] = await db.fetch(sql, *args)
            return rows

    async def check(self) -> None:
        """What readiness asks: the server answers, and has the schema. Raises Unavailable."""
        async with self._transaction("BEGIN READ ONLY; SET LOCAL ROLE postroom_app") as db:
            await db.fetchval("SELECT one FROM installation")

    @asynccontextmanager
    async def _transaction(self, begin: str) -> AsyncIterator[Connection]:
        async with self._connection() as connection:
            try:
                await connection.execute(begin)
                yield connection
            except BaseException:
                if not connection.is_closed():
                    await connection.execute("ROLLBACK")
                raise
            # of a transaction in which a statement failed, COMMIT makes a ROLLBACK without an error
            if await connection.execute("COMMIT") != "COMMIT":
                raise Unavailable("The transaction was rolled back. Try again.")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Raises Unavailable when the database cannot be reached or goes away; other errors of a statement pass as they are."""
        try:
            async with self._pool.acquire(timeout=self._wait_seconds) as connection:
                DB_POOL_IN_USE.inc()
                try:
                    yield connection
                finally:
                    DB_POOL_IN_USE.dec()
        except _LOST as error:
            raise Unavailable("The database cannot be reached just now. Try again in a moment.") from error


async def set_codecs(connection: asyncpg.Connection) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=_dump, decoder=orjson.loads, format="text")


def _dump(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)


async def _check_idle(connection: asyncpg.Connection) -> None:
    """Nothing outlives a transaction, so there is nothing to reset. One that is still open (cancelled twice) never returns."""
    if connection.is_in_transaction():
        connection.terminate()
