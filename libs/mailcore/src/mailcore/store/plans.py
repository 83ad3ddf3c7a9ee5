"""Which plans a transaction may take."""

from __future__ import annotations

import asyncpg

BY_INDEX = (
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; "
    "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
)
ONE_PLAN = "SET LOCAL plan_cache_mode = force_generic_plan"
"""For statements whose plan is the same whatever the values: made for each again, a claim from a long queue takes a third longer
(ADR 0039). Not for conditions that may be left out (`$1 IS NULL OR …`), nor for `id = ANY ($1)` on a table by months: all of
those are then looked into."""


async def by_index(db: asyncpg.Connection) -> None:
    """For this transaction: each row is found by its key. A plan made while a table was small must not scan it when it is long.

    `store.worker(by_index=True)` begins with it, and with ONE_PLAN.
    """
    await db.execute(BY_INDEX)
