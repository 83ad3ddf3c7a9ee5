"""Which plans a transaction may take."""

from __future__ import annotations

from mailcore.store.session import Connection


async def by_index(db: Connection) -> None:
    """For this transaction: each row is found by its key. A plan made while a table was small must not scan it when it is long."""
    await db.execute(
        "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; "
        "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
    )
