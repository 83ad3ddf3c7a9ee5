"""A report that others write to us, whatever its form: the door to status.py and forms.py."""

from __future__ import annotations

from dataclasses import replace

from mailcore.dsn import forms, status
from mailcore.dsn.report import DeliveryReport, Reported
from mailcore.dsn.status import Status
from mailcore.mime import fields as header
from mailcore.mime.fields import Field
from mailcore.mime.parse import Limits, Message, Part, transfer_encoding
from mailcore.mime.text import decode_text, decode_transfer

LIMITS = Limits(depth=10, parts=100)
RETURNED = (
    *("message/rfc822", "text/rfc822-headers", "message/rfc822-headers"),
    *("message/global", "message/global-headers"),  # RFC 6533 §4
)
"""What holds the message that came back, or its header."""


def parse(raw: bytes, limits: Limits = LIMITS) -> DeliveryReport | None:
    """None: the mail is no report. Pure; raises nothing.

    The fields for programs count before the words. Of a mail whose first part is a whole mail that part is read, one level deep.
    """
    message = Message(raw, limits)
    told = _status(message)
    if told is not None and told.recipients:
        return _report(told, _with_words(told.recipients, message), message)
    found = forms.read(message)
    if found is not None:
        mta = told.reporting_mta if told else None
        return DeliveryReport(found.form, found.recipients, mta, returned=_returned(message))
    first = message.leaves[0] if message.leaves else None
    if first is None or first.content_type != "message/rfc822":
        return None
    inner = Message(content(message, first), limits)
    told = _status(inner)
    return _report(told, told.recipients, inner) if told is not None and told.recipients else None


def content(message: Message, part: Part) -> bytes:
    return decode_transfer(message.raw[part.start : part.end], transfer_encoding(part.fields))


def _status(message: Message) -> Status | None:
    part = next((part for part in message.leaves if part.content_type in status.TYPES), None)
    return None if part is None else status.read(content(message, part))


def _report(told: Status, recipients: tuple[Reported, ...], message: Message) -> DeliveryReport:
    return DeliveryReport(
        "rfc3464", recipients, told.reporting_mta, told.envelope_id, told.arrived_at, _returned(message)
    )


def _returned(message: Message) -> list[Field]:
    part = next((part for part in message.leaves if part.content_type in RETURNED), None)
    return [] if part is None else header.read_fields(content(message, part), 0, LIMITS.header_bytes, [])[0]


def _with_words(found: tuple[Reported, ...], message: Message) -> tuple[Reported, ...]:
    """A status of which nobody said more (`5.0.0`, no diagnostic) gets the words beside it, where it is the only one."""
    one = found[0]
    if len(found) > 1 or (one.reply is not None and one.reply.text):
        return found
    part = message.leaves[0]
    if part.content_type != "text/plain":
        return found
    words = " ".join(decode_text(content(message, part), part.parameters.get("charset"))[:1_000].split())
    if one.reply is None:
        return found
    return (replace(one, reply=replace(one.reply, text=words)),)
