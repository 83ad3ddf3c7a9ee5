"""The settings of outbound; the only place that reads them."""

from __future__ import annotations

import json
import socket
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from mailcore.kit.settings import Base, Group, Seconds, Strings

MINUTE, HOUR = 60.0, 3600.0
SCHEDULE = [1 * MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, 1 * HOUR, 2 * HOUR, 4 * HOUR, *[6 * HOUR] * 15]
"""Four days and two hours in all."""


class TimeoutsGroup(Group):
    """How long a peer may take, in seconds; RFC 5321 §4.5.3.2 names most. Each covers a whole reply, however slowly it comes."""

    connect: float = Field(30.0, gt=0)
    """To one address; the next one is tried then."""
    greeting: float = Field(300.0, gt=0)
    ehlo: float = Field(300.0, gt=0)
    """EHLO, STARTTLS and AUTH."""
    tls: float = Field(120.0, gt=0)
    mail: float = Field(300.0, gt=0)
    rcpt: float = Field(300.0, gt=0)
    data: float = Field(120.0, gt=0)
    block: float = Field(180.0, gt=0)
    """While content is sent: without any progress."""
    dot: float = Field(600.0, gt=0)
    """For the reply to the whole mail. Less makes second copies (RFC 1047)."""
    patience: float = Field(10.0, gt=0)
    """How long a mail waits behind another one's final dot before it is given to another connection."""


class OutboundGroup(Group):
    route: Literal["mx", "smarthost", "provider", "catch"] = "mx"
    """mx: to each recipient's own server; smarthost: all to one server; provider: by a provider's API; catch: to the catcher."""
    mx_port: int = Field(25, ge=1, le=65535)
    catch_host: str = "127.0.0.1:8085"
    """host:port of the catcher; only for route catch."""
    smarthost_host: str | None = None
    smarthost_port: int = Field(587, ge=1, le=65535)
    smarthost_username: str | None = None
    smarthost_password: SecretStr | None = None
    smarthost_tls: Literal["none", "opportunistic", "required", "implicit"] = "required"
    """required: a verified certificate, after STARTTLS, or on port 465 from the first octet on; implicit: that on any port."""
    test_domains: Strings = Field(default_factory=lambda: ["resend.dev"])
    """delivered@, bounced@, complained@ and suppressed@ of these behave as named; no mail to them ever leaves. Empty: none."""
    ehlo_name: str = Field(default_factory=socket.getfqdn)
    """Our name in EHLO: should resolve to the address we send from."""
    retry_schedule: Seconds = SCHEDULE
    """Seconds from a failed attempt to the next, each spread by 10 % to both sides; after the last one the mail bounces."""
    broadcast_lifetime_seconds: float = Field(48 * HOUR, gt=0)
    """Mail of broadcasts is tried for so long at most, where that is shorter than the schedule."""
    broadcast_waiting_seconds: float = Field(7 * 24 * HOUR, gt=0)
    """A broadcast that waits for room in a warm-up expires after that; it may be longer than it is tried."""
    delay_notice_seconds: float = Field(4 * HOUR, ge=0)
    """A mail that still waits after that says so by one `email.delivery_delayed`; 0: at its first failed attempt."""
    relayed_days: float = Field(3.0, gt=0)
    """Mail that a provider took and has not reported about is said to be unreported after that."""
    shaping_file: str | None = None
    """The operator's own limits and rules for providers, over those that are shipped; docs/sites.md has its form."""
    max_connections: int = Field(20, ge=1, le=1000)
    """To one site, for sites that become known from now on."""
    mails_per_connection: int = Field(100, ge=1)
    connection_seconds: float = Field(300.0, gt=0)
    """How old a connection may be to take another mail."""
    idle_seconds: float = Field(5.0, gt=0)
    """How long a connection without work is kept."""
    timeouts: TimeoutsGroup = TimeoutsGroup()
    chunking: bool = True
    """BDAT where a peer offers CHUNKING (RFC 3030); off: DATA always."""
    ip_versions: Literal["4", "6", "4,6", "6,4"] = "4,6"
    """Of IP, in the order to try at each mail host. `4` where this machine has no IPv6 with a name (PTR) of its own."""
    mta_sts_port: int = Field(443, ge=1, le=65535)
    """Of hosts that serve MTA-STS policies."""
    ca_file: str | None = None
    """PEM file of authorities to trust besides the system's, for certificates of mail hosts and of policy hosts."""
    source_ip: str | None = None
    signing_processes: int = Field(2, ge=0, le=64)
    """Child processes that compose and sign, of 50 MB each; 0: three threads of this process, which sign up to a quarter less."""
    memory_bytes: int = Field(256 * 1024 * 1024, ge=16 * 1024 * 1024)
    """Mail that a process holds at most between fetching its content and its outcome; a larger mail goes alone."""
    processes: int = Field(1, ge=0)
    """How many `postroom up` starts; nothing here reads it."""
    drain_seconds: float = Field(25.0, gt=0)
    """How long mail under way may take to end when the process is told to stop."""


class TlsReports(Group):
    """To recipient domains that ask for them, daily (RFC 8460)."""

    enabled: bool = True
    from_address: str = ""
    """A mail address of a verified domain of the first organization. Empty: `tls-reports@` its oldest verified domain."""
    organization: str = ""
    """Who reports, by name. Empty: the domain of from_address."""


def _json(value: Any) -> Any:
    return (json.loads(value) if value.strip() else {}) if isinstance(value, str) else value


class Vendor(Group):
    base_url: str | None = None
    """Of its API, in place of the vendor's own: for a proxy, or a double in tests."""
    account: Annotated[dict[str, Any], NoDecode, BeforeValidator(_json)] = Field(default_factory=dict)
    """For OUTBOUND__ROUTE=provider: what a way of this kind takes as its settings (docs/ways.md), as JSON."""


class Providers(Group):
    default: Literal["", "resend", "sendgrid", "mailgun", "postmark", "ses", "cloudflare"] = ""
    """Whose account takes all mail that no route takes, with OUTBOUND__ROUTE=provider."""
    resend: Vendor = Vendor()
    sendgrid: Vendor = Vendor()
    mailgun: Vendor = Vendor()
    postmark: Vendor = Vendor()
    ses: Vendor = Vendor()
    cloudflare: Vendor = Vendor()


class Http(BaseModel, extra="ignore"):
    """Of api's group, what mail needs to know."""

    public_url: str = "http://127.0.0.1:8080"


class Retention(Group):
    """How many days history is kept for, and the rest of its month, at least until the end of the next one; 0: for ever."""

    sent_days: int = Field(0, ge=0)
    """Emails with their contents, what became of them, and their opens and clicks."""
    events_days: int = Field(0, ge=0)
    """Events, and what webhooks were told of them."""
    webhooks_days: int = Field(0, ge=0)
    """Deliveries and attempts of webhooks."""


class Settings(Base):
    outbound: OutboundGroup = OutboundGroup()
    retention: Retention = Retention()
    tls_reports: TlsReports = TlsReports()
    providers: Providers = Providers()
    http: Http = Http()

    @property
    def tracking_url(self) -> str:
        return self.tracking.url or self.http.public_url
