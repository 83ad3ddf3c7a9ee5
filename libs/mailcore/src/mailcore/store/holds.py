"""What does not leave for now: a site, an organization, an organization's mail to a site, or everything. Role worker.

Read by the statements that find due lanes and by those that share sites out; one row for each pair, the later word counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from mailcore.kit.ids import uuid7
from mailcore.store.session import Connection

Origin = Literal["operator", "rule"]
MAX_REASON = 500
GRACE = "1 day"
"""What was held, or paused, has so long to leave before it can expire (store.expiry): holds that are over are kept for that.
A rule that holds again and again has begun with the first: it keeps mail from expiring for no longer than that."""


@dataclass(frozen=True, slots=True)
class Hold:
    id: UUID
    site_id: int | None
    """None: every site."""
    org_id: UUID | None
    """None: everybody's mail."""
    until: datetime | None
    """None: until the operator resumes."""
    origin: Origin
    reason: str
    created_at: datetime
    """Of a rule's: of the first of those that followed one another within GRACE."""


async def place(
    db: Connection,
    site_id: int | None,
    org_id: UUID | None,
    *,
    origin: Origin,
    reason: str,
    seconds: float | None = None,
) -> Hold | None:
    """For `seconds` from now, or until it is lifted. None: a rule shortens nothing, and touches no hold of the operator's."""
    row = await db.fetchrow(_PLACE, uuid7(), site_id, org_id, seconds, origin, reason[:MAX_REASON])
    return Hold(*row) if row else None


_COLUMNS = "id, site_id, org_id, until, origin, reason, created_at"
# an organization that is gone since its mail left needs no hold
_PLACE = f"""
INSERT INTO holds AS h (id, site_id, org_id, until, origin, reason)
SELECT $1, $2, $3, now() + make_interval(secs => $4::float8), $5, $6
WHERE $3::uuid IS NULL OR EXISTS (SELECT FROM organizations o WHERE o.id = $3)
ON CONFLICT (site_id, org_id) DO UPDATE
  SET until = excluded.until, origin = excluded.origin, reason = excluded.reason,
      created_at = CASE WHEN h.origin = 'rule' AND excluded.origin = 'rule' THEN h.created_at ELSE now() END
  WHERE excluded.origin = 'operator' OR h.until <= now() OR h.until < excluded.until AND h.origin = 'rule'
RETURNING {_COLUMNS}
"""


async def lift(db: Connection, site_id: int | None, org_id: UUID | None) -> list[Hold]:
    """Of exactly that pair."""
    rows = await db.fetch(_LIFT, site_id, org_id)
    return [Hold(*row) for row in rows]


_LIFT = f"""
UPDATE holds SET until = now()
WHERE site_id IS NOT DISTINCT FROM $1 AND org_id IS NOT DISTINCT FROM $2 AND (until IS NULL OR until > now())
RETURNING {_COLUMNS}
"""


async def in_force(db: Connection, limit: int = 1_000) -> list[Hold]:
    """The latest first."""
    rows = await db.fetch(
        f"SELECT {_COLUMNS} FROM holds WHERE until IS NULL OR until > now() ORDER BY created_at DESC, id DESC LIMIT $1",
        limit,
    )
    return [Hold(*row) for row in rows]


async def forget(db: Connection) -> None:
    """Those that have been over for GRACE."""
    await db.execute(f"DELETE FROM holds WHERE until <= now() - interval '{GRACE}'")
