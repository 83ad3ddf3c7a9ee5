"""What outbound hands to a transport, and the seam itself."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from mailcore.smtp.outcome import Outcome

if TYPE_CHECKING:
    from mailcore.transport.mail_queue import MailQueue


@dataclass(frozen=True, slots=True, eq=False)
class Mail:
    """One transaction: one recipient, because the return path is per delivery (VERP)."""

    mail_from: str
    """Return path; empty for `<>`."""
    rcpt_to: str
    content: bytes
    """Header and body with CRLF line ends, signed, not dot-stuffed."""
    key: object = None
    """The caller's own reference; not looked at."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A host that takes the mail, with its addresses in the order to try. The caller has resolved and permitted them."""

    host: str
    ips: tuple[str, ...]
    port: int = 25


class TlsPolicy(StrEnum):
    NONE = "none"
    OPPORTUNISTIC = "opportunistic"
    """STARTTLS where offered, certificate not verified, clear text when the handshake fails (RFC 7435)."""
    REQUIRED = "required"
    """Verified, or the mail waits."""


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the mails of one call go. Connections are shared by everything with the same `pool_key`."""

    site: str
    hops: tuple[Hop, ...]
    source_ip: str | None = None
    """Local address to bind; hops' addresses of the other family are then left out."""
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    tls_context: ssl.SSLContext | None = None
    """For REQUIRED: verifies the peer; None verifies against the system's roots and the hop's host name."""
    credentials: Credentials | None = None
    """For a smart host. Sent over TLS or to loopback only."""

    @property
    def pool_key(self) -> tuple[str | None, str, TlsPolicy, Credentials | None]:
        return (self.source_ip, self.site, self.tls, self.credentials)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, RFC 5321 §4.5.3.2 where it names one. Each covers the whole reply, however slowly it drips."""

    connect: float = 30
    greeting: float = 300
    ehlo: float = 300
    tls: float = 120
    mail: float = 300
    rcpt: float = 300
    data: float = 120
    block: float = 180
    """Without any progress while content is sent."""
    dot: float = 600
    patience: float = 10
    """How long a mail waits behind another one's final dot before it is given to another connection."""
    gate_age: float = 5
    """How old the caller's leave to send the final dot may be; after that it is asked for again."""
    quit: float = 5

    def scaled(self, factor: float) -> Timeouts:
        return Timeouts(**{f.name: getattr(self, f.name) * factor for f in dataclasses.fields(self)})


BeforeDot = Callable[[Mail], Awaitable[bool]]
"""Asked when the envelope has been written, so that its answer overlaps the peer's. False: the final dot is not sent.

A Future costs less than a coroutine. An exception counts as False.
"""

OnOutcome = Callable[[Mail, Outcome], None]
"""Called once a mail, as soon as its outcome is known. Must not raise."""


class Transport(Protocol):
    async def deliver(
        self,
        destination: Destination,
        mails: MailQueue,
        *,
        connections: int,
        before_dot: BeforeDot,
        on_outcome: OnOutcome,
    ) -> None:
        """Send what is in `mails` and what is still put there, until it is closed and empty; one Outcome a mail.

        At most `connections` sessions are open for `destination.pool_key`, over all calls; the latest number counts.
        Cancelled: every mail that was taken off the queue still gets its outcome; the others stay in the queue.
        """
        ...

    async def close(self) -> None:
        """End the idle connections. To be called when no `deliver` is under way."""
        ...
