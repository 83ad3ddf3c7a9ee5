"""One object of POST /emails → NewEmail. By hand: this runs for every mail, and decides the order of complaints.

The order is the live service's: `to`, body, `subject`, `from` must be there; then each field's form (resend.md §4.2). No
control character, line end of any alphabet or percent form of one gets past here in anything that becomes a header (C1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from api.emails.attachments import Remote, encoded_size, parse_attachments
from api.errors import ApiError, invalid, missing
from mailcore.flow.submit import NewAttachment, NewEmail
from mailcore.kit.errors import Invalid
from mailcore.kit.moment import moment
from mailcore.mime.headers import check_header_name, check_headers, check_text
from mailcore.smtp.address import FORBIDDEN, Address, parse_mailbox

MAX_RECIPIENTS = 50
"""Of each field."""
MAX_MESSAGE = 40_000_000
"""Bytes of a message, attachments as base64."""
MAX_TAGS = 75
MAX_DAYS_AHEAD = 30

_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}\Z")
_PERCENT = re.compile(r"%0[0ad]", re.IGNORECASE)


@dataclass(slots=True)
class Parsed:
    email: NewEmail
    parts: list[NewAttachment | Remote]
    """In order; `email.attachments` is set when the remote ones are fetched."""
    scheduled_text: str | None


def parse(item: Any) -> Parsed:
    """Raises ApiError 422."""
    if not isinstance(item, dict):
        raise invalid("An email must be a JSON object.")
    to = item.get("to")
    if to is None or to == []:
        raise missing("to")
    html, text = item.get("html"), item.get("text")
    _refuse_later_features(item)
    if not html and not text:
        raise invalid("Missing `html` or `text` field.")
    subject = item.get("subject")
    if subject is None:
        raise missing("subject")
    from_ = item.get("from")
    if from_ is None:
        raise missing("from")

    recipients: list[Address] = []
    to_list = _addresses(to, "to", recipients)
    cc = _addresses(item.get("cc"), "cc", recipients)
    bcc = _addresses(item.get("bcc"), "bcc", recipients)
    reply_to = _addresses(item.get("reply_to"), "reply_to", [])
    sender = _sender(from_)
    if type(subject) is not str:
        raise invalid("Invalid `subject` field. It must be a string.")
    _check(subject, "subject")
    for name, value in (("html", html), ("text", text)):
        if value is not None and type(value) is not str:
            raise invalid(f"Invalid `{name}` field. It must be a string.")
    scheduled_at, scheduled_text = parse_scheduled(item.get("scheduled_at"))
    opens, clicks = _tracking(item)
    parts = parse_attachments(item.get("attachments"))
    size = len(html or "") + len(text or "") + sum([encoded_size(part) for part in parts])
    if size > MAX_MESSAGE:
        raise invalid(f"The email is larger than {MAX_MESSAGE // 1_000_000} MB, attachments counted as base64.")
    return Parsed(
        NewEmail(
            from_=from_,
            domain=sender.domain,
            to=to_list or [],
            recipients=recipients,
            subject=subject,
            html=html,
            text=text,
            cc=cc,
            bcc=bcc,
            reply_to=reply_to,
            headers=_headers(item.get("headers"), reply_to),
            tags=_tags(item.get("tags")),
            scheduled_at=scheduled_at,
            track_opens=opens,
            track_clicks=clicks,
        ),
        parts,
        scheduled_text,
    )


def _refuse_later_features(item: dict[str, Any]) -> None:
    if item.get("template") is not None:
        raise invalid("Invalid `template` field. Templates are not available on this server; send `html` or `text`.")
    if item.get("topic_id") is not None:
        raise invalid("Invalid `topic_id` field. Topics are not available on this server; leave the field out.")


def _addresses(value: Any, field: str, into: list[Address]) -> list[str] | None:
    """The mailboxes as given, their addresses appended to `into`."""
    if type(value) is str:
        value = [value]
    elif value is None:
        return None
    elif type(value) is not list:
        raise _bad_address(field)
    if len(value) > MAX_RECIPIENTS:
        raise invalid(f"The `{field}` field may hold at most {MAX_RECIPIENTS} addresses.")
    for text in value:
        if type(text) is not str:
            raise _bad_address(field)
        into.append(_mailbox(text, field))
    return value or None


def _sender(value: Any) -> Address:
    if type(value) is not str:
        raise _bad_address("from")
    return _mailbox(value, "from")


def _mailbox(text: str, field: str) -> Address:
    if "%" in text and _PERCENT.search(text):
        raise _line_break(field)
    try:
        return parse_mailbox(text).address
    except Invalid:
        if FORBIDDEN.search(text):
            raise _line_break(field) from None
        raise _bad_address(field) from None


def _bad_address(field: str) -> ApiError:
    return invalid(
        f"Invalid `{field}` field. The email address needs to follow the `email@example.com` or "
        "`Name <email@example.com>` format."
    )


def _line_break(field: str) -> ApiError:
    return invalid(f"The `{field}` field must not contain line breaks or control characters.")


def _check(text: str, field: str) -> None:
    """Raises ApiError, and Invalid by check_text, which means the same."""
    check_text(text, field)
    if "%" in text and _PERCENT.search(text):
        raise _line_break(field)


def _headers(value: Any, reply_to: list[str] | None) -> dict[str, str] | None:
    if not value:
        if value is None or value == {}:
            return None
        raise invalid("Invalid `headers` field. It must be an object of strings.")
    if type(value) is not dict or not all(type(text) is str for text in value.values()):
        raise invalid("Invalid `headers` field. It must be an object of strings.")
    for name, text in value.items():
        check_header_name(name)
        _check(text, "headers")
        if "%" in name and _PERCENT.search(name):
            raise _line_break("headers")
    check_headers(value, taken=("reply-to",) if reply_to else ())
    return value


def _tags(value: Any) -> list[dict[str, str]] | None:
    if value is None:
        return None
    if type(value) is not list or not all(type(tag) is dict for tag in value):
        raise invalid("Invalid `tags` field. It must be an array of objects with `name` and `value`.")
    if len(value) > MAX_TAGS:
        raise invalid(f"The `tags` field may hold at most {MAX_TAGS} tags.")
    tags = []
    for tag in value:
        name, text = tag.get("name"), tag.get("value")
        for part in (name, "-" if text in (None, "") else text):
            if type(part) is not str or not _TAG.match(part):
                raise invalid(
                    "Invalid `tags` field. Names and values may hold ASCII letters, numbers, underscores and dashes, "
                    "at most 256 of them."
                )
        tags.append({"name": name, "value": text or ""})
    return tags or None


def _tracking(item: dict[str, Any]) -> tuple[bool | None, bool | None]:
    """`(opens, clicks)`; None: as the domain says. `tracking: {opens, clicks}`, or by the names of a domain's settings."""
    within = item.get("tracking")
    if within is None and "open_tracking" not in item and "click_tracking" not in item:
        return None, None
    if within is not None and type(within) is not dict:
        raise invalid("Invalid `tracking` field. It must be an object with `opens` and `clicks`.")
    said: list[bool | None] = []
    for kind, flat in (("opens", "open_tracking"), ("clicks", "click_tracking")):
        values = [value for value in ((within or {}).get(kind), item.get(flat)) if value is not None]
        if not all(type(value) is bool for value in values):
            raise invalid(f"Invalid `{'tracking' if within else flat}` field. Tracking is switched by true and false.")
        if len(set(values)) > 1:
            raise invalid(f"The `tracking` and `{flat}` fields contradict each other. Leave one of them out.")
        said.append(values[0] if values else None)
    return said[0], said[1]


def parse_scheduled(value: Any) -> tuple[datetime | None, str | None]:
    """`(moment, the text)`; no moment where it has passed: such a mail is sent now. Raises ApiError 422."""
    if value is None:
        return None, None
    if type(value) is not str:
        raise invalid("Invalid `scheduled_at` field. It must be a string.")
    now = datetime.now(UTC)
    try:
        at = moment(value, now)
    except Invalid as error:
        raise invalid(f"Invalid `scheduled_at` field. {error.public}") from None
    if at > now + timedelta(days=MAX_DAYS_AHEAD):
        raise invalid(f"Invalid `scheduled_at` field. It may be at most {MAX_DAYS_AHEAD} days ahead.")
    return (at if at > now else None), value
