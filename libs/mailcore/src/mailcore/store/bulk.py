"""Who sends in bulk, or nearly (flow.bulk): registered domains, whoever sends from them. Role worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mailcore.store.session import Connection

QUIET_HOURS = 24
"""What a person has ended is not raised again for so long."""


@dataclass(frozen=True, slots=True)
class BulkSender:
    domain: str
    """Registered; all names below it count with it."""
    sent: int
    """Recipients of the 24 hours before the last look."""
    reached_at: datetime | None
    """When it was first seen past the limit: it stays a bulk sender from then on. None: it is only near."""


@dataclass(frozen=True, slots=True)
class OpenBulk:
    """An alarm of kind `bulk` that has not ended."""

    id: UUID
    domain_id: UUID
    action: str
    facts: dict[str, Any]


async def alone(db: Connection) -> None:
    """Nobody else counts or looks until the transaction ends."""
    await db.execute("SELECT pg_advisory_xact_lock(hashtext('postroom.bulk'))")


async def sent(db: Connection, hours: int) -> list[tuple[str, int]]:
    """Sending domains by name and the recipients of their mail in so many hours, without test addresses; one that several
    organizations have is there several times."""
    return [(row["name"], row["n"]) for row in await db.fetch(_SENT, hours)]


# by organization, for that is how the counts are found by their time
_SENT = """
WITH counted AS (
  SELECT c.domain_id, sum(CASE c.kind WHEN 'sent' THEN c.n ELSE -c.n END)::bigint AS n
  FROM organizations o CROSS JOIN LATERAL (
    SELECT e.domain_id, e.kind, e.n FROM event_counts e
    WHERE e.org_id = o.id AND e.at >= now() - make_interval(hours => $1)
      AND e.kind IN ('sent', 'test_delivered', 'test_bounced_permanent') OFFSET 0) c
  GROUP BY c.domain_id
)
SELECT d.name, c.n FROM counted c JOIN domains d ON d.id = c.domain_id WHERE c.n > 0
"""


async def senders(db: Connection) -> dict[str, BulkSender]:
    rows = await db.fetch("SELECT domain, sent, reached_at FROM bulk_senders")
    return {row["domain"]: BulkSender(*row) for row in rows}


async def replace(db: Connection, found: Sequence[BulkSender]) -> None:
    """After `alone`."""
    await db.execute("DELETE FROM bulk_senders")
    await db.executemany(
        "INSERT INTO bulk_senders (domain, sent, reached_at) VALUES ($1, $2, $3)",
        [(each.domain, each.sent, each.reached_at) for each in found],
    )


async def reached_at(db: Connection, domain: str) -> datetime | None:
    """Since when this registered domain is a bulk sender; None: it is none."""
    return await db.fetchval("SELECT reached_at FROM bulk_senders WHERE domain = $1", domain)  # type: ignore[no-any-return]


async def open_alarms(db: Connection) -> dict[UUID, OpenBulk]:
    """By domain."""
    rows = await db.fetch("SELECT id, domain_id, action, facts FROM alarms WHERE kind = 'bulk' AND ended_at IS NULL")
    return {row["domain_id"]: OpenBulk(*row) for row in rows}


async def quiet(db: Connection) -> set[tuple[UUID, str]]:
    """Organization and name of domains of which a person has ended such an alarm lately."""
    rows = await db.fetch(
        "SELECT org_id, domain FROM alarms WHERE kind = 'bulk' AND ended_by = 'person' "
        "AND ended_at > now() - make_interval(hours => $1)",
        QUIET_HOURS,
    )
    return {(row["org_id"], row["domain"]) for row in rows}


async def complained(db: Connection) -> dict[UUID, str]:
    """Domains with an open alarm because of complaints, and what it says."""
    rows = await db.fetch(
        "SELECT domain_id, text FROM alarms WHERE kind = 'complaints' AND ended_at IS NULL ORDER BY id"
    )
    return {row["domain_id"]: row["text"] for row in rows}
