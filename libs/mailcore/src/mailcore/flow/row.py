"""An email as the row that is stored: large parts go to the blob store before the transaction, small ones stay with the row."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import orjson

from mailcore.blob.base import INLINE_BYTES, BlobStore, new_key
from mailcore.dsn.wishes import Wishes
from mailcore.flow.new_email import NewAttachment, NewEmail
from mailcore.kit.ids import uuid7, uuid7_text
from mailcore.smtp.address import Address
from mailcore.smtp.dsn import Notify
from mailcore.store.emails import NewRow, Suppressed, text_array
from mailcore.store.owed import Unsent

INLINE_TOTAL = 4 * INLINE_BYTES
"""Of one email's attachments; beyond it the small ones go to the blob store too."""


async def row_of(
    blobs: BlobStore,
    org_id: UUID,
    email: NewEmail,
    domain_id: UUID,
    recipients: list[Address],
    of_lanes: list[int],
    now: datetime,
) -> NewRow:
    id_ = uuid7_text()
    html, text, body_blob, body_bytes = email.html, email.text, None, 0
    if is_long(html) or is_long(text):
        html, text, body_blob, body_bytes = await _body(blobs, org_id, UUID(id_), html, text)
    rest: dict[str, object] = {}
    for name, mailboxes in (("cc", email.cc), ("bcc", email.bcc), ("reply_to", email.reply_to)):
        if mailboxes is not None:
            rest[name] = text_array(mailboxes)
    if email.headers:
        rest["headers"] = email.headers
    if email.tags:
        rest["tags"] = email.tags
    if email.attachments:
        rest["attachments"] = await _attachments(blobs, org_id, UUID(id_), email.attachments)
    if body_blob is not None:
        rest["body_blob"], rest["body_bytes"] = body_blob, body_bytes
    if email.raw is not None:
        rest |= await _raw(blobs, org_id, UUID(id_), email.raw)
    if email.track_opens is not None:
        rest["track_opens"] = email.track_opens
    if email.track_clicks is not None:
        rest["track_clicks"] = email.track_clicks
    if email.dsn is not None:
        rest["dsn"] = email.dsn
    if email.passed_on is not None:
        rest["passed_on"] = email.passed_on
    if email.requiretls:
        rest["requiretls"] = True
    return NewRow(
        id_,
        org_id,
        domain_id,
        int(email.broadcast),
        email.from_,
        text_array(email.to),
        email.subject,
        html,
        text,
        orjson.dumps(rest).decode() if rest else None,
        email.message_id or f"<{id_}@{email.domain}>",
        email.scheduled_at,
        now,
        [str(address) for address in recipients],
        of_lanes,
    )


async def _body(
    blobs: BlobStore, org_id: UUID, email_id: UUID, html: str | None, text: str | None
) -> tuple[str | None, str | None, str | None, int]:
    content = orjson.dumps({"html": html, "text": text})
    if len(content) <= INLINE_BYTES:
        return html, text, None, 0
    key = new_key(org_id, email_id)
    await blobs.put(key, content)
    return None, None, key, len(content)


async def _raw(blobs: BlobStore, org_id: UUID, email_id: UUID, raw: bytes) -> dict[str, object]:
    if len(raw) <= INLINE_BYTES:
        return {"raw": base64.b64encode(raw).decode()}
    key = new_key(org_id, email_id)
    await blobs.put(key, raw)
    return {"raw_blob": key, "body_bytes": len(raw)}


async def _attachments(
    blobs: BlobStore, org_id: UUID, email_id: UUID, attachments: Sequence[NewAttachment]
) -> list[dict[str, object]]:
    stored = []
    inline = 0
    for attachment in attachments:
        entry: dict[str, object] = {
            "id": str(uuid7()),
            "filename": attachment.filename,
            "content_type": attachment.content_type,
            "content_id": attachment.content_id,
            "disposition": attachment.disposition,
            "size": len(attachment.content),
        }
        inline += len(attachment.content)
        if len(attachment.content) > INLINE_BYTES or inline > INLINE_TOTAL:
            entry["blob"] = key = new_key(org_id, email_id)
            await blobs.put(key, attachment.content)
        else:
            entry["content"] = base64.b64encode(attachment.content).decode()
        stored.append(entry)
    return stored


def is_long(text: str | None) -> bool:
    """So that it may not fit into the row: a character has four octets at most."""
    return text is not None and len(text) > INLINE_BYTES // 4


def distinct(recipients: list[Address]) -> list[Address]:
    if len(recipients) == 1:
        return recipients
    distinct: dict[str, Address] = {}
    for address in recipients:
        distinct.setdefault(str(address).lower(), address)
    return list(distinct.values())


def unsent(ready: Sequence[NewRow], suppressed: Sequence[Suppressed]) -> list[Unsent]:
    """Of recipients that were suppressed when the mail was handed in: those whose sender wants to be told (dsn.wishes)."""
    rows = {row.id: row for row in ready if row.rest and '"dsn"' in row.rest}
    found = []
    for each in suppressed:
        row = rows.get(str(each.email_id))
        wishes = Wishes.from_json(orjson.loads(row.rest or "{}").get("dsn") or {}) if row else Wishes("")
        if row is not None and wishes.wants(n := row.recipients.index(each.recipient), Notify.FAILURE):
            found.append(Unsent(each.email_id, n, each.org_id))
    return found
