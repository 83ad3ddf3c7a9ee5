"""What waits for endpoints. The rows of webhook_queue are the work: one an event and endpoint, deleted when final. Role worker.

1. `claim`      walks the endpoints that have rows by a loose index scan (a probe of `webhook_queue_due` each, however many rows
                wait), gives each as many as it has room for, writes lease, attempt and a far due time, and reads what the post
                needs, in one statement
2. `settle`     the attempts of a group and what becomes of their rows; endpoints that fail and those that are well again
3. notices      of endpoints that were disabled

What dead workers held comes back by store.webhook_leases: such a row is a suspect and goes alone from then on (`claim_suspect`).

Order: a row with `object_id` waits for the earlier rows of the same object at its endpoint. One that has failed LINE_ATTEMPTS
times is waited for no longer. A row that waits is put off until the one it waits for is due, so that claims do not step over it
again and again; the end of the earlier one makes it due at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mailcore.events import ROUTED, Event
from mailcore.store.session import Connection
from mailcore.store.webhooks import SUBJECT

LINE_ATTEMPTS = 4
"""So many failed attempts of an event hold up the later ones of its object: some 36 minutes by the schedule of §10.3."""
PUT_OFF = 5_000
"""Rows of a line that one claim puts off."""


# ---- 1. claim --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claimed:
    """A row leased to `worker`, with all that its post needs."""

    event_id: UUID
    webhook_id: UUID
    org_id: UUID
    worker: int
    attempt: int
    """This one's number, from 1."""
    attempts_before: int
    """Of these, made before the last replay: the schedule began anew behind them."""
    suspect: bool
    endpoint: str
    secrets_sealed: Sequence[bytes]
    """The newest first, then those that were rotated away and still sign."""
    event: Event | None
    """None when history no longer has it."""
    subject: Mapping[str, Any] | None
    """The row the event is about, as events.payload wants it."""
    raw: tuple[bytes | None, str | None] | None
    """Where the mail itself is (octets, key of a blob), for a routed one, or an endpoint that wants bodies of received mail."""


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
    await _by_index(db)
    rows = await db.fetch(
        _CLAIM_WALK, worker, hold_seconds, limit, after, {str(id_): n for id_, n in rooms.items()}, room
    )
    return [_claimed(row, worker) for row in rows]


async def claim_of(
    db: Connection, worker: int, *, limit: int, rooms: Mapping[UUID, int], hold_seconds: float
) -> list[Claimed]:
    """As claim, of these endpoints only."""
    await _by_index(db)
    rows = await db.fetch(_CLAIM_OF, worker, hold_seconds, limit, list(rooms), list(rooms.values()))
    return [_claimed(row, worker) for row in rows]


async def claim_suspect(db: Connection, worker: int, *, hold_seconds: float) -> Claimed | None:
    """One row whose worker died with it; ask for the next when this one's post is over, or waits for its endpoint."""
    await _by_index(db)
    rows = await db.fetch(_CLAIM_SUSPECT, worker, hold_seconds, 1)
    return _claimed(rows[0], worker) if rows else None


async def put_off(db: Connection, seconds: Mapping[UUID, float]) -> None:
    """Event → how long its deliveries wait. In the transaction that raised the events."""
    await db.execute(
        "UPDATE webhook_queue q SET due_at = q.due_at + make_interval(secs => w.seconds) "
        "FROM unnest($1::uuid[], $2::float8[]) AS w (event_id, seconds) WHERE q.event_id = w.event_id",
        *(list(seconds), list(seconds.values())),
    )


async def _by_index(db: Connection) -> None:
    """For this transaction: a plan made while the queue was short must not read all of it when it is long."""
    await db.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")


def _claimed(row: Mapping[str, Any], worker: int) -> Claimed:
    event = None
    if row["type"] is not None:
        event = Event(row["event_id"], row["type"], row["created_at"], row["recipients"], row["detail"])
    wants_body = row["type"] == ROUTED or (row["include_body"] and row["type"] == "email.received")
    return Claimed(
        row["event_id"],
        row["webhook_id"],
        row["org_id"],
        worker,
        row["attempt"],
        row["attempts_before"],
        row["crashes"] > 0,
        row["endpoint"],
        [row["secret_sealed"], *row["old_secrets"]],
        event,
        row["subject"],
        (row["raw"], row["raw_blob"]) if wants_body else None,
    )


WALK = """
walk (webhook_id) AS (
  (SELECT webhook_id FROM webhook_queue WHERE webhook_id > {after} ORDER BY webhook_id LIMIT 1)
  UNION ALL
  SELECT (SELECT q.webhook_id FROM webhook_queue q WHERE q.webhook_id > walk.webhook_id ORDER BY q.webhook_id LIMIT 1)
  FROM walk WHERE walk.webhook_id IS NOT NULL
)"""

# an earlier row `f` of the line of `q` that is waited for
_EARLIER = f"""
f.webhook_id = q.webhook_id AND f.object_id = q.object_id AND f.event_id < q.event_id
AND (f.attempt < {LINE_ATTEMPTS} OR f.worker IS NOT NULL)"""

_FREE = f"""
q.due_at <= clock_timestamp() AND q.worker IS NULL
AND (q.object_id IS NULL OR NOT EXISTS (SELECT FROM webhook_queue f WHERE {_EARLIER}))"""

_ENABLED = "EXISTS (SELECT FROM webhooks w WHERE w.id = {id}.webhook_id AND w.status = 'enabled')"

# $1 worker, $2 hold seconds, $3 limit. The sub-selects keep Postgres from joining whole tables: a probe a claimed row.
_TAKE = f"""
taken AS (
  UPDATE webhook_queue q SET worker = $1, attempt = q.attempt + 1, leased_at = clock_timestamp(),
         due_at = clock_timestamp() + make_interval(secs => $2)
  FROM picked WHERE q.event_id = picked.event_id AND q.webhook_id = picked.webhook_id
  RETURNING q.event_id, q.webhook_id, q.org_id, q.attempt, q.attempts_before, q.crashes
)
SELECT taken.*, w.endpoint, w.secret_sealed, w.old_secrets, w.include_body, e.type, e.created_at, e.recipients, e.detail,
       {SUBJECT} AS subject, a.raw, a.raw_blob
FROM taken
CROSS JOIN LATERAL (
  SELECT endpoint, secret_sealed, include_body,
         ARRAY(SELECT t.secret FROM unnest(old_secrets_sealed, old_secrets_until) AS t (secret, until)
               WHERE t.until > clock_timestamp()) AS old_secrets
  FROM webhooks WHERE id = taken.webhook_id OFFSET 0) w
LEFT JOIN LATERAL (
  SELECT type, object_id, created_at, recipients, detail FROM events WHERE id = taken.event_id OFFSET 0) e ON true
LEFT JOIN LATERAL (
  SELECT raw, raw_blob FROM arrivals
  WHERE (e.type = 'email.routed' OR w.include_body AND e.type = 'email.received') AND id = e.object_id OFFSET 0) a ON true
"""

_PICK = f"""
put_off AS (
  UPDATE webhook_queue q SET due_at = late.until
  FROM (
    SELECT q.event_id, q.webhook_id, greatest(ahead.due_at, clock_timestamp()) + interval '1 second' AS until
    FROM webhook_queue q
    CROSS JOIN LATERAL (SELECT max(f.due_at) AS due_at FROM webhook_queue f WHERE {_EARLIER}) ahead
    WHERE q.object_id IS NOT NULL AND q.due_at <= clock_timestamp() AND q.worker IS NULL AND ahead.due_at IS NOT NULL
    LIMIT {PUT_OFF} FOR UPDATE OF q SKIP LOCKED
  ) late
  WHERE q.event_id = late.event_id AND q.webhook_id = late.webhook_id
), picked AS MATERIALIZED (
  SELECT due.event_id, due.webhook_id
  FROM {{endpoints}} CROSS JOIN LATERAL (
    SELECT q.event_id, q.webhook_id FROM webhook_queue q
    WHERE q.webhook_id = {{endpoints}}.webhook_id AND {_FREE} AND q.crashes = 0 AND {_ENABLED.format(id="{endpoints}")}
    ORDER BY q.due_at LIMIT {{room}} FOR UPDATE OF q SKIP LOCKED
  ) due
  LIMIT $3
)"""

_CLAIM_WALK = f"""
WITH RECURSIVE {WALK.format(after="$4")},
{_PICK.format(endpoints="walk", room="coalesce(($5::jsonb -> walk.webhook_id::text)::int, $6::int)")}, {_TAKE}
"""
_CLAIM_OF = f"""
WITH known AS (SELECT * FROM unnest($4::uuid[], $5::int[]) AS t (webhook_id, room)),
{_PICK.format(endpoints="known", room="known.room")}, {_TAKE}
"""
_CLAIM_SUSPECT = f"""
WITH picked AS MATERIALIZED (
  SELECT q.event_id, q.webhook_id FROM webhook_queue q
  WHERE q.crashes > 0 AND {_FREE} AND {_ENABLED.format(id="q")}
  ORDER BY q.due_at LIMIT $3 FOR UPDATE OF q SKIP LOCKED
), {_TAKE}
"""


# ---- 2. settle -------------------------------------------------------------------------------------------------------


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
    disable: str | None = None
    """Why the endpoint is to be disabled: it asked for that."""


@dataclass(frozen=True, slots=True)
class Disabled:
    webhook_id: UUID
    org_id: UUID
    reason: str


async def settle(db: Connection, rows: Sequence[Settled], *, disable_after: float) -> tuple[int, list[Disabled]]:
    """Writes the attempts and moves the rows on, each only where its lease and attempt are still the ones of the post.

    Endpoints none of whose posts succeeded for `disable_after` seconds are disabled. Returns how many rows were moved (the
    others' leases were taken back, and their posts will be made again with the same message id) and which endpoints were
    disabled.
    """
    rows = sorted(rows, key=lambda row: (row.claimed.event_id, row.claimed.webhook_id))
    # endpoints before rows, as a replay locks them
    disabled = await db.fetch(
        _HEALTH,
        [row.claimed.webhook_id for row in rows],
        [row.success for row in rows],
        [row.at for row in rows],
        [row.disable for row in rows],
        float(disable_after),
    )
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
    return moved, [Disabled(row["id"], row["org_id"], row["disabled_reason"]) for row in disabled]


_SETTLE = f"""
WITH posted AS (
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::smallint[], $5::uuid[], $6::timestamptz[], $7::text[], $8::int[],
                       $9::text[], $10::float8[])
    AS t (event_id, webhook_id, worker, attempt, id, at, state, http_status, response, retry_seconds)
), again AS (
  -- no crash: a row that has been posted alone and failed as others do goes with the others again
  UPDATE webhook_queue q SET worker = NULL, leased_at = NULL, crashes = 0,
         due_at = clock_timestamp() + make_interval(secs => p.retry_seconds)
  FROM posted p
  WHERE p.state = 'attempting' AND q.event_id = p.event_id AND q.webhook_id = p.webhook_id AND q.worker = p.worker
    AND q.attempt = p.attempt
  RETURNING q.event_id, q.webhook_id, q.org_id, q.object_id, q.attempt >= {LINE_ATTEMPTS} AS passed
), done AS (
  DELETE FROM webhook_queue q USING posted p
  WHERE p.state <> 'attempting' AND q.event_id = p.event_id AND q.webhook_id = p.webhook_id AND q.worker = p.worker
    AND q.attempt = p.attempt
  RETURNING q.event_id, q.webhook_id, q.org_id, q.object_id, true AS passed
), mine AS (
  SELECT * FROM again UNION ALL SELECT * FROM done
), next_in_line AS (
  UPDATE webhook_queue q SET due_at = clock_timestamp()
  FROM mine
  WHERE mine.object_id IS NOT NULL AND mine.passed AND q.webhook_id = mine.webhook_id AND q.object_id = mine.object_id
    AND q.event_id > mine.event_id AND q.worker IS NULL AND q.attempt = 0
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

# Nothing is written about an endpoint that is well and was, or that fails and did. One success in a group is enough to be well.
_HEALTH = """
WITH posted AS (
  SELECT webhook_id, bool_or(success) AS well, min(at) AS since, max(at) AS last, max(disable) AS asked
  FROM unnest($1::uuid[], $2::boolean[], $3::timestamptz[], $4::text[]) AS t (webhook_id, success, at, disable)
  GROUP BY webhook_id
), changed AS (
  SELECT w.id, p.well, p.since,
         coalesce(p.asked, CASE WHEN NOT p.well AND w.failing_since <= p.last - make_interval(secs => $5) THEN
           'No post to it has succeeded since ' || to_char(w.failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') || '.'
         END) AS reason
  FROM posted p JOIN webhooks w ON w.id = p.webhook_id
  WHERE w.status = 'enabled'
    AND (p.asked IS NOT NULL OR p.well = (w.failing_since IS NOT NULL)
         OR w.failing_since <= p.last - make_interval(secs => $5))
  ORDER BY w.id FOR NO KEY UPDATE OF w
), updated AS (
  UPDATE webhooks w SET
    failing_since = CASE WHEN c.well THEN NULL ELSE coalesce(w.failing_since, c.since) END,
    status = CASE WHEN c.reason IS NULL THEN w.status ELSE 'disabled' END,
    disabled_at = CASE WHEN c.reason IS NULL THEN w.disabled_at ELSE clock_timestamp() END,
    disabled_reason = coalesce(c.reason, w.disabled_reason),
    notice_due = w.notice_due OR c.reason IS NOT NULL
  FROM changed c WHERE w.id = c.id
  RETURNING w.id, w.org_id, w.disabled_reason, c.reason
)
SELECT id, org_id, disabled_reason FROM updated WHERE reason IS NOT NULL
"""


# ---- 3. notices ---------------------------------------------------------------------------------------------------------


async def notices_due(db: Connection, after: UUID, limit: int) -> list[tuple[UUID, UUID]]:
    """Endpoints behind `after` that were disabled and whose owners do not know it yet, with their organizations."""
    rows = await db.fetch(
        "SELECT id, org_id FROM webhooks WHERE notice_due AND id > $1 ORDER BY id LIMIT $2", after, limit
    )
    return [(row["id"], row["org_id"]) for row in rows]


async def take_notice(db: Connection, webhook_id: UUID) -> bool:
    """In the transaction that tells them. False: somebody else has, or it was enabled again."""
    return bool(
        await db.fetchval(
            "UPDATE webhooks SET notice_due = false WHERE id = $1 AND notice_due RETURNING true", webhook_id
        )
    )
