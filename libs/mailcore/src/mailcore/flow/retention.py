"""History is kept for as long as the operator says, and for ever when he says nothing: months of it are dropped as a whole.

sent        emails with their contents, deliveries, attempts, opens and clicks; their blobs are deleted afterwards
events      events, and what was delivered of them to webhooks
webhooks    deliveries and attempts of webhooks

1. the blobs of the month's mail are noted, a batch a transaction
2. the month is dropped, in a transaction that waits for nobody's lock: while the month is being read, by a backup for one, it
   stays until the next hour. So it does for as long as one of its mails or webhooks waits to leave
3. blobs of months that are gone are deleted, and then forgotten: a crash deletes some of them twice

Safe to run twice and at the same time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import asyncpg

from mailcore.blob.base import BlobStore
from mailcore.kit.log import logger
from mailcore.kit.metrics import RETENTION_BLOBS, RETENTION_MONTHS
from mailcore.store import retention
from mailcore.store.retention import Kind
from mailcore.store.session import Store

log = logger(__name__)

TRIES = 5
TRY_SECONDS = 0.5
"""Between two tries for the locks of a month."""
BLOBS = 200
"""Deleted at a time."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Days, for the whole installation; 0: for ever."""

    sent: int = 0
    events: int = 0
    webhooks: int = 0

    def kinds(self) -> list[tuple[Kind, int]]:
        """In this order: what tells of something goes before it."""
        told: list[tuple[Kind, int]] = [("webhooks", self.webhooks), ("events", self.events), ("sent", self.sent)]
        return [(kind, days) for kind, days in told if days > 0]


FOREVER = Kept()


@dataclass(frozen=True, slots=True)
class Dropped:
    months: int
    blobs: int


async def drop_old(store: Store, blobs: BlobStore, kept: Kept) -> Dropped:
    """By the database's clock. Raises Unavailable; what was done by then stays done."""
    async with store.worker() as db:
        now: datetime = await db.fetchval("SELECT now()")
    months = 0
    for kind, days in kept.kinds():
        async with store.worker() as db:
            old = await retention.months(db, kind, now - timedelta(days=days))
        for month in old:
            months += await _drop(store, kind, month)
    return Dropped(months, await _delete_blobs(store, blobs))


async def _drop(store: Store, kind: Kind, month: date) -> bool:
    async with store.worker() as db:
        if await retention.waits(db, kind, month):
            return False
    if kind == "sent":
        last = None
        while True:
            async with store.worker() as db:
                last = await retention.note_blobs(db, month, last)
            if last is None:
                break
    for _ in range(TRIES):
        try:
            async with store.worker() as db:
                tables = await retention.drop(db, kind, month)
                if await retention.waits(db, kind, month):  # since we looked; nobody can come any more
                    raise _Waits
        except _Waits:
            return False
        except asyncpg.LockNotAvailableError:
            await asyncio.sleep(TRY_SECONDS)
            continue
        if tables:
            RETENTION_MONTHS.labels(kind).inc()
            log.info("a month of history was dropped", kind=kind, month=f"{month:%Y-%m}", tables=tables)
        return bool(tables)
    log.info("a month of history stays until it is not being read", kind=kind, month=f"{month:%Y-%m}")
    return False


class _Waits(Exception):
    """Something of the month has yet to leave: nothing is dropped."""


async def _delete_blobs(store: Store, blobs: BlobStore) -> int:
    total = 0
    async with store.worker() as db:
        months = await retention.gone(db)
    while True:
        async with store.worker() as db:
            keys = await retention.blobs(db, months, BLOBS) if months else []
        for key in keys:
            await blobs.delete(key)
        if not keys:
            return total
        async with store.worker() as db:
            await retention.deleted(db, keys)
        RETENTION_BLOBS.inc(len(keys))
        total += len(keys)
