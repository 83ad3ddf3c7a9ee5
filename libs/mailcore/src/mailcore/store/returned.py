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


@dataclass(frozen=True, slots=True)
class Went:
    """A delivery, and the hosts that it was tried at."""

    email_id: UUID
    n: int
    recipient: str
    mx_hosts: tuple[str, ...]
    mx_ips: tuple[str, ...]


async def by_message_id(db: Connection, org_id: UUID, message_id: str, since: UUID) -> list[Went]:
    """The deliveries of the organization's mail with this Message-ID (with its angle brackets) that was made after `since`; at most
    1,000."""
    rows = await db.fetch(_BY_MESSAGE_ID, org_id, message_id, since, _own_id(message_id))
    return [Went(row[0], row[1], row[2], tuple(row[3]), tuple(row[4])) for row in rows]


def _own_id(message_id: str) -> UUID | None:
    """Of an email whose Message-ID we made: it is in it (flow.row)."""
    try:
        return UUID(message_id[1:37])
    except ValueError:
        return None


# ids that are not ours have an index of their own: emails_own_message_id
_BY_MESSAGE_ID = """
WITH found AS (
  SELECT id FROM emails WHERE id = $4::uuid AND org_id = $1 AND message_id = $2 AND id >= $3
  UNION
  SELECT id FROM emails WHERE message_id = $2 AND left(message_id, 38) <> '<' || id::text || '@' AND org_id = $1 AND id >= $3
)
SELECT d.email_id, d.n, d.recipient,
  ARRAY(SELECT DISTINCT a.mx_host FROM attempts a WHERE a.email_id = d.email_id AND a.n = d.n AND a.mx_host IS NOT NULL),
  ARRAY(SELECT DISTINCT a.mx_ip FROM attempts a WHERE a.email_id = d.email_id AND a.n = d.n AND a.mx_ip IS NOT NULL)
FROM found JOIN deliveries d ON d.email_id = found.id
ORDER BY d.email_id, d.n LIMIT 1000
"""


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
