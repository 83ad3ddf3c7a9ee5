"""What became of one recipient in one attempt. Three values and no "maybe": what is unknown counts as deferred."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from mailcore.smtp.reply import Reply


class Result(StrEnum):
    DELIVERED = "delivered"
    RELAYED = "relayed"
    """A provider took it and will report what becomes of it; until then nobody knows."""
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    """Refused for good by the peer."""
    FAILED = "failed"
    """We cannot send it (no such domain, a signing key that is gone): no peer has refused it."""
    SUPPRESSED = "suppressed"
    """It must not be sent to this address: nothing was."""


class Line(NamedTuple):
    """One line of the conversation. `at` is seconds since 1970."""

    at: float
    said: str | None = None
    heard: str | None = None


@dataclass(eq=False, slots=True)
class TlsSession:
    """What TLS came to on one connection, or kept it from being made: reports count these (RFC 8460 §4)."""

    policy: str
    """`tlsa`, `sts` or `no-policy-found` (RFC 8460 §4.4)."""
    mx_host: str
    mx_ip: str | None
    source_ip: str | None
    failure: str | None = None
    """By RFC 8460 §4.3; None: it was as it should be. Where the policy allows it mail went all the same."""
    reason: str = ""
    told: set[str] = field(default_factory=set)
    """Domains for whose mail it has been counted."""


class Outcome(NamedTuple):
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
    conversation: tuple[Line, ...] = ()
    dot_sent: bool = False
    """The final dot left us: the peer may hold a copy even though no reply was read."""
    dsn: bool = False
    """The peer knows DSN and took over what the sender asked to be told; otherwise we owe a "relayed" (RFC 3461 §5.2.1)."""
    tls_policy: str | None = None
    """What ruled the connection's TLS: `opportunistic`, `required`, `dane`, `mta-sts` …; None: nobody spoke to a mail host."""
    sessions: tuple[TlsSession, ...] = ()
    """Of the connection, and of those before it in this call that failed for their TLS."""
    retry_after: float | None = None
    """Seconds until another attempt is worth it, where the peer says so or another way out is free. None: by the schedule."""
