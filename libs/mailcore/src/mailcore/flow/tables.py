"""The tables of routes as a process believes them: asked for a whole batch in one statement, and remembered for some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from mailcore.flow.table import EMPTY, Route, Table, table_of
from mailcore.store import routes
from mailcore.store.routes import TableRows
from mailcore.store.session import Connection, Store

SECONDS = 5.0
"""How long a table is believed: a change is in force everywhere within that."""
MOST = 20_000
"""Organizations whose tables are kept."""


@dataclass(frozen=True, slots=True)
class _Known:
    asked_at: float
    table: Table


class Tables:
    """One a process."""

    def __init__(self, store: Store, *, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._seconds = seconds
        self._clock = clock
        self._known: dict[UUID, _Known] = {}

    def held(self, org_id: UUID) -> Table | None:
        """What `of` would give, where it is here. None: it must be asked for."""
        known = self._known.get(org_id)
        return known.table if known is not None and self._clock() - known.asked_at < self._seconds else None

    async def of(self, org_ids: Collection[UUID]) -> dict[UUID, Table]:
        """Of each of them; without routes an empty one. Raises Unavailable."""
        now = self._clock()
        found: dict[UUID, Table] = {}
        for id_ in org_ids:
            known = self._known.get(id_)
            if known is not None and now - known.asked_at < self._seconds:
                found[id_] = known.table
        missing = [id_ for id_ in org_ids if id_ not in found]
        if missing:
            async with self._store.worker() as db:
                found |= await self._load(db, missing, now)
        return found

    async def _load(self, db: Connection, org_ids: Collection[UUID], now: float) -> dict[UUID, Table]:
        rows = await routes.load(db, org_ids)
        if len(self._known) + len(rows) > MOST:
            self._known.clear()
        found = {}
        for id_, of_org in rows.items():
            before = self._known.get(id_)
            found[id_] = table = read(of_org, EMPTY if before is None else before.table)
            self._known[id_] = _Known(now, table)
        return found


def read(rows: TableRows, before: Table = EMPTY) -> Table:
    """`before`: the table as it was; what has not changed since is not read again."""
    if not rows.routes and not rows.blocked:
        return EMPTY
    known: Mapping[UUID, Route] = {route.id: route for route in before.routes}

    def same(id_: UUID, updated_at: datetime) -> Route | None:
        route = known.get(id_)
        return route if route is not None and route.updated_at == updated_at else None

    found = table_of(
        [row | {"id": UUID(row["id"]), "updated_at": datetime.fromisoformat(row["updated_at"])} for row in rows.routes],
        same,
    )
    return Table(found, rows.lane_routes, rows.endpoints, rows.senders, rows.blocked)
