"""Events are added up for metrics (store.counts). Twice, or by several processes at once, is as good as once."""

from __future__ import annotations

from mailcore.kit.log import logger
from mailcore.store import counts
from mailcore.store.session import Store

log = logger(__name__)


async def count(store: Store) -> int:
    """Adds up what is committed by now. Returns the steps it took. Raises Unavailable; what was done by then stays done."""
    async with store.worker() as db:
        end = await counts.ended(db)
    steps = 0
    while True:
        async with store.worker() as db:
            mark = await counts.begin(db)
            if mark is None:
                return steps  # somebody else is at it
            if await counts.is_ahead(db, mark):
                log.warning("the database came from another server: events are counted anew")
                await counts.start_anew(db)
                continue
            if await counts.add_up(db, mark, end) == mark:
                return steps
        steps += 1
