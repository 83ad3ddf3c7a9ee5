"""`postroom keys rotate`: what is sealed with an older key is sealed with POSTROOM_ENCRYPTION_KEY.

In steps, each a transaction of its own: an end in between loses nothing, and a second run goes on. Services go on meanwhile, as
long as they know both keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailcore.kit.seal import Keyring
from mailcore.store.sealed import SEALED, reseal

from .setup import as_admin


@dataclass(frozen=True, slots=True)
class Rotated:
    resealed: dict[str, int]
    """Rows, by `table.column`; those without any are left out."""
    lost: dict[str, int]
    """Rows that none of the keys opens."""


async def rotate(url: str, keyring: Keyring) -> Rotated:
    """`url` is who migrates."""
    done = Rotated({}, {})
    for where in SEALED:
        name, after, more = f"{where.table}.{where.column}", None, True
        # whose policies are not forced needs no lifting of them
        forced = [] if where.table == "installation" else [where.table]
        while more:
            async with as_admin(url, forced) as db:
                step = await reseal(db, keyring, where, after)
            for counts, rows in ((done.resealed, step.resealed), (done.lost, step.lost)):
                if rows:
                    counts[name] = counts.get(name, 0) + rows
            after, more = step.last, step.last is not None
    return done
