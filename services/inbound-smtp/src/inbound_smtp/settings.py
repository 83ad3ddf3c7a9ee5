"""The settings of inbound-smtp: the only reader of its environment."""

from __future__ import annotations

import socket
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mailcore.kit.settings import Base, Group, Networks, Strings


def _none_if_empty(value: Any) -> Any:
    return value or None


OptionalFile = Annotated[str | None, BeforeValidator(_none_if_empty)]
OptionalPort = Annotated[int, BeforeValidator(lambda value: value or 0), Field(ge=0, le=65535)]


class Smtp(Group, extra="ignore"):
    hostname: str = ""
    """The name in our greeting, which the MX record points to. Empty: the machine's own."""
    host: str = "127.0.0.1"
    mx_port: int = Field(2500, ge=0, le=65535)
    submission_port: OptionalPort = 0
    """Where organizations hand in mail, with STARTTLS (587). 0 or empty: nowhere. Needs a certificate."""
    submissions_port: OptionalPort = 0
    """The same within TLS from the first octet (465)."""
    tls_cert: OptionalFile = None
    """PEM chain; with tls_key it makes STARTTLS be offered."""
    tls_key: OptionalFile = None
    proxy_protocol: Literal["off", "v1", "v2"] = "off"
    """A load balancer before us names the client, with the first octets of each connection."""
    proxy_trusted: Networks = Field(default_factory=list)
    """Networks of the balancers; whoever else connects speaks for himself. Empty: all are balancers, nobody else may reach us."""
    max_message_bytes: int = Field(40 * 1024 * 1024, ge=64 * 1024)
    max_line_bytes: int = Field(1024 * 1024, ge=1_000)
    """Of a line in a message. RFC 5322 says 998; longer ones are kept as they are up to this."""
    max_recipients: int = Field(1_000, ge=100)
    """A transaction (RFC 5321 §4.5.3.1.8 asks for 100 at least)."""
    max_connections: int = Field(1_000, ge=1)
    """At once in this process."""
    max_connections_per_ip: int = Field(50, ge=1)
    """At once in this process from one address (IPv6: one /64)."""
    max_buffered_bytes: int = Field(512 * 1024 * 1024, ge=64 * 1024 * 1024)
    """Of memory for all messages that are coming in at once in this process."""
    max_spooled_bytes: int = Field(384 * 1024 * 1024, ge=64 * 1024 * 1024)
    """The same of messages that are larger than 256 KiB: they wait in files of `spool_dir`."""
    spool_dir: str = ""
    """Empty: the folder of the blobs, or where they are no folder the system's for temporary files."""
    max_errors: int = Field(20, ge=1)
    """Commands of one connection that were refused for good."""
    max_junk_commands: int = Field(100, ge=1)
    """Commands that led to no mail since the last one that did."""
    max_unknown_per_ip: int = Field(100, ge=0)
    """Recipients who are not here, in ten minutes in this process, from one address (IPv6: one /64). 0: any number."""
    max_recipients_per_ip: int = Field(1_000, ge=0)
    """The same of different recipients in domains that take mail to every address: each of them may be a new mailbox."""
    max_per_sender: int = Field(0, ge=0)
    """Mails a minute in this process from one sender's address. 0: any number."""
    max_per_recipient: int = Field(0, ge=0)
    """The same to one recipient."""
    dnsbl: Strings = Field(default_factory=list)
    """Blocklists in the DNS that are asked about who connects: zen.spamhaus.org, for one."""
    dnsbl_action: Literal["tag", "reject"] = "reject"
    """tag: it only stands among the arrival's facts."""
    rdns: Literal["off", "tag", "reject"] = "off"
    """Whether who connects must have a name that leads back to his address."""
    arc_trusted: Strings = Field(default_factory=list)
    """Domains that seal what they forward (ARC, d=), and whose word counts: mail that passed DMARC there is not held or refused for
    failing it here. Mailing lists and forwarders that people of this installation use."""
    greylist_seconds: float = Field(300.0, gt=0)
    """How long the first mail has to wait that comes to a domain which has greylisting on."""
    max_auth_failures_per_ip: int = Field(30, ge=1)
    """Failed logins in ten minutes in this process, from one address (IPv6: one /64)."""
    auth_failure_seconds: float = Field(1.0, ge=0)
    """A login that fails is answered after so long."""
    command_seconds: float = Field(300.0, gt=0)
    """How long a client may take for a command (RFC 5321 §4.5.3.2.7)."""
    data_seconds: float = Field(180.0, gt=0)
    """How long a client may be silent inside a message (RFC 5321 §4.5.3.2.5)."""
    data_grace_seconds: float = Field(60.0, gt=0)
    data_bytes_per_second: int = Field(500, ge=0)
    """What a client must manage inside a message, once the grace is over."""

    @property
    def name(self) -> str:
        return self.hostname or socket.getfqdn()


class InboundSmtp(Group):
    processes: int = Field(1, ge=1)
    """How many of us `postroom up` starts; they share the port."""
    batch: int = Field(50, ge=1, le=1_000)
    """Arrivals routed in one transaction."""
    announce_batch: int = Field(50, ge=0)
    """Of a domain's mail to addresses that nobody made, how much is announced to webhooks in one second in this process. 0: all."""


class RateLimit(Group, extra="ignore"):
    requests_per_second: int = Field(10, ge=0, le=1_000_000)
    """As api counts them: a submitted mail is a request."""


class Settings(Base):
    rate_limit: RateLimit = RateLimit()
    smtp: Smtp = Smtp()
    inbound_smtp: InboundSmtp = InboundSmtp()
