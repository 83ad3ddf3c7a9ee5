"""Emails: written by the door of sending, with deliveries, queue rows, events and idempotency keys in one statement. Read by
store.sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from asyncpg import Record

from mailcore.store import idempotency
from mailcore.store.events import FAN_OUT
from mailcore.store.idempotency import Busy, Stored, Wanted
from mailcore.store.session import Connection


class NewRow(NamedTuple):
    """An email as it is stored; up to `created_at` in the order of the statement's parameters."""

    id: str
    """UUIDv7 as text: making a UUID and writing it down again costs as much as storing it. Its `email.sent` or `email.scheduled`
    has the same."""
    org_id: UUID
    domain_id: UUID
    class_: int
    from_: str
    to: str
    """As `text_array` writes it."""
    subject: str
    html: str | None
    text: str | None
    rest: str | None
    """JSON of what few emails have: cc, bcc, reply_to (as `text_array`), headers, tags, attachments, body_blob, raw (base64),
    raw_blob, body_bytes, track_opens, track_clicks, dsn, requiretls, passed_on."""
    message_id: str
    scheduled_at: datetime | None
    created_at: datetime
    recipients: list[str]
    """Distinct, in the order of To, Cc, Bcc."""
    lanes: list[int]
    """One a recipient."""


_COLUMNS = NewRow._fields.index("created_at") + 1


@dataclass(slots=True)
class Inserted:
    sites: list[int]
    """Which now have due rows."""
    webhooks: int
    """Webhook deliveries that were queued."""
    suppressed: list[Suppressed]
    """Recipients that are on their organization's list: not queued. Their events are the caller's to raise."""
    refused: dict[int, Stored | Busy]
    """Keys that were not to be had, by their place: nothing was stored of their emails."""


@dataclass(frozen=True, slots=True)
class Suppressed:
    email_id: UUID
    org_id: UUID
    recipient: str
    origin: str


def text_array(items: Sequence[str]) -> str:
    """A text[] as Postgres reads it: arrays of arrays would have to be rectangular."""
    return (
        '{"' + '","'.join([item.replace("\\", "\\\\").replace('"', '\\"') for item in items]) + '"}' if items else "{}"
    )


async def insert(db: Connection, rows: Sequence[NewRow]) -> Inserted:
    """Emails, their deliveries, queue rows, events and what they count against quotas in one statement; role door or worker.

    Few and narrow arrays: encoding them is the largest part of what a mail costs this process (bench/README.md).
    """
    return _inserted(await db.fetchrow(_INSERT, *_arguments(rows)))


async def insert_once(
    db: Connection, rows: Sequence[NewRow], keys: Sequence[Wanted], key_of: Sequence[int]
) -> Inserted:
    """`insert`, and `idempotency.take` for the keys before it, in the same round trip; role door.

    `key_of`: for each row the place of its key, from 1; 0 for none. Raises RuntimeError: the transaction must not be committed.
    """
    done = await db.fetchrow(_INSERT_ONCE, *_arguments(rows), *idempotency.arguments(keys), key_of)
    inserted = _inserted(done)
    for place, busy, fingerprint, response in zip(*(done[name] for name in _REFUSED), strict=True):
        inserted.refused[place - 1] = idempotency.refusal(busy, fingerprint, response)
    return inserted


_REFUSED = ("refused_keys", "busy", "fingerprints", "responses")


def _arguments(rows: Sequence[NewRow]) -> list[Sequence[object]]:
    emails = zip(*[row[:_COLUMNS] for row in rows], strict=True)
    deliveries = zip(
        *[
            (place, n, recipient, lane)
            for place, row in enumerate(rows, 1)
            for n, (recipient, lane) in enumerate(zip(row.recipients, row.lanes, strict=True))
        ],
        strict=True,
    )
    due = {lane for row in rows if row.scheduled_at is None for lane in row.lanes}
    return [*emails, *deliveries, list(due)]


def _inserted(done: Record) -> Inserted:
    suppressed = [Suppressed(UUID(row[0]), UUID(row[1]), row[2], row[3]) for row in done["suppressed"] or ()]
    return Inserted(done["sites"], done["queued"], suppressed, {})


_STATEMENT = """
WITH {keys}new_emails AS (
  INSERT INTO emails (id, org_id, domain_id, class, from_, to_, subject, html, text_, cc, bcc, reply_to, headers, tags,
                      attachments, body_blob, body_bytes, raw, raw_blob, track_opens, track_clicks, dsn, requiretls,
                      passed_on, message_id, scheduled_at, created_at)
  SELECT id, org_id, domain_id, class, from_, to_::text[], subject, html, text_, (rest->>'cc')::text[], (rest->>'bcc')::text[],
         (rest->>'reply_to')::text[], rest->'headers', rest->'tags', rest->'attachments', rest->>'body_blob',
         (rest->>'body_bytes')::integer, decode(rest->>'raw', 'base64'), rest->>'raw_blob', (rest->>'track_opens')::boolean,
         (rest->>'track_clicks')::boolean, rest->'dsn', (rest->>'requiretls')::boolean, rest->'passed_on', message_id,
         scheduled_at, created_at
  FROM (
    SELECT id, org_id, domain_id, class, from_, to_, subject, html, text_, rest::jsonb AS rest, message_id, scheduled_at,
           created_at
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::smallint[], $5::text[], $6::text[], $7::text[], $8::text[],
                $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[])
      AS t (id, org_id, domain_id, class, from_, to_, subject, html, text_, rest, message_id, scheduled_at, created_at)
    WHERE {kept}
  ) AS e
), copies AS (
  -- relays are asked of in what is selected: as a condition on the lane alone it would be tested for each who is on no list, too
  SELECT ($1::uuid[])[place] AS email_id, n, ($2::uuid[])[place] AS org_id, recipient, lane_id,
         ($12::timestamptz[])[place] AS scheduled_at, ($13::timestamptz[])[place] AS created_at,
         (SELECT CASE WHEN NOT lookup_relay(d.lane_id) THEN s.origin END FROM suppressions s
          WHERE s.org_id = ($2::uuid[])[d.place] AND s.email = lower(d.recipient COLLATE "C")) AS suppressed
  FROM unnest($14::integer[], $15::smallint[], $16::text[], $17::bigint[]) AS d (place, n, recipient, lane_id)
  WHERE {kept_place}
), new_deliveries AS (
  INSERT INTO deliveries (email_id, n, org_id, recipient, state, last_event, last_event_at)
  SELECT email_id, n, org_id, recipient,
         CASE WHEN suppressed IS NOT NULL THEN 'suppressed' WHEN scheduled_at IS NULL THEN 'queued' ELSE 'scheduled' END,
         CASE WHEN suppressed IS NOT NULL THEN 'suppressed' WHEN scheduled_at IS NULL THEN 'sent' ELSE 'scheduled' END,
         created_at
  FROM copies
), waiting AS (
  INSERT INTO queue (email_id, n, org_id, lane_id, due_at, recipient)
  SELECT email_id, n, org_id, lane_id, COALESCE(scheduled_at, now()), recipient FROM copies WHERE suppressed IS NULL
), counted AS (
  INSERT INTO usage_deltas (org_id, day, sent)
  SELECT org_id, (now() AT TIME ZONE 'UTC')::date, count(*) FROM copies GROUP BY org_id
), listed AS MATERIALIZED (
  SELECT email_id, org_id, recipient, suppressed FROM copies WHERE suppressed IS NOT NULL
), new_events AS (
  -- without recipients of its own the event concerns all of the email's; of one with suppressed ones it names the others
  SELECT id, org_id, CASE WHEN scheduled_at IS NULL THEN 'email.sent' ELSE 'email.scheduled' END AS type,
         id AS object_id,
         CASE WHEN EXISTS (SELECT FROM listed) AND EXISTS (SELECT FROM listed l WHERE l.email_id = t.id)
              THEN ARRAY(SELECT c.recipient FROM copies c WHERE c.email_id = t.id AND c.suppressed IS NULL ORDER BY c.n)
              END AS recipients,
         NULL::jsonb AS detail, created_at
  FROM unnest($1::uuid[], $2::uuid[], $12::timestamptz[], $13::timestamptz[])
    AS t (id, org_id, scheduled_at, created_at)
  -- nothing is sent of an email whose recipients are all suppressed
  WHERE {kept} AND CASE WHEN EXISTS (SELECT FROM listed)
             THEN EXISTS (SELECT FROM copies c WHERE c.email_id = t.id AND c.suppressed IS NULL) ELSE true END
), {fan_out}
SELECT ARRAY(SELECT DISTINCT r.site_id FROM lanes l JOIN recipient_domains r ON r.domain = l.domain
             WHERE l.id = ANY ($18::bigint[])) AS sites,
       (SELECT count(*) FROM wanted) AS queued,
       (SELECT jsonb_agg(jsonb_build_array(email_id, org_id, recipient, suppressed)) FROM listed) AS suppressed{answers}
"""
_INSERT = _STATEMENT.format(keys="", kept="true", kept_place="true", answers="", fan_out=FAN_OUT)
_INSERT_ONCE = _STATEMENT.format(
    keys="""
keys AS MATERIALIZED (
  SELECT * FROM take_idempotency_keys($19::uuid[], $20::text[], $21::text[], $22::bigint[], $23::bytea[], $24::bytea[])
    WITH ORDINALITY AS k (busy, mine, fingerprint, response, place)
), refused AS MATERIALIZED (
  SELECT place::integer, busy, fingerprint, response FROM keys WHERE NOT mine ORDER BY place
), dropped AS MATERIALIZED (
  SELECT e.id FROM unnest($1::uuid[], $25::integer[]) AS e (id, key) JOIN refused r ON r.place = e.key
), """,
    kept="id <> ALL (ARRAY(SELECT d.id FROM dropped d))",
    kept_place="($1::uuid[])[place] <> ALL (ARRAY(SELECT d.id FROM dropped d))",
    answers=""",
       ARRAY(SELECT place FROM refused) AS refused_keys, ARRAY(SELECT busy FROM refused) AS busy,
       ARRAY(SELECT fingerprint FROM refused) AS fingerprints, ARRAY(SELECT response FROM refused) AS responses""",
    fan_out=FAN_OUT,
)
