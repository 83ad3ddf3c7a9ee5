"""From stored content to signed bytes, once an email, in processes of their own (`outbound.signers`).

1. large parts come from the blob store
2. compose and sign
   a message that was handed in whole is signed as it stands, with what others have signed; one that is only passed on is not
   tracking comes before signing, and the text that is made from the html before tracking
3. every attempt of every process makes the same bytes: date, Message-ID, boundaries and signature times come from the row.
   Of a mail that has waited for days (held back, or its site suspended) the signature is made anew, so that it is good for
   days more when the mail arrives

Keys and tracking come from the domain. Where its owner changes them between two attempts, the later bytes differ, and nothing
hangs on that: each attempt sends a whole, signed mail under the same Message-ID, and links of both lead to the same places.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from mailcore.blob.base import BlobStore
from mailcore.flow.passed_on import PassedOn
from mailcore.kit.errors import NotFound, Refused
from mailcore.kit.log import logger
from mailcore.mailauth.dkim.keys import SigningKey
from mailcore.mailauth.dkim.sign import sign
from mailcore.mime.compose import Message, Part, compose
from mailcore.mime.plaintext import html_to_text
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store.contents import Content
from outbound.tracking import Tracker, tracked_html, tracked_raw, with_unsubscribe

log = logger(__name__)

CHUNK = 25
"""Mails that are composed in one go: a chunk takes some 10 ms."""
CHUNK_BYTES = 1024 * 1024
"""Of them, where they are large; a larger one is composed alone."""
SIGNATURE_STEP = 3 * 86_400
"""Seconds after which a mail that still waits is signed as of a later time: a signature is good for seven days (x=)."""


class Work(NamedTuple):
    """One email to compose: its content with nothing left to fetch, and the keys that sign it."""

    content: Content
    html: str | None
    text: str | None
    parts: tuple[Part, ...]
    keys: tuple[SigningKey, ...]
    raw: bytes | None = None
    tracker: Tracker | None = None


Composed = bytes | Outcome
"""What goes on the wire, or what its deliveries get instead."""


async def fetch(
    content: Content, keys: tuple[SigningKey, ...], blobs: BlobStore, tracker: Tracker | None = None
) -> Work | Outcome:
    """Its large parts from the blob store. A blob that is not there may be on its way back: the mail waits."""
    html, text, raw = content.html, content.text, content.raw
    try:
        if content.raw_blob is not None:
            raw = await blobs.get(content.raw_blob)
        if content.body_blob is not None:
            body = orjson.loads(await blobs.get(content.body_blob))
            html, text = body.get("html"), body.get("text")
        parts = [await _part(attachment, blobs) for attachment in content.attachments]
    except Exception as error:  # of this mail alone: the others of its claim do not hang on it
        log.error("the content of an email cannot be read", email_id=str(content.id), error=repr(error))
        what = "is not in the blob store" if isinstance(error, NotFound) else "cannot be read just now"
        return Outcome(Result.DEFERRED, Reply(451, f"a part of the mail {what}", "4.3.0"), rule="content-unavailable")
    return Work(content, html, text, tuple(parts), keys, raw, tracker)


async def _part(attachment: dict[str, Any], blobs: BlobStore) -> Part:
    key = attachment.get("blob")
    octets = await blobs.get(key) if key else base64.b64decode(attachment["content"])
    return Part(
        octets,
        attachment.get("content_type") or "application/octet-stream",
        attachment.get("filename"),
        attachment.get("content_id"),
        attachment.get("disposition") or "attachment",
    )


def chunks(sizes: dict[UUID, int]) -> list[dict[UUID, int]]:
    """Emails that are composed together, with their sizes."""
    chunks: list[dict[UUID, int]] = []
    octets = 0
    for id_, size in sizes.items():
        octets += size
        if not chunks or octets > CHUNK_BYTES or len(chunks[-1]) == CHUNK:
            chunks.append({})
            octets = size
        chunks[-1][id_] = size
    return chunks


def compose_these(work: Sequence[Work]) -> list[Composed]:
    now = time.time()
    return [compose_one(each, now) for each in work]


def compose_one(work: Work, now: float) -> Composed:
    """Pure: the same bytes from the same row and keys, wherever, and for SIGNATURE_STEP after the row's time, whenever.

    `now` in seconds since 1970.
    """
    content = work.content
    if not work.keys and not content.relayed:
        # never unsigned; a key is made or mended while the mail waits
        return Outcome(
            Result.DEFERRED, Reply(451, "the sending domain has no usable DKIM key", "4.7.0"), rule="no-signing-key"
        )
    try:
        date = content.scheduled_at or content.created_at
        signed_at = signature_time(date, now)
        if content.passed_on is not None and work.raw is not None:
            return PassedOn.from_json(content.passed_on).octets(work.raw, work.keys, now=signed_at)
        tracking = work.tracker.of(content) if work.tracker else None
        if work.raw is not None:
            raw = tracked_raw(work.raw, content, tracking) if tracking else work.raw
            return _signed(*_split(raw), work.keys, signed_at)
        html, text, headers = work.html, work.text, content.headers
        if work.tracker:
            html, text, headers = with_unsubscribe(work.tracker, content, html, text)
        if text is None and html is not None:
            text = html_to_text(html)
        if html and tracking:
            html = tracked_html(html, content, tracking)
        message = Message(
            from_=content.from_,
            to=content.to,
            cc=content.cc,
            reply_to=content.reply_to,
            subject=content.subject,
            html=html,
            text=text,
            headers=headers,
            attachments=work.parts,
            message_id=content.message_id,
            date=date,
            boundary_seed=content.id.bytes,
        )
        composed = compose(message)
        return _signed(composed.head, composed.body, work.keys, signed_at)
    except Refused as error:
        return Outcome(Result.FAILED, Reply(554, error.public, "5.6.0"), rule="invalid-message")
    except Exception as error:  # unknown is temporary
        log.error("composing failed", email_id=str(content.id), exc_info=error)
        return Outcome(Result.DEFERRED, Reply(451, "the mail could not be composed", "4.3.0"), rule="internal-error")


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """Header fields with their CRLFs, and the body; the door has seen to it that both are 7-bit with CRLF line ends."""
    head, _, body = raw.partition(b"\r\n\r\n")
    return head.removesuffix(b"\r\n") + b"\r\n", body


def signature_time(date: datetime, now: float) -> int:
    """t= of a mail of this date: the date itself, moved on in whole steps."""
    began = int(date.timestamp())
    return began + max(0, int(now) - began) // SIGNATURE_STEP * SIGNATURE_STEP


def _signed(head: bytes, body: bytes, keys: tuple[SigningKey, ...], signed_at: int) -> bytes:
    signature = sign(head, body, keys, now=signed_at)
    return b"%b%b\r\n%b" % (signature, head, body)
