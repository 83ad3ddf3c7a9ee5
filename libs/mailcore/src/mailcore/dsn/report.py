"""What a delivery report says (RFC 3464), whoever wrote it and in whatever form.

What is read is a stranger's claim. Who acts on it asks first whether the address it came to is one of ours (`verp`), and takes the
recipient from there; what the report adds is what became of the mail, in the reporter's words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mailcore.mime import fields as header
from mailcore.mime.fields import Field
from mailcore.smtp.reply import Reply

MAX_RECIPIENTS = 1_000
"""Of one report; the rest is not read."""
MAX_ADDRESS = 320


class Action(StrEnum):
    """RFC 3464 §2.3.3."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


@dataclass(frozen=True, slots=True)
class Reported:
    """What became of one recipient."""

    final: str
    """RFC 3464 §2.3.2: the address at the reporter, perhaps after aliases."""
    action: Action
    original: str | None = None
    """The address that the sender wrote to (RFC 3464 §2.3.1), where the report tells it."""
    reply: Reply | None = None
    """Diagnostic and status as a reply; the text are the reporter's words. None: it gave no reason."""
    remote_mta: str | None = None

    @property
    def address(self) -> str:
        """Whom the mail was sent to."""
        return self.original or self.final

    @property
    def permanent(self) -> bool:
        return self.action is Action.FAILED


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    form: str
    """`rfc3464`, or the name of the form its words have."""
    recipients: tuple[Reported, ...]
    reporting_mta: str | None = None
    envelope_id: str | None = None
    """RFC 3464 §2.2.1: as the sender gave it (ENVID)."""
    arrived_at: datetime | None = None
    returned: list[Field] = field(default_factory=list)
    """The header of the message that came back, as far as it did."""

    @property
    def message_id(self) -> str | None:
        """Of the message that came back."""
        return header.field(self.returned, "message-id")


def reply_of(text: str, status: str | None = None, *, permanent: bool = True) -> Reply:
    """The reply that somebody's words quote: `host x said: 550-5.1.1 who? 550 5.1.1 see …`; `status` where they name no code.

    Codes that are repeated at the beginning of each line are taken out.
    """
    text = text[:4_000]
    match = _QUOTED_REPLY.search(text)
    code = int(match[1]) if match else 0
    enhanced = match[2] if match and match[2] else None
    if enhanced is None and not status and (found := _ENHANCED.search(text)):
        enhanced = found[1]
    # what the reporter made of it counts where the words have no code, or one that only says "undefined" (x.0.0)
    if status and (enhanced is None or enhanced.endswith(".0.0")) and not status.endswith(".0.0"):
        enhanced = status
    enhanced = enhanced or status
    if not code:
        first = (enhanced or ("5" if permanent else "4"))[0]
        code = {"2": 250, "4": 450}.get(first, 550)
    elif enhanced and enhanced[0] != str(code)[0]:
        enhanced = None  # RFC 2034 §4: they must agree
    if match:
        repeated = re.escape(match[1]) + r"[- ](?:" + re.escape(match[2] or "-") + r"\s)?"
        text = re.sub(r"(?<![\w.])" + repeated, "", text)
    return Reply(code, " ".join(text.split()), enhanced)


_QUOTED_REPLY = re.compile(r"(?<![\d.\w])([45][0-57]\d)[- #](?:#?([245]\.\d{1,3}\.\d{1,3})(?![\d.]))?")
_ENHANCED = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])")
