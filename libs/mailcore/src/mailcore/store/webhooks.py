"""Endpoints as their owners see them: how they are set, which events they got, what each attempt came to. Role app.

What the runners do with the queue: store.webhook_queue.
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

MAX_ATTEMPTS = 10_000
"""Of one event at one endpoint, replays included; the column is a smallint."""
MAX_OLD_SECRETS = 4
"""Of several rotations within a day, so many old secrets sign beside the new one."""

COLUMNS = (
    "id, endpoint, events, status, secret_sealed, ordered, include_body, failing_since, disabled_at, disabled_reason, "
    "created_at"
)

SUBJECT = """
CASE
  WHEN e.type = 'email.received' THEN
    (SELECT jsonb_build_object('id', a.id, 'created_at', a.created_at, 'mail_from', a.mail_from, 'rcpt_to', a.rcpt_to,
                               'summary', a.summary) FROM arrivals a WHERE a.id = e.object_id)
  WHEN e.type = 'email.routed' THEN
    (SELECT jsonb_build_object('id', a.id, 'org_id', a.org_id, 'created_at', a.created_at, 'mail_from', a.mail_from,
                               'rcpt_to', a.rcpt_to, 'summary', a.summary, 'auth', a.auth,
                               'findings', a.findings) FROM arrivals a WHERE a.id = e.object_id)
  WHEN e.type LIKE 'email.%' THEN coalesce(
    (SELECT jsonb_build_object('id', m.id, 'created_at', m.created_at, 'message_id', m.message_id, 'from_', m.from_,
                               'to_', m.to_, 'subject', m.subject, 'tags', m.tags) FROM emails m WHERE m.id = e.object_id),
    jsonb_build_object('id', e.object_id))
  WHEN e.type LIKE 'domain.%' THEN
    (SELECT jsonb_build_object('id', d.id, 'created_at', d.created_at, 'name', d.name, 'status', d.status,
                               'region', d.region) FROM domains d WHERE d.id = e.object_id)
END"""
"""The row that an event `e` is about, as events.payload wants it."""


# ---- endpoints -------------------------------------------------------------------------------------------------------


async def add(
    db: Connection,
    *,
    webhook_id: UUID,
    org_id: UUID,
    endpoint: str,
    events: Sequence[str],
    secret_sealed: bytes,
    ordered: bool = False,
    include_body: bool = False,
) -> Any:
    """The row."""
    return await db.fetchrow(
        "INSERT INTO webhooks (id, org_id, endpoint, events, secret_sealed, ordered, include_body) "
        f"VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {COLUMNS}",
        webhook_id,
        org_id,
        endpoint,
        list(events),
        secret_sealed,
        ordered,
        include_body,
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
    ordered: bool | None = None,
    include_body: bool | None = None,
) -> Any | None:
    """What is None stays as it is; a status that is given starts the account of failures afresh. None: no such endpoint."""
    return await db.fetchrow(
        _CHANGE, org_id, webhook_id, endpoint, None if events is None else list(events), status, ordered, include_body
    )


_CHANGE = f"""
UPDATE webhooks SET
  endpoint = coalesce($3, endpoint), events = coalesce($4, events), status = coalesce($5, status),
  ordered = coalesce($6, ordered), include_body = coalesce($7, include_body),
  failing_since = CASE WHEN $5::text IS NULL AND $3 IS NULL THEN failing_since END,
  disabled_at = CASE $5 WHEN 'enabled' THEN NULL WHEN 'disabled' THEN coalesce(disabled_at, now()) ELSE disabled_at END,
  disabled_reason = CASE WHEN $5 = 'enabled' THEN NULL ELSE disabled_reason END,
  notice_due = CASE WHEN $5 = 'enabled' THEN false ELSE notice_due END
WHERE org_id = $1 AND id = $2 RETURNING {COLUMNS}
"""


async def rotate(
    db: Connection, org_id: UUID, webhook_id: UUID, *, secret_sealed: bytes, overlap_seconds: float
) -> bool:
    """The secret it had signs for `overlap_seconds` more. False when there is no such endpoint."""
    return bool(await db.fetchval(_ROTATE, org_id, webhook_id, secret_sealed, float(overlap_seconds), MAX_OLD_SECRETS))


_ROTATE = """
WITH old AS (
  SELECT w.id, array_agg(o.secret ORDER BY o.until DESC) AS secrets, array_agg(o.until ORDER BY o.until DESC) AS untils
  FROM webhooks w CROSS JOIN LATERAL (
    SELECT w.secret_sealed AS secret, clock_timestamp() + make_interval(secs => $4) AS until
    UNION ALL
    SELECT t.secret, t.until FROM unnest(w.old_secrets_sealed, w.old_secrets_until) AS t (secret, until) WHERE t.until > now()
    ORDER BY until DESC LIMIT $5
  ) o
  WHERE w.org_id = $1 AND w.id = $2 GROUP BY w.id
)
UPDATE webhooks w SET secret_sealed = $3, old_secrets_sealed = old.secrets, old_secrets_until = old.untils
FROM old WHERE w.id = old.id RETURNING true
"""


async def remove(db: Connection, org_id: UUID, webhook_id: UUID) -> bool:
    """What still waits for it is taken away by the runner (`forget`). False when there is no such endpoint."""
    return bool(
        await db.fetchval("DELETE FROM webhooks WHERE org_id = $1 AND id = $2 RETURNING true", org_id, webhook_id)
    )


async def audience(db: Connection, org_id: UUID) -> tuple[str | None, list[str]]:
    """For a notice to the owners: a domain of the organization to send it from (None: there is none), and their addresses."""
    domain = await db.fetchval(
        "SELECT name FROM domains WHERE org_id = $1 AND sending AND status = 'verified' ORDER BY id LIMIT 1", org_id
    )
    rows = await db.fetch(
        "SELECT u.email FROM memberships m JOIN users u ON u.id = m.user_id WHERE m.org_id = $1 AND m.role = 'owner' "
        "ORDER BY m.created_at LIMIT 50",
        org_id,
    )
    return domain, [row["email"] for row in rows]


# ---- what they got ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Posted:
    """An event at one endpoint."""

    event: Event
    object_id: UUID
    state: str
    """`pending`, `attempting`, `success`, `failed`."""
    next_attempt_at: datetime | None
    """None: there will be none, or it is being made."""
    subject: Mapping[str, Any] | None


async def events_page(db: Connection, webhook_id: UUID, page: Page) -> Slice:
    """Rows `event_id, type, created_at, state`, newest first; history that is gone is left out."""
    return await pages.fetch(
        db,
        "SELECT d.event_id, e.type, e.created_at, d.state FROM webhook_deliveries d JOIN events e ON e.id = d.event_id "
        "WHERE d.webhook_id = $1",
        [webhook_id],
        page,
        column="d.event_id",
    )


async def posted(db: Connection, webhook_id: UUID, event_id: UUID) -> Posted | None:
    row = await db.fetchrow(_POSTED, event_id, webhook_id)
    if row is None:
        return None
    event = Event(event_id, row["type"], row["created_at"], row["recipients"], row["detail"])
    return Posted(event, row["object_id"], row["state"], row["next_attempt_at"], row["subject"])


_POSTED = f"""
SELECT e.type, e.created_at, e.recipients, e.detail, e.object_id, d.state, {SUBJECT} AS subject,
       (SELECT q.due_at FROM webhook_queue q
        WHERE q.event_id = $1 AND q.webhook_id = $2 AND q.worker IS NULL) AS next_attempt_at
FROM webhook_deliveries d JOIN events e ON e.id = d.event_id
WHERE d.event_id = $1 AND d.webhook_id = $2
"""


async def attempts_page(db: Connection, webhook_id: UUID, event_id: UUID, *, limit: int, after: UUID | None) -> Slice:
    """Rows `id, at, http_status, response`, newest first, behind the attempt `after`."""
    rows = await db.fetch(
        "SELECT id, at, http_status, response FROM webhook_attempts a WHERE event_id = $1 AND webhook_id = $2 "
        "AND ($3::uuid IS NULL OR attempt < (SELECT attempt FROM webhook_attempts "
        "WHERE event_id = $1 AND webhook_id = $2 AND id = $3)) ORDER BY attempt DESC LIMIT $4",
        event_id,
        webhook_id,
        after,
        limit + 1,
    )
    return Slice(rows[:limit], len(rows) > limit)


async def replay(db: Connection, org_id: UUID, webhook_id: UUID, event_id: UUID) -> str:
    """The event is due now, with the whole schedule before it; one that waits is due now. What came of asking:

    `queued`; `disabled`, the endpoint is; `unknown`, there is no such endpoint, or the event never went to it or is no longer
    kept; `used up`, after MAX_ATTEMPTS.
    """
    # the lock keeps two replays apart: the second sees what the first has queued
    status = await db.fetchval(
        "SELECT status FROM webhooks WHERE org_id = $1 AND id = $2 FOR NO KEY UPDATE", org_id, webhook_id
    )
    if status is None:
        return "unknown"
    # waits for a result that is being settled, so that the count of attempts below is the true one
    waiting = await db.fetchrow(
        "SELECT worker FROM webhook_queue WHERE event_id = $1 AND webhook_id = $2 FOR UPDATE", event_id, webhook_id
    )
    made = await db.fetchval(
        "SELECT (SELECT coalesce(max(a.attempt), 0) FROM webhook_attempts a "
        "WHERE a.event_id = d.event_id AND a.webhook_id = d.webhook_id) FROM webhook_deliveries d "
        "JOIN events e ON e.id = d.event_id WHERE d.event_id = $1 AND d.webhook_id = $2",
        event_id,
        webhook_id,
    )
    if made is None:
        return "unknown"
    if status != "enabled":
        return "disabled"
    if made >= MAX_ATTEMPTS:
        return "used up"
    if waiting is None:
        await db.execute(_QUEUE_AGAIN, event_id, webhook_id, org_id, made)
    elif waiting["worker"] is None:
        await db.execute(
            "UPDATE webhook_queue SET due_at = now(), attempts_before = attempt, object_id = NULL "
            "WHERE event_id = $1 AND webhook_id = $2 AND worker IS NULL",
            event_id,
            webhook_id,
        )
    return "queued"


# out of line (no object_id): what is replayed waits for nobody and holds up nobody
_QUEUE_AGAIN = """
WITH waiting AS (
  INSERT INTO webhook_queue (event_id, webhook_id, org_id, due_at, attempt, attempts_before)
  VALUES ($1, $2, $3, now(), $4, $4)
)
UPDATE webhook_deliveries SET state = 'pending', updated_at = now() WHERE event_id = $1 AND webhook_id = $2
"""
