"""Events and their fan-out: in the transaction that raises an event, one webhook delivery for each endpoint that wants its type."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from mailcore.store.session import Connection


class NewEvent(NamedTuple):
    id: UUID
    """UUIDv7."""
    org_id: UUID
    type: str
    object_id: UUID
    created_at: datetime
    recipients: list[str] | None = None
    detail: dict[str, Any] | None = None


async def detail(db: Connection, event_id: UUID, object_id: UUID) -> dict[str, Any] | None:
    """None: there is no such event of that object. Role app."""
    found = await db.fetchrow(
        "SELECT coalesce(detail, '{}') AS detail FROM events WHERE id = $1 AND object_id = $2", event_id, object_id
    )
    return None if found is None else dict(found["detail"])


async def insert(db: Connection, events: Sequence[NewEvent]) -> int:
    """In the caller's transaction (role door or worker). Returns how many webhook deliveries were queued: ring when not 0."""
    if not events:
        return 0
    rows = await db.fetch(
        _INSERT,
        [event.id for event in events],
        [event.org_id for event in events],
        [event.type for event in events],
        [event.object_id for event in events],
        [None if event.recipients is None else orjson.dumps(event.recipients).decode() for event in events],
        [event.detail for event in events],
        [event.created_at for event in events],
    )
    return int(rows[0]["queued"])


async def insert_for(db: Connection, posts: Sequence[tuple[NewEvent, UUID]]) -> int:
    """As `insert`, each to one endpoint and no other, whatever types that asked for. One that is switched off or gone by now is
    told so by its delivery, which fails. Role worker."""
    if not posts:
        return 0
    events = [event for event, _ in posts]
    await db.execute(
        _INSERT_FOR,
        [event.id for event in events],
        [event.org_id for event in events],
        [event.type for event in events],
        [event.object_id for event in events],
        [None if event.recipients is None else orjson.dumps(event.recipients).decode() for event in events],
        [event.detail for event in events],
        [event.created_at for event in events],
        [webhook_id for _, webhook_id in posts],
    )
    return len(posts)


# Of rows `new_events (id, org_id, type, object_id, recipients, detail, created_at)`: the events, and a delivery for each endpoint
# that wants the type, or `*`. For a statement that raises events beside what they tell of; then `count(*) FROM wanted` were queued.
FAN_OUT = """
stored_events AS (
  INSERT INTO events (id, org_id, type, object_id, recipients, detail, created_at)
  SELECT id, org_id, type, object_id, recipients, detail, created_at FROM new_events
), wanted AS (
  SELECT e.id, w.webhook_id, e.org_id, e.created_at, CASE WHEN w.ordered THEN e.object_id END AS object_id
  FROM lookup_endpoints(ARRAY(SELECT DISTINCT org_id FROM new_events)) w
  JOIN new_events e ON e.org_id = w.org_id AND (e.type = ANY (w.events) OR '*' = ANY (w.events))
), stored_webhook_deliveries AS (
  INSERT INTO webhook_deliveries (event_id, webhook_id, org_id, updated_at)
  SELECT id, webhook_id, org_id, created_at FROM wanted
), waiting_webhooks AS (
  INSERT INTO webhook_queue (event_id, webhook_id, org_id, due_at, object_id)
  SELECT id, webhook_id, org_id, now(), object_id FROM wanted
)
"""

# text[][] must be rectangular, so that recipients travel as JSON arrays
_INSERT = f"""
WITH new_events AS (
  SELECT id, org_id, type, object_id,
         CASE WHEN recipients IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(recipients::jsonb)) END AS recipients,
         detail, created_at
  FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::jsonb[], $7::timestamptz[])
    AS t (id, org_id, type, object_id, recipients, detail, created_at)
), {FAN_OUT}
SELECT count(*) AS queued FROM wanted
"""

_INSERT_FOR = """
WITH new_events AS (
  SELECT id, org_id, type, object_id,
         CASE WHEN recipients IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(recipients::jsonb)) END AS recipients,
         detail, created_at, webhook_id
  FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::jsonb[], $7::timestamptz[], $8::uuid[])
    AS t (id, org_id, type, object_id, recipients, detail, created_at, webhook_id)
), stored_events AS (
  INSERT INTO events (id, org_id, type, object_id, recipients, detail, created_at)
  SELECT id, org_id, type, object_id, recipients, detail, created_at FROM new_events
), stored_webhook_deliveries AS (
  INSERT INTO webhook_deliveries (event_id, webhook_id, org_id, updated_at)
  SELECT id, webhook_id, org_id, created_at FROM new_events
)
INSERT INTO webhook_queue (event_id, webhook_id, org_id, due_at, object_id)
SELECT e.id, e.webhook_id, e.org_id, now(), CASE WHEN w.ordered THEN e.object_id END
FROM new_events e LEFT JOIN webhooks w ON w.id = e.webhook_id
"""
