"""Mail that may not leave now waits: it loses no attempt, says why, and is due as soon as that is over.

1. `put_off`   leased rows that were not begun wait: for room (flow.warmup calls them), or for the end of their domain's pause
2. `release`   what waits for something that is over is due

How long mail waits for room at most: settle.expire. While its domain is paused it waits as held mail does, without an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from mailcore.kit.log import logger
from mailcore.store import waiting
from mailcore.store.deliveries import Leased
from mailcore.store.session import Store
from mailcore.store.waiting import PAUSED_TURN, Wait

log = logger(__name__)

WAIT_SECONDS = 24 * 3600.0
"""Mail that waits is looked at again by itself after a day; it is called earlier."""
BATCH = 2_000


def a_day(row: Leased) -> float:
    """WAIT_SECONDS, not all in one moment."""
    return WAIT_SECONDS * (0.9 + 0.2 * (row.email_id.int % 1009) / 1009)


async def put_off(store: Store, waits: Sequence[Wait]) -> None:
    """Raises Unavailable."""
    async with store.worker() as db:
        await waiting.put_off(db, waits)


async def until_resumed(store: Store, rows: Sequence[tuple[Leased, UUID]]) -> None:
    """Leased rows, each with its paused domain. Raises Unavailable."""
    await put_off(store, [Wait(row, domain_id, PAUSED_TURN, a_day(row)) for row, domain_id in rows])


async def release(store: Store) -> int:
    """Returns how many rows are due now. Several processes may do this at the same time, and again. Raises Unavailable."""
    released = 0
    async with store.worker() as db:
        ids = await waiting.over(db)
    for id_ in ids:
        while True:
            async with store.worker() as db:
                count = await waiting.let_go(db, id_, BATCH)
            released += count
            if count < BATCH:
                break
    if released:
        log.info("mail that waited is due: what kept it is over", rows=released)
    return released
