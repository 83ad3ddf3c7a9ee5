"""What was said and heard on the wire is kept for 30 days; the attempt itself stays as long as its email."""

from __future__ import annotations

from uuid import UUID

from mailcore.store.session import Connection

DAYS = 30
BATCH = 5_000
"""Attempts of one step."""


async def forget(db: Connection, before: UUID) -> int:
    """One step towards the emails with ids below `before`; role worker. Returns the attempts it went past: BATCH when there may
    be more. Each email is come to once: no attempt is made on one as old.
    """
    passed: int = await db.fetchval(_FORGET, before, BATCH)
    return passed


# an email's attempts are never parted: the step ends with the last one's email
_FORGET = """
WITH mark AS MATERIALIZED (SELECT below FROM forgotten FOR UPDATE), ahead AS MATERIALIZED (
  SELECT a.email_id FROM attempts a, mark WHERE a.email_id > mark.below AND a.email_id < $1 ORDER BY a.email_id LIMIT $2
), last AS (SELECT email_id FROM ahead ORDER BY email_id DESC LIMIT 1), gone AS (
  UPDATE attempts a SET conversation = NULL FROM mark, last
  WHERE a.email_id > mark.below AND a.email_id <= last.email_id AND a.conversation IS NOT NULL
), moved AS (
  UPDATE forgotten SET below = last.email_id FROM last
)
SELECT count(*) FROM ahead
"""
