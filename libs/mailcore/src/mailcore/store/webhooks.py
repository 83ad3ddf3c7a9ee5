"""Endpoints and what waits for them. The rows of webhook_queue are the work: one an event and endpoint, deleted when final.

A claim walks the endpoints that have rows by a loose index scan (a probe of `webhook_queue_due` each, however many rows wait),
gives each as many as it has room for, writes lease, attempt and a far due time, and reads what the post needs, in one statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mailcore.events import Event
from mailcore.store import pages
from mailcore.store.pages import Page, Slice
from mailcore.store.session import Connection

# ---- for the api, as the tenant --------------------------------------------------------------------------------------

COLUMNS = "id, endpoint, events, status, secret_sealed, created_at"


async def add(
    db: Connection, *, webhook_id: UUID, org_id: UUID, endpoint: str, events: Sequence[str], secret_sealed: bytes
) -> None:
    await db.execute(
        "INSERT INTO webhooks (id, org_id, endpoint, events, secret_sealed) VALUES ($1, $2, $3, $4, $5)",
        webhook_id,
        org_id,
        endpoint,
        list(events),
        secret_sealed,
    )


async def count(db: Connection, org_id: UUID) -> int:
    return int(await db.fetchval("SELECT count(*) FROM webhooks WHERE org_id = $1", org_id))


async def list_(db: Connection, org_id: UUID, page: Page) -> Slice:
    return await pages.fetch(db, f"SELECT {COLUMNS} FROM webhooks WHERE org_id = $1", [org_id], page)


async def get(db: Connection, org_id: UUID, webhook_id: UUID) -> Any | None:
    return await db.fetchrow(f"SELECT {COLUMNS} FROM webhooks WHERE org_id = $1 AND id = $2", org_id, webhook_id)


async def change(
    db: Connection,
    org_id: UUID,
    webhook_id: UUID,
    *,
    endpoint: str | None = None,
    events: Sequence[str] | None = None,
    status: str | None = None,
) -> bool:
    """What is None stays as it is. False when there is no such endpoint."""
    return bool(
        await db.fetchval(
            "UPDATE webhooks SET endpoint = coalesce($3, endpoint), events = coalesce($4, events), "
            "status = coalesce($5, status) WHERE org_id = $1 AND id = $2 RETURNING true",
            org_id,
            webhook_id,
            endpoint,
            None if events is None else list(events),
            status,
        )
    )


async def remove(db: Connection, org_id: UUID, webhook_id: UUID) -> bool:
    """What still waits for it is taken away by the runner (`forget`). False when there is no such endpoint."""
    return bool(
        await db.fetchval("DELETE FROM webhooks WHERE org_id = $1 AND id = $2 RETURNING true", org_id, webhook_id)
    )


# ---- for webhooks, as the worker -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claimed:
    """A row leased to `worker`, with all that its post needs."""

    event_id: UUID
    webhook_id: UUID
    org_id: UUID
    worker: int
    attempt: int
    """This one's number, from 1."""
    endpoint: str
    secret_sealed: bytes
    event: Event | None
    """None when history no longer has it."""
    subject: Mapping[str, Any] | None
    """The row the event is about, as events.payload wants it."""


@dataclass(frozen=True, slots=True)
class Settled:
    """How the post of a claimed row ended. `retry_seconds` None: this was the last word."""

    claimed: Claimed
    id: UUID
    at: datetime
    success: bool
    http_status: int | None
    response: str
    retry_seconds: float | None


async def claim(
    db: Connection,
    worker: int,
    *,
    after: UUID,
    limit: int,
    room: int,
    rooms: Mapping[UUID, int],
    hold_seconds: float,
) -> list[Claimed]:
    """Up to `limit` due rows of the endpoints behind `after` in the order of their ids: `rooms[endpoint]` each, else `room`.

    They are leased to `worker`, and not due before `hold_seconds` have gone by: longer than any post takes.
    """
    rows = await db.fetch(
        _CLAIM_WALK, worker, hold_seconds, limit, after, {str(id_): n for id_, n in rooms.items()}, room
    )
    return [_claimed(row, worker) for row in rows]


async def claim_of(
    db: Connection, worker: int, *, limit: int, rooms: Mapping[UUID, int], hold_seconds: float
) -> list[Claimed]:
    """As claim, of these endpoints only."""
    rows = await db.fetch(_CLAIM_OF, worker, hold_seconds, limit, list(rooms), list(rooms.values()))
    return [_claimed(row, worker) for row in rows]


def _claimed(row: Mapping[str, Any], worker: int) -> Claimed:
    event = None
    if row["type"] is not None:
        event = Event(row["event_id"], row["type"], row["created_at"], row["recipients"], row["detail"])
    return Claimed(
        row["event_id"],
        row["webhook_id"],
        row["org_id"],
        worker,
        row["attempt"],
        row["endpoint"],
        row["secret_sealed"],
        event,
        row["subject"],
    )


_WALK = """
walk (webhook_id) AS (
  (SELECT webhook_id FROM webhook_queue WHERE webhook_id > {after} ORDER BY webhook_id LIMIT 1)
  UNION ALL
  SELECT (SELECT q.webhook_id FROM webhook_queue q WHERE q.webhook_id > walk.webhook_id ORDER BY q.webhook_id LIMIT 1)
  FROM walk WHERE walk.webhook_id IS NOT NULL
)"""

# $1 worker, $2 hold seconds, $3 limit. The sub-selects keep Postgres from joining whole tables: a probe a claimed row.
_TAKE = """
picked AS MATERIALIZED (
  SELECT due.event_id, due.webhook_id
  FROM {endpoints} CROSS JOIN LATERAL (
    SELECT q.event_id, q.webhook_id FROM webhook_queue q
    WHERE q.webhook_id = {endpoints}.webhook_id AND q.due_at <= clock_timestamp() AND q.worker IS NULL
      AND EXISTS (SELECT FROM webhooks w WHERE w.id = {endpoints}.webhook_id AND w.status = 'enabled')
    ORDER BY q.due_at LIMIT {room} FOR UPDATE OF q SKIP LOCKED
  ) due
  LIMIT $3
), taken AS (
  UPDATE webhook_queue q SET worker = $1, attempt = q.attempt + 1, leased_at = clock_timestamp(),
         due_at = clock_timestamp() + make_interval(secs => $2)
  FROM picked WHERE q.event_id = picked.event_id AND q.webhook_id = picked.webhook_id
  RETURNING q.event_id, q.webhook_id, q.org_id, q.attempt
)
SELECT taken.event_id, taken.webhook_id, taken.org_id, taken.attempt, w.endpoint, w.secret_sealed,
       e.type, e.created_at, e.recipients, e.detail,
       CASE
         WHEN e.type = 'email.received' THEN
           (SELECT jsonb_build_object('id', a.id, 'created_at', a.created_at, 'mail_from', a.mail_from, 'rcpt_to', a.rcpt_to,
                                      'summary', a.summary) FROM arrivals a WHERE a.id = e.object_id)
         WHEN e.type LIKE 'email.%' THEN
           (SELECT jsonb_build_object('id', m.id, 'created_at', m.created_at, 'message_id', m.message_id, 'from_', m.from_,
                                      'to_', m.to_, 'subject', m.subject, 'tags', m.tags) FROM emails m WHERE m.id = e.object_id)
         WHEN e.type LIKE 'domain.%' THEN
           (SELECT jsonb_build_object('id', d.id, 'created_at', d.created_at, 'name', d.name, 'status', d.status,
                                      'region', d.region) FROM domains d WHERE d.id = e.object_id)
       END AS subject
FROM taken
CROSS JOIN LATERAL (SELECT endpoint, secret_sealed FROM webhooks WHERE id = taken.webhook_id OFFSET 0) w
LEFT JOIN LATERAL (
  SELECT type, object_id, created_at, recipients, detail FROM events WHERE id = taken.event_id OFFSET 0) e ON true
"""

_CLAIM_WALK = f"""
WITH RECURSIVE {_WALK.format(after="$4")},
{_TAKE.format(endpoints="walk", room="coalesce(($5::jsonb -> walk.webhook_id::text)::int, $6::int)")}
"""
_CLAIM_OF = f"""
WITH known AS (SELECT * FROM unnest($4::uuid[], $5::int[]) AS t (webhook_id, room)),
{_TAKE.format(endpoints="known", room="known.room")}
"""


async def settle(db: Connection, rows: Sequence[Settled]) -> int:
    """Writes the attempts and moves the rows on, each only where its lease and attempt are still the ones of the post.

    Returns how many were: the others' leases were taken back, and their posts will be made again with the same message id.
    """
    rows = sorted(rows, key=lambda row: (row.claimed.event_id, row.claimed.webhook_id))
    moved: int = await db.fetchval(
        _SETTLE,
        [row.claimed.event_id for row in rows],
        [row.claimed.webhook_id for row in rows],
        [row.claimed.worker for row in rows],
        [row.claimed.attempt for row in rows],
        [row.id for row in rows],
        [row.at for row in rows],
        ["success" if row.success else "failed" if row.retry_seconds is None else "attempting" for row in rows],
        [row.http_status for row in rows],
        [row.response for row in rows],
        [row.retry_seconds for row in rows],
    )
    return moved


_SETTLE = """
WITH posted AS (
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::smallint[], $5::uuid[], $6::timestamptz[], $7::text[], $8::int[],
                       $9::text[], $10::float8[])
    AS t (event_id, webhook_id, worker, attempt, id, at, state, http_status, response, retry_seconds)
), again AS (
  UPDATE webhook_queue q SET worker = NULL, leased_at = NULL, due_at = clock_timestamp() + make_interval(secs => p.retry_seconds)
  FROM posted p
  WHERE p.state = 'attempting' AND q.event_id = p.event_id AND q.webhook_id = p.webhook_id AND q.worker = p.worker
    AND q.attempt = p.attempt
  RETURNING q.event_id, q.webhook_id, q.org_id
), done AS (
  DELETE FROM webhook_queue q USING posted p
  WHERE p.state <> 'attempting' AND q.event_id = p.event_id AND q.webhook_id = p.webhook_id AND q.worker = p.worker
    AND q.attempt = p.attempt
  RETURNING q.event_id, q.webhook_id, q.org_id
), mine AS (
  SELECT * FROM again UNION ALL SELECT * FROM done
), attempts AS (
  INSERT INTO webhook_attempts (event_id, webhook_id, attempt, org_id, id, at, http_status, response)
  SELECT p.event_id, p.webhook_id, p.attempt, mine.org_id, p.id, p.at, p.http_status, p.response
  FROM mine JOIN posted p USING (event_id, webhook_id)
  ON CONFLICT (event_id, webhook_id, attempt) DO NOTHING
), states AS (
  UPDATE webhook_deliveries d SET state = p.state, updated_at = p.at
  FROM mine JOIN posted p USING (event_id, webhook_id)
  WHERE d.event_id = mine.event_id AND d.webhook_id = mine.webhook_id
)
SELECT count(*) FROM mine
"""


async def take_back(db: Connection) -> int:
    """Frees what is leased to workers that are no more; after workers.bury, in the same transaction.

    Also what a living worker does not know it has (the answer to its claim was lost): there the hold is over. An attempt that was
    cut off does not count: whether it was made is not known, and killing workers must not use up an event's attempts.
    """
    rows = await db.fetch(
        "UPDATE webhook_queue q SET worker = NULL, leased_at = NULL, attempt = q.attempt - 1, due_at = clock_timestamp() "
        "WHERE q.worker IS NOT NULL "
        "AND (q.due_at <= clock_timestamp() OR NOT EXISTS (SELECT FROM workers w WHERE w.id = q.worker)) RETURNING true"
    )
    return len(rows)


async def forget(db: Connection, limit: int) -> int:
    """Takes away up to `limit` rows whose endpoint was removed or switched off; returns how many."""
    forgotten: int = await db.fetchval(_FORGET, limit)
    return forgotten


_FORGET = f"""
WITH RECURSIVE {_WALK.format(after="'00000000-0000-0000-0000-000000000000'")}, gone AS (
  SELECT due.event_id, due.webhook_id
  FROM walk CROSS JOIN LATERAL (
    SELECT q.event_id, q.webhook_id FROM webhook_queue q
    WHERE q.webhook_id = walk.webhook_id AND q.worker IS NULL
      AND NOT EXISTS (SELECT FROM webhooks w WHERE w.id = walk.webhook_id AND w.status = 'enabled')
    LIMIT $1 FOR UPDATE OF q SKIP LOCKED
  ) due
  LIMIT $1
), removed AS (
  DELETE FROM webhook_queue q USING gone WHERE q.event_id = gone.event_id AND q.webhook_id = gone.webhook_id
  RETURNING q.event_id, q.webhook_id
), states AS (
  UPDATE webhook_deliveries d SET state = 'failed', updated_at = clock_timestamp()
  FROM removed WHERE d.event_id = removed.event_id AND d.webhook_id = removed.webhook_id
)
SELECT count(*) FROM removed
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    rows: int
    """About: by the statistics' counter, not by counting."""
    age_seconds: float
    """Since the longest-due row was due."""


async def waiting(db: Connection) -> Waiting:
    row = await db.fetchrow(_WAITING)
    return Waiting(int(row["rows"] or 0), float(row["age"] or 0.0))


_WAITING = f"""
WITH RECURSIVE {_WALK.format(after="'00000000-0000-0000-0000-000000000000'")}
SELECT (SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = 'webhook_queue'::regclass) AS rows,
       greatest(0, extract(epoch FROM clock_timestamp() - min(due.at))) AS age
FROM walk CROSS JOIN LATERAL (SELECT min(q.due_at) AS at FROM webhook_queue q WHERE q.webhook_id = walk.webhook_id) due
"""
