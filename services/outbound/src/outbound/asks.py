"""What sites ask the database for, many at a time (`together`): rows to lease, and what their mails hold."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, TypeAlias
from uuid import UUID

from mailcore.flow.lease import WorkerLease
from mailcore.store import contents, deliveries
from mailcore.store.contents import Content
from mailcore.store.deliveries import Leased
from mailcore.store.session import Store
from outbound.memory import LIGHT_BYTES
from outbound.retry import Retries


class Quantum(NamedTuple):
    lane_id: int
    rows: int
    """That are leased of it at most."""


Light: TypeAlias = tuple[Content, int]
"""With its bytes."""


async def claim(
    store: Store, lease: WorkerLease, retries: Retries, wanted: Collection[Quantum]
) -> dict[Quantum, list[Leased]]:
    """Raises Unavailable."""
    lanes, quanta = [each.lane_id for each in wanted], [each.rows for each in wanted]
    async with store.worker(by_index=True) as db:
        rows = await deliveries.claim(db, lanes, lease.id, limit=sum(quanta), quantum=quanta, schedule=retries.schedule)
    by_lane: dict[int, list[Leased]] = {}
    for row in rows:
        by_lane.setdefault(row.lane_id, []).append(row)
    found: dict[Quantum, list[Leased]] = {}
    for each in wanted:  # where two ask for one lane, no row is given to both
        theirs = by_lane.get(each.lane_id, [])
        found[each], by_lane[each.lane_id] = theirs[: each.rows], theirs[each.rows :]
    return found


async def light_contents(store: Store, ids: Collection[UUID]) -> dict[UUID, Light | int]:
    """Of emails with little content that and its size, of the others the size. Raises Unavailable."""
    async with store.worker(by_index=True) as db:
        light, heavy = await contents.light_contents(db, ids, LIGHT_BYTES)
    return {**{each[0].id: each for each in light}, **heavy}
