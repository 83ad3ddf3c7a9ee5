"""The public events: their types, what a webhook carries of them, and how it is signed.

An event row holds `type`, `object_id`, `recipients`, `detail`; the rest of its payload is read from the object when it is
posted, so that nothing is stored twice. What `detail` holds goes into the payload's `data` as it stands, over the object's:

    email.bounced     {"bounce": {"type", "subType", "message", "diagnosticCode": [...]}}     see `bounce`
    email.clicked     {"click": {"ipAddress", "link", "timestamp", "userAgent"}}              see flow.track
    email.delivery_delayed  {"delayed": {"reason"}} of mail that waits for something of ours, not for its next attempt
    email.failed      {"failed": {"reason"}}
    email.suppressed  {"suppressed": {"type", "message", "reason", "diagnosticCode": [...]}}  see `suppressed`
    email.routed      {"route": {"id", "name"}, "inline_attachments"?, "marks"?}; more of its payload is made by flow.parsed
    any of an email   {"possible_duplicate": true} where an earlier attempt may have delivered
    email.opened      {"open": {"ipAddress", "timestamp", "userAgent"}}, like click with `proxy` and `scanner` where they hold;
                      both {"first": true} for the first by a person, which metrics read and webhooks do not carry
    any of a test address   {"test": true}, which webhooks do not carry either
    domain.*          the whole domain object as it was (`id, name, status, created_at, region, records, …`): of a deleted one
                      there is no row left to read, and an update must not show a later one
    suppression.*     {"id", "email", "origin", "source_id", "created_at"}
    others            the whole of `data`

A post is known by its message id, `msg_` and 27 base62 digits: 20 octets, of which 16 are the event's id and 4 belong to the
endpoint, so that the event can be found by it. Attempts are `atmpt_` and the same of their own id.

Signatures are those of Svix and Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body`, header value `v1,<base64>`, one
for each secret that is valid. Beside them goes MailIt's: `sign_hex`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from mailcore.kit.errors import Invalid

EMAIL_TYPES = (
    "email.sent",
    "email.scheduled",
    "email.delivered",
    "email.delivery_delayed",
    "email.complained",
    "email.bounced",
    "email.opened",
    "email.clicked",
    "email.received",
    "email.failed",
    "email.suppressed",
)
DOMAIN_TYPES = ("domain.created", "domain.updated", "domain.deleted")
TYPES = frozenset(
    (
        *EMAIL_TYPES,
        *DOMAIN_TYPES,
        "contact.created",
        "contact.updated",
        "contact.deleted",
        "contact.topics.updated",
        "suppression.added",
        "suppression.removed",
        "topic.created",
        "topic.updated",
        "topic.deleted",
        "inbox.created",
        "inbox.updated",
        "inbox.deleted",
        "inbox.thread.created",
        "inbox.thread.folder.updated",
        "inbox.thread.assigned",
        "inbox.thread.unassigned",
        "inbox.thread.labels.updated",
        "inbox.email.received",
        "inbox.email.sent",
        "inbox.draft.created",
        "inbox.draft.updated",
        "inbox.draft.deleted",
        "inbox.draft.sent",
    )
)
"""What an endpoint may ask for."""
ROUTED = "email.routed"
"""Posted to the one endpoint that a route of received mail names, and to no other: nobody can ask for it."""
EVERY_TYPE = "*"
"""All of them, also those that come later."""

_NOT_TOLD = ("first", "test", "inline_attachments", "marks")
"""Of `detail`, what payloads leave out."""

BOUNCE_TYPES = ("Permanent", "Transient", "Undetermined")
TOLERANCE_SECONDS = 300
_PREFIX = "whsec_"
_SECRET_OCTETS = 24


@dataclass(frozen=True, slots=True)
class Event:
    id: UUID
    type: str
    created_at: datetime
    recipients: Sequence[str] | None = None
    detail: Mapping[str, Any] | None = None


def bounce(
    message: str, diagnostics: Sequence[str] = (), *, type: str = "Permanent", sub_type: str = "General"
) -> dict[str, Any]:
    """The `detail` of email.bounced. `diagnostics` as in a delivery report: `smtp; 550 5.1.1 user unknown` (RFC 3464 §2.3.6)."""
    return {
        "bounce": {"type": type, "subType": sub_type, "message": message, "diagnosticCode": list(diagnostics)},
    }


def delayed(reason: str | None) -> dict[str, Any] | None:
    """The `detail` of email.delivery_delayed."""
    return None if reason is None else {"delayed": {"reason": reason}}


def suppressed(origin: str | None) -> dict[str, Any]:
    """The `detail` of email.suppressed. `origin` of the entry on the list; None: a test address that stands for one."""
    if origin is None:
        return {
            "suppressed": {
                "type": "Suppressed",
                "message": "This test address behaves as one that is suppressed. Nothing was sent.",
                "diagnosticCode": [],
            }
        }
    why, reason = _SUPPRESSED[origin]
    message = f"The address is on this organization's suppression list because {why}. Nothing was sent."
    detail: dict[str, Any] = {"type": "OnAccountSuppressionList", "message": message, "diagnosticCode": []}
    if reason:
        detail["reason"] = reason
    return {"suppressed": detail}


_SUPPRESSED = {
    "bounce": ("an earlier mail to it bounced", "previous_bounce"),
    "complaint": ("its owner marked an earlier mail as spam", "previous_complaint"),
    "manual": ("it was added by hand", None),
}


# ---- payloads --------------------------------------------------------------------------------------------------------


def payload(event: Event, subject: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is posted. `subject` is the row the event is about: an email's, an arrival's, a domain's columns.

    An email: id, created_at, message_id, from_, to_, subject, tags. An arrival: id, created_at, mail_from, rcpt_to, summary,
    and `content` (`{"html", "text", "headers"}`) where the endpoint asked for bodies.
    A domain: id, name, status, created_at, region. Where the row is gone (history is dropped by the month) `data` is what the
    event itself knows; of an email `subject` still has its id.
    """
    row = subject or {}
    if event.type in ("email.received", ROUTED):
        data = _received(row)
    elif event.type in EMAIL_TYPES:
        data = _email(event, row)
    elif event.type in DOMAIN_TYPES:
        data = _domain(row)
    else:
        data = {}
    if event.detail:
        data.update({name: value for name, value in event.detail.items() if name not in _NOT_TOLD})
    return {"type": event.type, "created_at": timestamp(event.created_at), "data": data}


def body(event: Event, subject: Mapping[str, Any] | None) -> bytes:
    """The payload as the octets that are signed and posted."""
    return orjson.dumps(payload(event, subject))


def timestamp(at: datetime | str) -> str:
    """ISO 8601 in UTC to the millisecond: `2026-02-22T23:41:12.126Z`."""
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _email(event: Event, row: Mapping[str, Any]) -> dict[str, Any]:
    if "from_" not in row:
        known = {"email_id": str(row["id"])} if row else {}
        return known | {"to": list(event.recipients or [])}
    data: dict[str, Any] = {
        "email_id": str(row["id"]),
        "created_at": timestamp(row["created_at"]),
        "message_id": row["message_id"],
        "from": row["from_"],
        "to": list(event.recipients or row["to_"]),
        "subject": row["subject"],
    }
    if row["tags"]:
        data["tags"] = {tag["name"]: tag["value"] for tag in row["tags"]}  # an object here, a list in the API
    return data


def _received(row: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata only, unless `content` is there: no body, no headers; never the content of attachments. Lists are never null."""
    if not row:
        return {}
    summary: Mapping[str, Any] = row["summary"] or {}
    content: Mapping[str, Any] = row.get("content") or {}
    return {
        "email_id": str(row["id"]),
        "created_at": timestamp(row["created_at"]),
        "from": summary.get("from") or row["mail_from"],
        "to": list(summary.get("to") or []),
        "bcc": list(summary.get("bcc") or []),
        "cc": list(summary.get("cc") or []),
        "received_for": list(row["rcpt_to"]),
        "message_id": summary.get("message_id") or "",
        "subject": summary.get("subject") or "",
        "attachments": [
            {key: attachment.get(key) for key in _ATTACHMENT} for attachment in summary.get("attachments") or []
        ],
        **content,
    }


_ATTACHMENT = ("id", "filename", "content_type", "content_disposition", "content_id")


def _domain(row: Mapping[str, Any]) -> dict[str, Any]:
    if not row:
        return {}
    return {
        "id": str(row["id"]),
        "name": row["name"],
        "status": row["status"],
        "created_at": timestamp(row["created_at"]),
        "region": row["region"],
        "records": [],
    }


# ---- signatures ------------------------------------------------------------------------------------------------------

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_MESSAGE, _ATTEMPT = "msg_", "atmpt_"
_DIGITS = 27  # 62^27 > 2^160


def message_id(event_id: UUID, webhook_id: UUID) -> str:
    """`msg_` and 27 base62 digits, the same at every attempt: what a receiver tells repeats by."""
    return _MESSAGE + _encode(event_id, webhook_id)


def event_of(message: str, webhook_id: UUID) -> UUID | None:
    """The event of a message id of this endpoint. None: it is not of the form, or another endpoint's."""
    return _decode(message, _MESSAGE, webhook_id)


def is_message_id(text: str) -> bool:
    """Of whatever event and endpoint."""
    digits = text.removeprefix(_MESSAGE)
    return len(text) == len(_MESSAGE) + _DIGITS and len(digits) == _DIGITS and digits.isascii() and digits.isalnum()


def attempt_id(attempt: UUID, webhook_id: UUID) -> str:
    """`atmpt_` and 27 base62 digits."""
    return _ATTEMPT + _encode(attempt, webhook_id)


def attempt_of(text: str, webhook_id: UUID) -> UUID | None:
    """As event_of, of an attempt id."""
    return _decode(text, _ATTEMPT, webhook_id)


def _encode(id_: UUID, webhook_id: UUID) -> str:
    number = int.from_bytes(id_.bytes + _mark(id_, webhook_id), "big")
    digits = []
    for _ in range(_DIGITS):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def _decode(text: str, prefix: str, webhook_id: UUID) -> UUID | None:
    if len(text) != len(prefix) + _DIGITS or not text.startswith(prefix):
        return None
    number = 0
    for char in text[len(prefix) :]:
        digit = _BASE62.find(char)
        if digit < 0:
            return None
        number = number * 62 + digit
    if number >> 160:
        return None
    octets = number.to_bytes(20, "big")
    id_ = UUID(bytes=octets[:16])
    return id_ if octets[16:] == _mark(id_, webhook_id) else None


def _mark(id_: UUID, webhook_id: UUID) -> bytes:
    """Two endpoints get two ids for one event: a receiver that serves both must not take the second for a repeat."""
    return hashlib.sha256(id_.bytes + webhook_id.bytes).digest()[:4]


def new_secret() -> bytes:
    return os.urandom(_SECRET_OCTETS)


def show_secret(secret: bytes) -> str:
    """As the owner of the endpoint gets it: `whsec_` and padded base64."""
    return _PREFIX + base64.b64encode(secret).decode()


def read_secret(text: str) -> bytes:
    """`whsec_…`, or the base64 alone. Raises Invalid."""
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not secret:
        raise Invalid("A signing secret is whsec_ and base64.")
    return secret


def sign(secret: bytes, id_: str, at: int, content: bytes) -> str:
    """The signature header of `content` posted at `at` (unix seconds)."""
    mac = hmac.digest(secret, b"%s.%d.%s" % (id_.encode(), at, content), "sha256")
    return "v1," + base64.b64encode(mac).decode()


def sign_hex(secret: bytes, at: int, content: bytes) -> str:
    """As MailIt signs (`X-Webhook-Signature`): HMAC-SHA256 in hex over `timestamp.body`, keyed with the secret as it is shown."""
    return hmac.digest(show_secret(secret).encode(), b"%d.%s" % (at, content), "sha256").hex()


def verify(
    secret: bytes,
    headers: Mapping[str, str],
    content: bytes,
    *,
    now: float,
    tolerance_seconds: int = TOLERANCE_SECONDS,
) -> str:
    """The message id of a post whose signature is right, by its `svix-*` or `webhook-*` headers. Raises Invalid.

    One of several signatures (a secret being rotated) is enough; versions other than v1 count as none.
    """
    if not secret:
        raise Invalid("There is no secret to verify with.")
    named = {name.lower(): value for name, value in headers.items()}
    for family in ("webhook", "svix"):
        id_, at, signatures = (named.get(f"{family}-{part}", "") for part in ("id", "timestamp", "signature"))
        if id_ and at and signatures:
            break
    else:
        raise Invalid("The headers webhook-id, webhook-timestamp and webhook-signature must all be there.")
    if not (at.isascii() and at.isdigit() and len(at) < 13):
        raise Invalid("The timestamp of the signature is not a number.")
    if not (id_.isascii() and signatures.isascii()):
        raise Invalid("The signature is wrong.")
    if abs(now - int(at)) > tolerance_seconds:
        raise Invalid(f"The timestamp of the signature is more than {tolerance_seconds} s away.")
    expected = sign(secret, id_, int(at), content).encode()
    # the whole list is looked at, in constant time each
    found = [hmac.compare_digest(expected, given.encode()) for given in signatures.split(" ")[:16]]
    if not any(found):
        raise Invalid("The signature is wrong.")
    return id_
