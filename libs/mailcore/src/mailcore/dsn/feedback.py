"""Reports that somebody marked our mail as spam, or that its authentication failed: ARF (RFC 5965, RFC 6591), as providers send it.

As with delivery reports what is read is a claim: which mail it is about is told by the return path of the mail that came back, and
only `verp` says whether that is one of ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from mailcore.dsn.parse import LIMITS, RETURNED, content
from mailcore.mime import fields as header
from mailcore.mime.fields import Field, parse_addresses
from mailcore.mime.parse import Limits, Message
from mailcore.mime.text import decode_header

MAX_BYTES = 256 * 1024
MOST = 100
"""Of a field that may stand several times."""


@dataclass(frozen=True, slots=True)
class FeedbackReport:
    kind: str
    """Feedback-Type in lower case: abuse, fraud, virus, not-spam, auth-failure, other … (RFC 5965 §3.1)."""
    user_agent: str | None = None
    version: str | None = None
    mail_from: str | None = None
    """Original-Mail-From: the return path of the mail, without brackets; else that of the mail that came back."""
    rcpt_to: tuple[str, ...] = ()
    """Original-Rcpt-To; many providers black it out."""
    arrived_at: datetime | None = None
    reporting_mta: str | None = None
    source_ip: str | None = None
    incidents: int = 1
    envelope_id: str | None = None
    authentication_results: tuple[str, ...] = ()
    reported_domain: tuple[str, ...] = ()
    reported_uri: tuple[str, ...] = ()
    auth_failure: str | None = None
    """RFC 6591 §3.3: adsp, bodyhash, revoked, signature, spf, dmarc."""
    delivery_result: str | None = None
    dkim_domain: str | None = None
    dkim_identity: str | None = None
    dkim_selector: str | None = None
    fields: list[Field] = field(default_factory=list)
    """All of the report's, as they stand (RFC 6591 §3.2 has more)."""
    returned: list[Field] = field(default_factory=list)
    """The header of the mail that came back, as far as it did."""

    @property
    def complaint(self) -> bool:
        """Its reader does not want such mail; `not-spam` and failures of authentication say nothing of the kind."""
        return self.kind in COMPLAINTS

    @property
    def message_id(self) -> str | None:
        return header.field(self.returned, "message-id")


COMPLAINTS = ("abuse", "fraud", "virus", "opt-out", "opt-out-list", "miscategorized", "complaint")


def parse(raw: bytes, limits: Limits = LIMITS) -> FeedbackReport | None:
    """None: the mail is no feedback report. Pure; raises nothing."""
    message = Message(raw, limits)
    part = next((part for part in message.leaves if part.content_type == "message/feedback-report"), None)
    if part is None:
        return _unlabelled(message)
    told = header.read_fields(content(message, part)[:MAX_BYTES], 0, MAX_BYTES, [])[0]
    returned = _returned(message)
    return FeedbackReport(
        kind=(_one(told, "feedback-type") or "other").lower()[:50],
        user_agent=_one(told, "user-agent"),
        version=_one(told, "version"),
        mail_from=_address(_one(told, "original-mail-from")) or _address(header.field(returned, "return-path")),
        rcpt_to=tuple(filter(None, map(_address, _many(told, "original-rcpt-to")))),
        arrived_at=header.date(_one(told, "arrival-date") or _one(told, "received-date")),
        reporting_mta=_value(_one(told, "reporting-mta")),
        source_ip=_first_word(_one(told, "source-ip")),
        incidents=_number(_one(told, "incidents")),
        envelope_id=_one(told, "original-envelope-id"),
        authentication_results=tuple(_many(told, "authentication-results")),
        reported_domain=tuple(_many(told, "reported-domain")),
        reported_uri=tuple(_many(told, "reported-uri")),
        auth_failure=(_one(told, "auth-failure") or "").lower() or None,
        delivery_result=(_one(told, "delivery-result") or "").lower() or None,
        dkim_domain=_one(told, "dkim-domain"),
        dkim_identity=_one(told, "dkim-identity"),
        dkim_selector=_one(told, "dkim-selector"),
        fields=told,
        returned=returned,
    )


def _unlabelled(message: Message) -> FeedbackReport | None:
    """Microsoft's JMRP sends the mail itself, with one field of its own in it or before it."""
    returned = _returned(message)
    for fields in (message.fields, returned):
        recipient = _address(header.field(fields, "x-hmxmroriginalrecipient"))
        if recipient is not None:
            sender = _address(header.field(returned, "return-path")) or _address(header.field(fields, "return-path"))
            return FeedbackReport("abuse", mail_from=sender, rcpt_to=(recipient,), returned=returned or message.fields)
    return None


def _returned(message: Message) -> list[Field]:
    part = next((part for part in message.leaves if part.content_type in RETURNED), None)
    return [] if part is None else header.read_fields(content(message, part), 0, LIMITS.header_bytes, [])[0]


def _one(told: list[Field], name: str) -> str | None:
    return header.field(told, name) or None


def _many(told: list[Field], name: str) -> list[str]:
    return [" ".join(decode_header(one.value).split()) for one in told if one.name == name and one.value][:MOST]


def _address(text: str | None) -> str | None:
    found = parse_addresses(text[:2_000], 1) if text else []
    return found[0].address if found else None


def _value(text: str | None) -> str | None:
    """`dns; mx.example` without its type."""
    return (text.partition(";")[2] or text).strip()[:255] or None if text else None


def _first_word(text: str | None) -> str | None:
    return text.split()[0][:100] if text and text.split() else None


def _number(text: str | None) -> int:
    return int(text) if text and re.fullmatch(r"\d{1,9}", text, re.ASCII) else 1
