"""Emails: written by the door of sending, with their deliveries and queue rows in one statement; read by organization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import asyncpg

from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection


@dataclass(slots=True)
class NewRow:
    """An email as it is stored. Lists of text and JSON are already written as Postgres reads them."""

    id: UUID
    org_id: UUID
    domain_id: UUID
    class_: int
    from_: str
    to: str
    cc: str | None
    bcc: str | None
    reply_to: str | None
    subject: str
    html: str | None
    text: str | None
    headers: str | None
    tags: str | None
    attachments: str | None
    body_blob: str | None
    message_id: str
    scheduled_at: datetime | None
    created_at: datetime
    recipients: list[str] = field(default_factory=list)
    """Distinct, in the order of To, Cc, Bcc."""
    lanes: list[int] = field(default_factory=list)
    """One a recipient."""


def text_array(items: Sequence[str]) -> str:
    """A text[] as Postgres reads it: arrays of arrays would have to be rectangular."""
    return (
        '{"' + '","'.join([item.replace("\\", "\\\\").replace('"', '\\"') for item in items]) + '"}' if items else "{}"
    )


async def insert(db: Connection, rows: Sequence[NewRow]) -> list[int]:
    """Emails, their deliveries and queue rows; role door or worker. Returns the sites that now have due rows."""
    emails = zip(
        *[
            (
                *(
                    r.id,
                    r.org_id,
                    r.domain_id,
                    r.class_,
                    r.from_,
                    r.to,
                    r.cc,
                    r.bcc,
                    r.reply_to,
                    r.subject,
                    r.html,
                    r.text,
                ),
                *(r.headers, r.tags, r.attachments, r.body_blob, r.message_id, r.scheduled_at, r.created_at),
            )
            for r in rows
        ],
        strict=True,
    )
    deliveries = zip(
        *[
            (r.id, n, r.org_id, recipient, lane, r.scheduled_at, r.created_at)
            for r in rows
            for n, (recipient, lane) in enumerate(zip(r.recipients, r.lanes, strict=True))
        ],
        strict=True,
    )
    due = {lane for r in rows if r.scheduled_at is None for lane in r.lanes}
    sites = await db.fetch(_INSERT, *emails, *deliveries, due)
    return [row["site_id"] for row in sites]


async def find(db: Connection, id_: UUID) -> asyncpg.Record | None:
    """With `last_event`; role app."""
    return await db.fetchrow(f"SELECT {_SUMMARY}, html, text_, tags, body_blob FROM emails e WHERE id = $1", id_)


async def page(db: Connection, page: Page) -> Slice:
    return await fetch(db, f"SELECT {_SUMMARY} FROM emails e WHERE org_id = (SELECT current_org())", [], page)


# of several recipients the latest event speaks for the email
_SUMMARY = """id, message_id, to_, from_, created_at, subject, cc, bcc, reply_to, scheduled_at,
  (SELECT d.last_event FROM deliveries d WHERE d.email_id = e.id ORDER BY d.last_event_at DESC, d.n LIMIT 1) AS last_event"""

_INSERT = """
WITH new_emails AS (
  INSERT INTO emails (id, org_id, domain_id, class, from_, to_, cc, bcc, reply_to, subject, html, text_, headers, tags,
                      attachments, body_blob, message_id, scheduled_at, created_at)
  SELECT id, org_id, domain_id, class, from_, to_::text[], cc::text[], bcc::text[], reply_to::text[], subject, html, text_,
         headers::jsonb, tags::jsonb, attachments::jsonb, body_blob, message_id, scheduled_at, created_at
  FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::smallint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
              $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[],
              $18::timestamptz[], $19::timestamptz[])
    AS t (id, org_id, domain_id, class, from_, to_, cc, bcc, reply_to, subject, html, text_, headers, tags, attachments,
          body_blob, message_id, scheduled_at, created_at)
), new_deliveries AS (
  INSERT INTO deliveries (email_id, n, org_id, recipient, state, last_event, last_event_at)
  SELECT email_id, n, org_id, recipient,
         CASE WHEN scheduled_at IS NULL THEN 'queued' ELSE 'scheduled' END,
         CASE WHEN scheduled_at IS NULL THEN 'sent' ELSE 'scheduled' END, created_at
  FROM unnest($20::uuid[], $21::smallint[], $22::uuid[], $23::text[], $25::timestamptz[], $26::timestamptz[])
    AS t (email_id, n, org_id, recipient, scheduled_at, created_at)
), waiting AS (
  INSERT INTO queue (email_id, n, org_id, lane_id, due_at)
  SELECT email_id, n, org_id, lane_id, COALESCE(scheduled_at, now())
  FROM unnest($20::uuid[], $21::smallint[], $22::uuid[], $24::bigint[], $25::timestamptz[])
    AS t (email_id, n, org_id, lane_id, scheduled_at)
)
SELECT DISTINCT r.site_id FROM lanes l JOIN recipient_domains r ON r.domain = l.domain WHERE l.id = ANY ($27::bigint[])
"""
