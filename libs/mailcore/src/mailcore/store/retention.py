"""Months of history: which there are, whether something of one still waits, and dropping it with its blobs. Role worker."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Literal
from uuid import UUID

from mailcore.kit.ids import lower_bound
from mailcore.store.session import Connection

Kind = Literal["sent", "events", "webhooks"]
BATCH = 2_000

_LARGEST: dict[Kind, str] = {"sent": "emails", "events": "events", "webhooks": "webhook_deliveries"}
# what is on its way keeps its month
_WAITING: dict[Kind, str] = {
    "sent": """
SELECT EXISTS (SELECT FROM queue WHERE email_id >= $1 AND email_id < $2)
    OR EXISTS (SELECT FROM reports_owed WHERE email_id >= $1 AND email_id < $2 AND report_id IS NULL AND given_up IS NULL)
""",
    "events": "SELECT EXISTS (SELECT FROM webhook_queue WHERE event_id >= $1 AND event_id < $2)",
    "webhooks": "SELECT EXISTS (SELECT FROM webhook_queue WHERE event_id >= $1 AND event_id < $2)",
}


def bounds(month: date) -> tuple[UUID, UUID]:
    """Ids of the month's rows: from the first on, before the second."""
    begin = datetime(month.year, month.month, 1, tzinfo=UTC)
    end = begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
    return lower_bound(begin), lower_bound(end)


async def months(db: Connection, kind: Kind, before: datetime) -> list[date]:
    """Those that ended before that and before the beginning of last month, the oldest first."""
    rows = await db.fetch(_MONTHS, _LARGEST[kind], before)
    return [row["month"] for row in rows]


_MONTHS = """
SELECT month FROM (
  SELECT to_date(right(c.relname, 7), 'YYYY_MM') AS month
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  WHERE i.inhparent = to_regclass($1) AND c.relname ~ ('^' || $1 || '_\\d{4}_\\d{2}$')
) there
WHERE (month + interval '1 month') AT TIME ZONE 'UTC' <= $2
  AND month < date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month'
ORDER BY month
"""


async def waits(db: Connection, kind: Kind, month: date) -> bool:
    found: bool = await db.fetchval(_WAITING[kind], *bounds(month))
    return found


async def note_blobs(db: Connection, month: date, after: UUID | None) -> UUID | None:
    """Of BATCH emails of the month behind that one; the last of them, None when there are none."""
    low, high = bounds(month)
    last: UUID | None = await db.fetchval(_NOTE_BLOBS, low, high, after, BATCH, month)
    return last


_NOTE_BLOBS = """
WITH batch AS MATERIALIZED (
  SELECT id, body_blob, raw_blob, attachments FROM emails
  WHERE id >= $1 AND id < $2 AND ($3::uuid IS NULL OR id > $3) ORDER BY id LIMIT $4
), noted AS (
  INSERT INTO blob_deletes (key, month)
  SELECT DISTINCT key, $5::date FROM (
    SELECT body_blob AS key FROM batch
    UNION ALL SELECT raw_blob FROM batch
    UNION ALL SELECT part->>'blob' FROM batch CROSS JOIN LATERAL jsonb_array_elements(attachments) AS part
  ) AS named WHERE key IS NOT NULL
  ON CONFLICT (key) DO NOTHING
)
SELECT id FROM batch ORDER BY id DESC LIMIT 1
"""


async def drop(db: Connection, kind: Kind, month: date) -> list[str]:
    """What was dropped; once that is committed its blobs may be deleted. Raises asyncpg.LockNotAvailableError."""
    rows = await db.fetch("SELECT drop_month($1, $2)", kind, month)
    return [row["drop_month"] for row in rows]


async def gone(db: Connection) -> list[date]:
    """Dropped months of which blobs are left."""
    rows = await db.fetch(
        "SELECT month FROM (SELECT DISTINCT month FROM blob_deletes) AS noted "
        "WHERE to_regclass('emails_' || to_char(month, 'YYYY_MM')) IS NULL"
    )
    return [row["month"] for row in rows]


async def blobs(db: Connection, months: list[date], limit: int) -> list[str]:
    """To be deleted."""
    rows = await db.fetch("SELECT key FROM blob_deletes WHERE month = ANY ($1::date[]) LIMIT $2", months, limit)
    return [row["key"] for row in rows]


async def deleted(db: Connection, keys: list[str]) -> None:
    await db.execute("DELETE FROM blob_deletes WHERE key = ANY ($1::text[])", keys)
