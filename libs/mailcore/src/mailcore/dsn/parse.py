"""A report that others write to us, whatever its form: the door to status.py and forms.py."""

from __future__ import annotations

from dataclasses import replace

from mailcore.dsn import forms, status
from mailcore.dsn.report import DeliveryReport, Reported
from mailcore.dsn.status import Status
from mailcore.mime import fields as header
from mailcore.mime.fields import Field
from mailcore.mime.parse import Limits, Message
from mailcore.mime.parts import Part, transfer_encoding
from mailcore.mime.text import decode_text, decode_transfer
from mailcore.smtp.reply import Reply

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
    """Recipients of whom the fields say no more than a status (OpenSMTPD's `5.0.0`) get the reason that the words beside give."""
    if all(one.reply is None or one.reply.text for one in found):
        return found
    told = forms.read(message)
    reasons = {one.final.lower(): one.reply for one in told.recipients if one.reply} if told else {}
    words = _words(message) if len(found) == 1 else ""
    return tuple(
        one
        if one.reply is None or one.reply.text
        else replace(
            one, reply=_both(one.reply, reasons.get(one.final.lower()) or reasons.get(one.address.lower()), words)
        )
        for one in found
    )


def _both(status: Reply, reason: Reply | None, words: str) -> Reply:
    if reason is None:
        return status._replace(text=words)
    vague = status.enhanced is None or status.enhanced.endswith(".0.0")
    enhanced = (reason.enhanced or status.enhanced) if vague else status.enhanced
    code = reason.code if enhanced is None or enhanced[0] == str(reason.code)[0] else status.code
    return Reply(code, reason.text, enhanced)


def _words(message: Message) -> str:
    part = message.leaves[0]
    if part.content_type != "text/plain":
        return ""
    return " ".join(decode_text(content(message, part), part.parameters.get("charset"))[:1_000].split())
