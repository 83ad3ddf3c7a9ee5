"""Which plans a transaction may take."""

from __future__ import annotations

import asyncpg

BY_INDEX = (
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; "
    "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; "
    # the plan is the same for whatever values: made for each again, a claim from a long queue takes a third longer
    "SET LOCAL plan_cache_mode = force_generic_plan"
)


async def by_index(db: asyncpg.Connection) -> None:
    """For this transaction: each row is found by its key. A plan made while a table was small must not scan it when it is long.

    `store.worker(by_index=True)` begins with it.
    """
    await db.execute(BY_INDEX)
