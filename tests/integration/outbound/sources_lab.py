"""What tests of sources share: addresses of loopback in a pool, and a process that places mail, with a clock that moves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, until
from mailcore.flow import sources as flow
from mailcore.kit.clock import FixedClock
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import contents as stored
from mailcore.store import deliveries, sources, workers
from mailcore.store.deliveries import Leased
from mailcore.store.session import Store
from mailcore.store.sites import Site
from mailcore.transport import Hop, TlsPolicy
from outbound.placement import Placed, Source
from outbound.routes import Way
from outbound.sources import Sources

DELIVERED = Outcome(Result.DELIVERED, Reply(250, "ok", "2.0.0"), dot_sent=True)
NEW, OLD = "127.0.0.2", "127.0.0.3"
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
Add = Callable[..., Awaitable[UUID]]


LONGEST = timedelta(seconds=30)
"""Of one of these tests."""


@pytest.fixture
async def pool(store: Store) -> UUID:
    """Caps are a day's: what would end on another day begins there."""
    midnight = (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    while timedelta() < midnight - datetime.now(UTC) < LONGEST:
        await asyncio.sleep(1)
    async with store.worker() as db:
        return await sources.add_pool(db, "all", [("", 0), ("", 1)], None)


@pytest.fixture
def add(store: Store, pool: UUID) -> Add:
    async def add(ip: str, *, cap: int | None = None, now: datetime | None = None, **values: Any) -> UUID:
        """A source of the pool: in warm-up with that cap on its first day, then three times as much; or warm."""
        schedule = values.pop("schedule", [cap or 1, 3 * (cap or 1)])
        of = {"pool_id": pool, "ipv4": ip, "ehlo_name": f"out{ip.rpartition('.')[2]}.test", **values}
        return await flow.add_source(store, of, schedule=schedule, warm=cap is None, now=now or datetime.now(UTC))

    return add


def senders(sink: SmtpServer) -> Counter[str]:
    """Mails by the address they came from."""
    return Counter(
        talk.peer[0] for talk in sink.talks for command in talk.commands if command.upper().startswith("RCPT")
    )


async def quiet(admin: asyncpg.Connection, waiting: int) -> None:
    """Nothing is leased or due any more, and so many rows wait for room."""
    await until(
        lambda: admin.fetchval(
            "SELECT count(*) = $1 AND count(*) FILTER (WHERE waits_for IS NULL) = 0 FROM queue", waiting
        ),
        f"{waiting} rows wait",
    )


class Desk:
    """A process that sends, without network: claims what is due, places it, and says what became of it."""

    def __init__(self, store: Store, clock: FixedClock, worker: int, lanes: list[int]) -> None:
        self.store = store
        self.sources = Sources(store, Source(), clock=clock, host="desk")
        self.worker = worker
        self.lanes = lanes
        site = Site(1, "mx:mx.test", 20, None, 0)
        self.way = Way(site, "", (Hop("mx.test", ("127.0.0.1",)),), TlsPolicy.NONE, False)

    async def claim(self, most: int = 1000) -> list[Leased]:
        async with self.store.worker() as db:
            return await deliveries.claim(db, self.lanes, self.worker, limit=most, quantum=most, schedule=[60.0])

    async def place(self, rows: list[Leased], *, broadcast: bool = False) -> Placed:
        async with self.store.worker() as db:
            contents = await stored.contents(db, {row.email_id for row in rows})
        work = [(contents[row.email_id], int(broadcast), [row]) for row in rows]
        return await self.sources.place(self.way, work)

    async def send(self, *, broadcast: bool = False, outcome: Outcome = DELIVERED) -> Counter[str]:
        """All that is due; where it was sent from. `waits` and `silent` are not sent, and stay."""
        rows = await self.claim()
        placed = await self.place(rows, broadcast=broadcast)
        for placement in placed.placements.values():
            self.sources.done(placement, outcome)
        sent = [row for row in rows if row.key in placed.placements]
        async with self.store.worker() as db:
            await db.execute("DELETE FROM queue WHERE email_id = ANY ($1::uuid[])", [row.email_id for row in sent])
        found = Counter(placement.source.ip4 or "own" for placement in placed.placements.values())
        return found + Counter({"waits": len(placed.waiting)})


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOON)


@pytest.fixture
async def desk(store: Store, admin: asyncpg.Connection, tenant: Tenant, clock: FixedClock) -> Desk:
    async with store.worker() as db:
        worker = await workers.register(db, "outbound", "desk", 1)
    await tenant.send("lane@example.com")
    await tenant.send("lane@example.com", broadcast=True)
    await admin.execute("DELETE FROM queue")
    lanes = [row["id"] for row in await admin.fetch("SELECT id FROM lanes")]
    return Desk(store, clock, worker, lanes)
