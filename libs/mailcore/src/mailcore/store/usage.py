"""What organizations used of their quotas: rows that submits add (`store.emails`), and their sums by day.

A submit adds a row of its own and waits for nobody; `roll_up` moves rows into sums. What was used is both together, and a
statement sees a row either there or in its sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from mailcore.kit.ids import lower_bound
from mailcore.store.session import Connection

BATCH = 20_000
READ = "SELECT * FROM lookup_usage($1::uuid[])"


@dataclass(frozen=True, slots=True)
class Used:
    org_id: UUID
    day: date
    """Today by the database's clock, UTC."""
    daily_quota: int | None
    """None: as the installation's settings say; 0: no limit."""
    monthly_quota: int | None
    daily: int
    """Recipients of mail accepted today …"""
    monthly: int
    """… and since the first of the month."""


async def read(db: Connection, orgs: Sequence[UUID]) -> list[Used]:
    return [Used(*row) for row in await db.fetch(READ, orgs)]


async def lock(db: Connection, orgs: Sequence[UUID]) -> None:
    """Until the transaction ends nobody else decides about these quotas; waits for whoever does."""
    ids = sorted(_lock_id(org_id) for org_id in orgs)  # one order for all: no deadlock
    await db.execute("SELECT pg_advisory_xact_lock(id) FROM unnest($1::bigint[]) AS k (id)", ids)


async def give_back(db: Connection, copies: Mapping[UUID, int]) -> None:
    """Copies that the statement which stored them has counted and that count against no quota; role worker."""
    if copies:
        await db.execute(
            "INSERT INTO usage_deltas (org_id, day, sent) SELECT t.org_id, (now() AT TIME ZONE 'UTC')::date, -t.copies "
            "FROM unnest($1::uuid[], $2::bigint[]) AS t (org_id, copies)",
            list(copies),
            list(copies.values()),
        )


async def roll_up(db: Connection) -> int:
    """Moves up to BATCH rows into their sums; role worker. Returns how many: BATCH when there may be more."""
    moved: int = await db.fetchval(_ROLL_UP, BATCH)
    return moved


async def received(db: Connection, since: datetime) -> int:
    """Mails of the organization that arrived since then; role app."""
    found: int = await db.fetchval(
        "SELECT count(*) FROM arrivals WHERE org_id = (SELECT current_org()) AND id >= $1", lower_bound(since)
    )
    return found


async def counts(db: Connection) -> dict[str, int]:
    """Domains, API keys and webhooks of the organization; role app."""
    row = await db.fetchrow(
        "SELECT (SELECT count(*) FROM domains) AS domains, (SELECT count(*) FROM api_keys) AS api_keys, "
        "(SELECT count(*) FROM webhooks) AS webhooks"
    )
    return dict(row)


def _lock_id(org_id: UUID) -> int:
    return int.from_bytes(hashlib.sha256(b"quota\0" + org_id.bytes).digest()[:8], "big", signed=True)


_ROLL_UP = """
WITH taken AS MATERIALIZED (
  SELECT ctid FROM usage_deltas LIMIT $1
), gone AS (
  DELETE FROM usage_deltas d USING taken WHERE d.ctid = taken.ctid RETURNING d.org_id, d.day, d.sent
), summed AS (
  INSERT INTO usage (org_id, day, sent)
  SELECT org_id, day, sum(sent) FROM gone GROUP BY org_id, day ORDER BY org_id, day
  ON CONFLICT (org_id, day) DO UPDATE SET sent = usage.sent + EXCLUDED.sent
)
SELECT count(*) FROM gone
"""
