"""An email as whoever asks for it to be sent hands it to the door (flow.submit)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mailcore.smtp.address import Address


@dataclass(frozen=True, slots=True)
class NewAttachment:
    content: bytes
    content_type: str
    filename: str | None = None
    content_id: str | None = None
    disposition: str = "attachment"


@dataclass(slots=True)
class NewEmail:
    """Checked by whoever asks (api/emails/parse.py): addresses, headers, sizes."""

    from_: str
    """As given: `a@b.c` or `Name <a@b.c>`."""
    domain: str
    """Of the sender's address, in normal form."""
    to: list[str]
    recipients: list[Address]
    """Of To, Cc and Bcc in this order; repeated ones get one copy."""
    subject: str
    html: str | None = None
    text: str | None = None
    """None beside html: outbound makes it from the html. Empty: no text part."""
    cc: list[str] | None = None
    bcc: list[str] | None = None
    reply_to: list[str] | None = None
    headers: dict[str, str] | None = None
    tags: list[dict[str, str]] | None = None
    attachments: Sequence[NewAttachment] = ()
    scheduled_at: datetime | None = None
    broadcast: bool = False
    track_opens: bool | None = None
    """None: as the domain says."""
    track_clicks: bool | None = None
    dsn: dict[str, Any] | None = None
    """What its sender wants to be told (mailcore.dsn.wishes): of mail handed in by SMTP, and of our own reports."""
    requiretls: bool = False
    """It must stay under TLS (RFC 8689): of the same."""
    raw: bytes | None = None
    """A whole message that was handed in (submission): 7-bit, CRLF, no Bcc, with Message-ID and Date. Then html, text,
    headers and attachments are empty, and it is signed and sent as it stands."""
    message_id: str | None = None
    """That of `raw`, with its angle brackets. None: made from the email's id."""
    passed_on: dict[str, Any] | None = None
    """`raw` is somebody else's mail that goes on as it came (flow.passed_on): it may have 8-bit octets, and is not signed."""
    domain_id: UUID | None = None
    """Known to be the organization's by whoever asks: mail that stays in the house needs no verified sender, and no quota."""
    lane_route: int | None = None
    """The route out that whoever asks has chosen; None: by the organization's rules."""
