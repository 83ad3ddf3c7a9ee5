"""What is asked of the database for many at a time (`kit.together`): rows to lease, what mails hold, where domains' mail goes."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, TypeAlias
from uuid import UUID

from mailcore.flow.lease import WorkerLease
from mailcore.store import contents, deliveries, sites
from mailcore.store.contents import Content
from mailcore.store.deliveries import Leased
from mailcore.store.session import Store
from mailcore.store.sites import Site
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


class Place(NamedTuple):
    """The DNS has said where that domain's mail goes."""

    domain: str
    key: str
    """Of the site."""
    site_id: int | None
    """Where it was thought to go."""


async def places(store: Store, max_connections: int, found: Collection[Place]) -> dict[Place, Site]:
    """The sites, made where they are new, with these domains pointing to them. Raises Unavailable."""
    async with store.worker() as db:
        there = await sites.ensure_all(db, {each.key for each in found}, max_connections)
        moved = {each.domain: there[each.key].id for each in found if there[each.key].id != each.site_id}
        if moved:
            await sites.point(db, moved)
    return {each: there[each.key] for each in found}
