"""What outbound hands to a transport, and the seam itself."""

from __future__ import annotations

import dataclasses
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from mailcore.smtp.dsn import DsnRequest
from mailcore.smtp.outcome import Outcome
from mailcore.transport.tls import OPPORTUNISTIC, Security

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
    dsn: DsnRequest | None = None
    """Reports that the sender asked for. A peer without DSN is not told; `Outcome.dsn` says which was the case."""
    requiretls: bool = False
    """Only over verified TLS, to peers that promise the same (RFC 8689). Belongs in a Destination with `requiretls`."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A host that takes the mail, with its addresses in the order to try. The caller has resolved and permitted them."""

    host: str
    ips: tuple[str, ...]
    port: int = 25
    preference: int | None = None
    """Neighbours of one preference share the connections (RFC 5321 §5.1). None: this host is tried in its turn."""
    security: Security = OPPORTUNISTIC
    """What its side asks of TLS with it: DANE, MTA-STS."""
    vouched: bool | None = True
    """That it is the recipient's host is sure: it was named by us, by signed records, or by the domain's MTA-STS policy. None: just
    now nobody can tell."""


class TlsPolicy(StrEnum):
    NONE = "none"
    OPPORTUNISTIC = "opportunistic"
    """STARTTLS where offered, of any strength, certificate not verified, clear text when the handshake fails (RFC 7435)."""
    REQUIRED = "required"
    """STARTTLS with a verified certificate, or the mail waits."""
    IMPLICIT = "implicit"
    """TLS from the first octet, as on port 465 (RFC 8314 §3.3), verified as with REQUIRED."""
    NOT_REQUIRED = "not-required"
    """As OPPORTUNISTIC, whatever the hop's side asks for: its sender wants it delivered all the same (RFC 8689 §5)."""


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
    """Local address to bind; hops' addresses of the other family are then left out, unless `source_ip6` is for them."""
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    tls_context: ssl.SSLContext | None = None
    """For REQUIRED and IMPLICIT: verifies the peer; None verifies against the system's roots and the hop's host name."""
    credentials: Credentials | None = None
    """For a smart host. Sent over TLS or to loopback only."""
    helo: str | None = None
    """Our name in EHLO when it is the source's own; None: the pool's."""
    mails_per_connection: int | None = None
    """None: the pool's limit. The latest call's number counts."""
    requiretls: bool = False
    """Hosts that nobody vouches for, or that do not offer REQUIRETLS under verified TLS, are passed over; with none left the mail
    fails (RFC 8689 §4.2.1)."""
    source_ip6: str | None = None
    """Local IPv6 address to bind, beside an IPv4 one."""
    lmtp: bool = False
    """It speaks LMTP (RFC 2033): with a recipient a transaction, LHLO is all that is different."""

    @property
    def pool_key(self) -> tuple[object, ...]:
        """What two destinations must have in common to use the same connections."""
        own = (self.source_ip, self.source_ip6, self.helo, self.site)
        return (*own, self.tls, self.credentials, self.requiretls, self.lmtp)

    @property
    def source_ips(self) -> dict[int, str]:
        """By IP version, what to bind. Empty: the system chooses."""
        return {ipaddress.ip_address(ip).version: ip for ip in (self.source_ip, self.source_ip6) if ip}


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

        At most `connections` sessions are open for `destination.pool_key`, over all calls; the latest number counts. A call without
        mails only tells the number; 0 closes what is idle, and is for when no other call is under way.
        Cancelled: every mail that was taken off the queue still gets its outcome; the others stay in the queue.
        """
        ...

    async def close(self) -> None:
        """End the idle connections. To be called when no `deliver` is under way."""
        ...
