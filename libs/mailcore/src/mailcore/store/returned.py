"""What became of a mail after its server had taken it: told by a report that came back to its return path. Role worker.

A delivery moves once: who reports again, or about a mail that was never taken, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class CameBack:
    email_id: UUID
    n: int
    mta: str | None
    """Whose words these are."""
    code: int
    enhanced_code: str | None
    reply: str
    category: str
    category_rule: str


async def recipient(db: Connection, email_id: UUID, n: int) -> tuple[UUID, str, str] | None:
    """Organization, recipient and state of that delivery."""
    row = await db.fetchrow(
        "SELECT org_id, recipient, state FROM deliveries WHERE email_id = $1 AND n = $2", email_id, n
    )
    return None if row is None else (row["org_id"], row["recipient"], row["state"])


async def owner(db: Connection, email_id: UUID, n: int, domain: str) -> UUID | None:
    """The organization whose mail that was; when it is gone, whose return paths have this domain. None: that is gone, too."""
    found: UUID | None = await db.fetchval(
        "SELECT org_id FROM deliveries WHERE email_id = $1 AND n = $2 UNION ALL "
        "(SELECT org_id FROM domains WHERE name = ANY ($3::text[]) AND custom_return_path || '.' || name = $4 "
        "ORDER BY status = 'verified' DESC, id LIMIT 1) LIMIT 1",
        *(email_id, n, [domain.partition(".")[2]], domain),
    )
    return found


async def bounced(db: Connection, report: CameBack) -> bool:
    """It had been taken, and came back. False: another report, or the settlement, said so before."""
    row = await db.fetchrow(
        _BOUNCED,
        *(report.email_id, report.n, report.mta, report.code, report.enhanced_code, report.reply),
        *(report.category, report.category_rule),
    )
    return row is not None


# an attempt more, so that who looks sees what was said, by whom and when
_BOUNCED = """
WITH moved AS (
  UPDATE deliveries SET state = 'bounced', last_event = 'bounced', last_event_at = now()
  WHERE email_id = $1 AND n = $2 AND state IN ('delivered', 'relayed')
  RETURNING org_id
), noted AS (
  INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, site, mx_host, code, enhanced_code, reply, rule, category,
                        category_rule)
  SELECT $1, $2, (SELECT coalesce(max(attempt), 0) + 1 FROM attempts WHERE email_id = $1 AND n = $2), org_id, now(), 'bounced',
         (SELECT site FROM attempts WHERE email_id = $1 AND n = $2 ORDER BY attempt DESC LIMIT 1), $3, $4, $5, $6, 'report', $7, $8
  FROM moved
)
SELECT org_id FROM moved
"""
