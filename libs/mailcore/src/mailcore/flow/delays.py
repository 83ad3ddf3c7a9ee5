"""Mail that has waited for long is told of, once: by settle where it is attempted, here where it is not, as its site rests, it is
held, its domain is paused or its pool cannot send it. Broadcasts that wait for room are not told of.

`email.delivery_delayed` is raised when a mail has waited for the notice's time (reliability.md §3: 4 h), attempted or
not, and who handed it in by SMTP is owed a report where he asked for one. That it was told stands in the delivery's last event.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mailcore.events import delayed
from mailcore.kit.ids import lower_bound, uuid7
from mailcore.store import delays, events, owed
from mailcore.store.events import NewEvent
from mailcore.store.owed import NewOwed
from mailcore.store.session import Store

RECENT = timedelta(minutes=15)
"""How far a quick look goes back behind those that have just come of age; a thorough one takes all that wait."""


async def tell(store: Store, notice_seconds: float, *, thorough: bool) -> tuple[int, int]:
    """By the database's clock. Returns `(told, webhook deliveries queued)`. Raises Unavailable."""
    async with store.worker() as db:
        clock: datetime = await db.fetchval("SELECT now()")
    before = clock - timedelta(seconds=notice_seconds)
    start = None if thorough else lower_bound(before - RECENT)
    told = queued = 0
    while True:
        async with store.worker() as db:
            batch = await delays.late(db, start, lower_bound(before), before)
            if batch.told:
                await owed.owe(db, [NewOwed(row.email_id, row.n, "delayed") for row in batch.told])
            now = datetime.now(UTC)
            queued += await events.insert(
                db,
                [
                    NewEvent(
                        uuid7(),
                        row.org_id,
                        "email.delivery_delayed",
                        row.email_id,
                        now,
                        [row.recipient],
                        delayed(row.why),
                    )
                    for row in batch.told
                ],
            )
        told += len(batch.told)
        if batch.last is None:
            return told, queued
        start = batch.last
