"""What became of one recipient in one attempt. Three values and no "maybe": what is unknown counts as deferred."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from mailcore.smtp.reply import Reply


class Result(StrEnum):
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    """Refused for good by the peer."""
    FAILED = "failed"
    """We cannot send it (no such domain, a signing key that is gone): no peer has refused it."""
    SUPPRESSED = "suppressed"
    """It must not be sent to this address: nothing was."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the conversation. `at` is seconds since 1970."""

    at: float
    said: str | None = None
    heard: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    result: Result
    reply: Reply | None = None
    """The peer's words, or ours when no peer spoke."""
    mx_host: str | None = None
    mx_ip: str | None = None
    source_ip: str | None = None
    tls: str | None = None
    """`TLSv1.3 TLS_AES_256_GCM_SHA384`, or None for clear text."""
    rule: str | None = None
    """Which of our rules decided, when not simply the reply."""
    conversation: tuple[Line, ...] = field(default=())
    dot_sent: bool = False
    """The final dot left us: the peer may hold a copy even though no reply was read."""
