"""Mail that is held back: seen, let out, or deleted. What holds it is a decision of routing, or three crashes of its workers.

    release   it is routed again, and nothing holds it a second time; the decision and who made it stand in its trace. Mail that is
              pending, for a scanner that is away, is released in the same way
    delete    its content is gone, the row with everything that was decided about it stays
    expire    the same after HELD_DAYS, for what a decision holds; mail that killed its workers waits for somebody for ever

Each is one transaction, and twice does what once does.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from mailcore.blob.base import BlobStore
from mailcore.flow.receive import decision
from mailcore.kit.errors import MailError
from mailcore.kit.log import logger
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import ROUTE
from mailcore.store import quarantine
from mailcore.store.arrivals import HELD_DAYS
from mailcore.store.session import Store

log = logger(__name__)

BATCH = 500


async def release(store: Store, ringer: Ringer, org_id: UUID, arrival_id: UUID, *, by: str) -> bool:
    """False: it is not in quarantine (any more). Raises Unavailable."""
    told = decision("quarantine", "released", f"Released by {by}: it is routed again, and held no more.")
    async with store.tenant(org_id) as db:
        released = await quarantine.release(db, arrival_id, told)
    if released:
        ringer.ring(ROUTE)
    return released


async def delete(store: Store, blobs: BlobStore, org_id: UUID, arrival_id: UUID, *, by: str) -> bool:
    """False: it is not in quarantine. Raises Unavailable."""
    told = decision("quarantine", "dropped", f"Deleted by {by}.")
    async with store.tenant(org_id) as db:
        gone = await quarantine.drop(db, [arrival_id], told)
    await _remove(blobs, gone.blobs)
    return gone.count > 0


async def expire(store: Store, blobs: BlobStore, now: datetime) -> int:
    """What has been held for its time. Returns how many. Raises Unavailable; what was done by then stays done."""
    total = 0
    while True:
        async with store.worker() as db:
            due = await quarantine.due(db, now, BATCH)
            told = decision("quarantine", "dropped", f"Nobody released it within {HELD_DAYS} days.", now)
            gone = await quarantine.drop(db, due, told)
        await _remove(blobs, gone.blobs)
        total += gone.count
        if len(due) < BATCH:
            return total


async def _remove(blobs: BlobStore, keys: list[str]) -> None:
    for key in keys:
        try:
            await blobs.delete(key)
        except MailError as error:
            log.warning("the blob of a dropped mail could not be deleted", key=key, error=error.public)
