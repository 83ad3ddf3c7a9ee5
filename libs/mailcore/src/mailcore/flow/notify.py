"""Webhook posts as the database sees them: settled in groups, taken back from workers that died, forgotten with their endpoint."""

from __future__ import annotations

from collections.abc import Sequence

from mailcore.flow.group import GroupCommit
from mailcore.flow.lease import WorkerLease
from mailcore.kit.errors import MailError
from mailcore.kit.log import logger
from mailcore.store import webhook_leases, webhook_queue, workers
from mailcore.store.session import Store
from mailcore.store.webhook_leases import Waiting
from mailcore.store.webhook_queue import Settled

log = logger(__name__)

FORGET_ROWS = 1000


class Settle:
    """`join` returns after the commit that holds this post's result. Raises Unavailable: keep the result and ask again."""

    def __init__(self, store: Store, *, disable_after: float) -> None:
        """`disable_after`: seconds after which an endpoint that only fails is disabled."""
        self._store = store
        self._disable_after = disable_after
        self._group: GroupCommit[Settled, None] = GroupCommit(self._commit)

    async def join(self, row: Settled) -> None:
        await self._group.join(row)

    async def drain(self) -> None:
        await self._group.drain()

    async def _commit(self, rows: Sequence[Settled]) -> Sequence[MailError | None]:
        async with self._store.worker() as db:
            moved, disabled = await webhook_queue.settle(db, rows, disable_after=self._disable_after)
        if moved < len(rows):
            log.warning("leases were taken back before their posts were settled", rows=len(rows) - moved)
        for one in disabled:
            log.warning("webhook disabled", webhook_id=str(one.webhook_id), org_id=str(one.org_id), reason=one.reason)
        return [None] * len(rows)


async def sweep(store: Store, lease: WorkerLease) -> Waiting:
    """Buries dead workers and frees what they held; forgets what waits for endpoints that are no more; says what waits."""
    async with store.worker() as db:
        dead = await workers.bury(db, lease.service, lease.lease_seconds)
        freed, lost = await webhook_leases.take_back(db)
    if dead or freed:
        log.warning("took back the posts of dead workers", workers=dead, rows=freed)
    for event_id, webhook_id in lost:
        log.error("event failed: its worker died with it each time", event_id=str(event_id), webhook_id=str(webhook_id))
    while True:
        async with store.worker() as db:
            if await webhook_leases.forget(db, FORGET_ROWS) < FORGET_ROWS:
                return await webhook_leases.waiting(db)
