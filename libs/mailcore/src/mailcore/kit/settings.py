"""Settings: environment `POSTROOM_<GROUP>__<NAME>` over an optional YAML file (`POSTROOM_CONFIG`).

A service's own settings.py extends Base with the groups it needs, and is that service's only reader of the environment.
Every field says its unit and has a default, `.env.example` lists them all.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from mailcore.kit.errors import Refused
from mailcore.kit.seal import Keyring, parse_key


def _split(value: Any) -> Any:
    """Lists are given as `a,b` or as JSON."""
    if not isinstance(value, str):
        return value
    value = value.strip()
    if value.startswith("["):
        import json  # noqa: PLC0415

        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


Strings = Annotated[list[str], NoDecode, BeforeValidator(_split)]
Seconds = Annotated[list[float], NoDecode, BeforeValidator(_split)]
Counts = Annotated[list[Annotated[int, Field(ge=1, le=100_000_000)]], NoDecode, BeforeValidator(_split)]
Networks = Annotated[list[ipaddress.IPv4Network | ipaddress.IPv6Network], NoDecode, BeforeValidator(_split)]


S = TypeVar("S", bound="Base")


class Group(BaseModel, extra="forbid"):
    pass


class Database(Group):
    url: str = "postgresql://postroom@127.0.0.1:5432/postroom"
    """The login of the services; `migrate` makes it."""
    migrate_url: str | None = None
    """Who may create tables and roles; only `migrate` uses it."""
    pool_size: int = Field(6, ge=2, le=100)
    """Connections a process keeps; all pools together must fit the server's max_connections."""
    connect_seconds: float = 5.0


class Redis(Group):
    url: str = "redis://127.0.0.1:6379/0"
    timeout_seconds: float = 0.05
    """Redis is a doorbell: whoever waits for it longer goes on without."""


class Ops(Group):
    host: str = "127.0.0.1"
    port: int = 9090
    """livez, readyz, metrics, drain of this process. 0 takes any free port."""


class Log(Group):
    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Dns(Group):
    nameservers: Strings = []
    """`host:port`; empty means the system's."""
    timeout_seconds: float = 5.0
    trust_ad: bool | None = None
    """Whether they validate DNSSEC and what they say of it reaches us unchanged: then DANE holds (RFC 7672). None: where all of
    them are on this machine."""


class Blob(Group):
    url: str = "file://.postroom/blobs"
    """`file:///folder` for one host, `s3://bucket/prefix` for more."""
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    s3_access_key: str | None = None
    s3_secret_key: SecretStr | None = None


class Queue(Group):
    sweep_seconds: float = Field(10.0, gt=0)
    """How often a runner looks for due rows that nobody rang for."""
    lease_seconds: float = Field(20.0, ge=1)
    """A worker that has not renewed for this long is dead and its rows are taken back."""


class Quota(Group):
    """Recipients that an organization's mail may have, where it has no number of its own (`postroom org limits`). 0 is no limit."""

    daily: int = Field(0, ge=0)
    """A day, by UTC."""
    monthly: int = Field(0, ge=0)
    """A calendar month, by UTC."""


class Allow(Group):
    """Private networks opened per purpose, as lists of CIDRs. Empty: only public addresses."""

    webhooks: Networks = []
    imap: Networks = []
    ai: Networks = []
    local_mail: Networks = []
    attachments: Networks = []
    images: Networks = []
    mx: Networks = []
    smarthosts: Networks = []


class Network(Group):
    allow: Allow = Allow()


class Imap(Group):
    ports: Annotated[list[int], NoDecode, BeforeValidator(_split)] = [143, 993]
    """Ports that an account may name; empty: any."""
    timeout_seconds: float = Field(30.0, gt=0)
    """How long a server may take for one answer."""
    poll_seconds: float = Field(60.0, gt=0)
    """How often an account is looked at."""
    concurrency: int = Field(20, ge=1)
    """Accounts that one process synchronises at a time."""
    ca_file: str | None = None
    """PEM file of authorities to trust instead of the system's, for servers with an own one."""


class Catch(Group):
    dir: str | None = None
    """Folder of caught mail; set only in catch mode, and /v1/caught and /v1/lab exist only then."""
    dns_dir: str | None = None


class Domains(Group):
    """What customers' domains have to publish."""

    mx_host: str = "mail.localhost"
    """Where their MX records point: the public name of this installation's inbound-smtp."""
    spf: str = ""
    """SPF mechanism that covers the addresses mail leaves from (`include:_spf.mail.example`). Empty: `ip4:` or `ip6:` of
    OUTBOUND__SOURCE_IP where mail leaves from there, otherwise `a:<mx_host>`."""
    tracking_host: str = ""
    """Where their tracking subdomains point (CNAME): a name of api. Empty: the host of TRACKING__URL or HTTP__PUBLIC_URL."""
    tracking_caa: str = ""
    """The authority that makes certificates for tracking subdomains (`letsencrypt.org`); domains whose CAA records forbid it are
    told. Empty: nobody is."""
    max_per_organization: int = Field(1000, ge=1)


class Sandbox(Group):
    domain: str = ""
    """A verified domain of this installation that every organization may send from, to the addresses of its own members only.
    Empty: none."""


class Reputation(Group):
    """When a domain or an API key is stopped for what becomes of its mail. Rates are shares: 0.0025 is 0.25 %."""

    pause: bool = True
    """Past the limits a domain sends nothing more. False: there are warnings only."""
    complaint_warning: float = Field(0.0008, gt=0, le=1)
    """Of delivered mail, in 24 hours. Gmail and Yahoo ask for less than 0.1 %."""
    complaint_limit: float = Field(0.0025, gt=0, le=1)
    """They block at 0.3 %."""
    min_complaints: int = Field(5, ge=1)
    """Fewer decide nothing, whatever share they are."""
    bounce_warning: float = Field(0.025, gt=0, le=1)
    """Of mail that came to an end, in 24 hours: what bounced for good."""
    bounce_limit: float = Field(0.05, gt=0, le=1)
    min_bounces: int = Field(20, ge=1)
    key_factor: float = Field(10, ge=1)
    """An API key that sends so many times what its busiest hour of 30 days was raises an alarm …"""
    key_min_recipients: int = Field(100, ge=1)
    """… where a busiest hour of fewer recipients counts as so many."""
    key_bounce_limit: float = Field(0.2, gt=0, le=1)
    """Of what a key sent in the last hour."""
    suspend_keys: bool = False
    """Such a key is suspended until the operator takes that back. False: there is an alarm only."""
    gate: bool = True
    """Broadcasts go out only from domains that meet what Gmail, Yahoo and Microsoft ask of bulk senders."""
    bulk: Literal["warn", "refuse", "off"] = "warn"
    """What happens to a domain that sends in bulk, however its mail is handed in, and lacks what they ask for: an alarm says so;
    it sends nothing until that is there; nobody looks."""


class WarmUp(Group):
    """How new addresses and new sending domains come to send much (flow.warmup). Rates are shares: 0.02 is 2 %."""

    schedule: Counts = Field(
        default_factory=lambda: [
            *(50, 100, 200, 400, 700, 1_200, 2_000, 3_500, 6_000, 10_000),
            *(16_000, 25_000, 40_000, 60_000, 90_000, 130_000),
        ],
        min_length=1,
        max_length=100,
    )
    """Mails a day, by step, of those that are made without a schedule of their own. After the last step there is no cap."""
    used_share: float = Field(0.5, gt=0, le=1)
    """Of a day's cap that must have been used for the cap to grow: an address that sends nothing is not getting warm."""
    blocked_limit: float = Field(0.02, gt=0, le=1)
    """Of a day's attempts, refused because of the address or domain: from there on it pauses, from half of it it does not grow."""
    deferred_limit: float = Field(0.3, gt=0, le=1)
    """Put off by peers that want less of us."""
    bounced_limit: float = Field(0.1, gt=0, le=1)
    """Recipients that do not exist: a list that nobody has kept."""
    complaint_limit: float = Field(0.0025, gt=0, le=1)
    """Of delivered mail."""
    pause_hours: float = Field(24, gt=0, le=24 * 30)
    """Of the first pause; each one that follows without a step between is twice as long."""


class Health(Group):
    """What outbound looks at hourly, besides."""

    blocklists: Strings = Field(
        default_factory=lambda: ["zen.spamhaus.org", "bl.spamcop.net", "psbl.surriel.com", "bl.mailspike.net"]
    )
    """DNS blocklists that our own addresses are looked for in. Empty: none."""
    domain_blocklists: Strings = Field(default_factory=lambda: ["dbl.spamhaus.org"])
    """DNS blocklists of domains that our sending domains are looked for in. Empty: none."""
    probe_domain: str = "gmail.com"
    """Whether port 25 is open to the world is tried with a server of this domain: a greeting, no mail. Empty: it is not tried."""


class HowMailLeaves(Group, extra="ignore"):
    """What others than outbound need to know of its settings, for what they advise."""

    route: Literal["mx", "smarthost", "provider", "catch"] = "mx"
    source_ip: str | None = None
    mx_port: int = 25
    smarthost_host: str | None = None
    smarthost_port: int = 587
    catch_host: str = "127.0.0.1:8085"
    test_domains: Strings = Field(default_factory=lambda: ["resend.dev"])
    ehlo_name: str = ""
    """Empty: the machine's own name."""
    ip_versions: Literal["4", "6", "4,6", "6,4"] = "4,6"
    mails_per_connection: int = 100
    shaping_file: str | None = None


def _least(scope: Any) -> Any:
    return scope if scope in ("attachments", "full_email") else "headers"


class Scanners(Group):
    """Who looks at mail that arrives (mailcore.scanners). A scanner without an address is off."""

    spamd: str = ""
    """SpamAssassin: host:port of spamd, or the path of its socket."""
    spamd_seconds: float = Field(10.0, gt=0)
    """How long one mail may take; then the scanner counts as away."""
    spamd_max_bytes: int = Field(512 * 1024, ge=1)
    """Larger mail goes on without being scanned, and that is said."""
    spamd_user: str = ""
    """Whose preferences and Bayes database it uses. Empty: its own."""
    spamd_fail: Literal["open", "closed"] = "closed"
    """While it is away. open: mail goes on, and that is said; closed: mail is pending, and scanned when it is back."""
    rspamd: str = Field("", pattern=r"^(?:https?://[^/\s]+/?)?$")
    """URL of its normal worker: http://127.0.0.1:11333."""
    rspamd_password: SecretStr | None = None
    rspamd_controller: str = Field("", pattern=r"^(?:https?://[^/\s]+/?)?$")
    """URL of its controller, by which it learns: http://127.0.0.1:11334."""
    rspamd_seconds: float = Field(10.0, gt=0)
    rspamd_max_bytes: int = Field(10 * 1024 * 1024, ge=1)
    rspamd_fail: Literal["open", "closed"] = "closed"
    clamd: str = ""
    """ClamAV: host:port of clamd, or the path of its socket."""
    clamd_seconds: float = Field(30.0, gt=0)
    clamd_max_bytes: int = Field(100 * 1024 * 1024, ge=1)
    """clamd's own StreamMaxLength must not be smaller."""
    clamd_fail: Literal["open", "closed"] = "closed"
    dnsbl: Strings = Field(default_factory=list)
    """DNS blocklists of addresses that are asked about who handed a mail over: zen.spamhaus.org, for one."""
    dnsbl_domains: Strings = Field(default_factory=list)
    """The same of domains, about its sender's: dbl.spamhaus.org."""
    dnsbl_seconds: float = Field(5.0, gt=0)
    dnsbl_fail: Literal["open", "closed"] = "open"
    spamhaus_username: str = ""
    """Of an account of the Spamhaus Intelligence API, which is told addresses and domains of senders. Empty: off."""
    spamhaus_password: SecretStr | None = None
    spamhaus_url: str = Field("https://api.spamhaus.org", pattern=r"^https?://[^/\s]+/?$")
    spamhaus_seconds: float = Field(10.0, gt=0)
    spamhaus_fail: Literal["open", "closed"] = "open"
    ai_api_key: SecretStr | None = None
    """A language model is asked for a second opinion about mail that is perhaps spam: key of a server that speaks OpenAI's chat
    completions. Empty, and no ai_base_url: off."""
    ai_base_url: str = Field("", pattern=r"^(?:https?://[^\s]+)?$")
    """Of such a server of one's own, with its /v1. Empty: OpenAI's."""
    ai_model: str = Field("gpt-5.4-nano", min_length=1, max_length=200)
    ai_input_scope: Annotated[Literal["headers", "attachments", "full_email"], BeforeValidator(_least)] = "headers"
    """What it is shown: the header; the names of files too; the text too. What is none of these is the header."""
    ai_max_input_chars: int = Field(20_000, ge=100, le=1_000_000)
    """Of the header, of the names and of the text, each."""
    ai_seconds: float = Field(15.0, gt=0)
    scl: int = Field(9, ge=2, le=9)
    """Exchange's level of what is spam, in header fields for mail servers that sort by it (domains: compatible_headers)."""
    train: bool = True
    """Scanners learn what people report. They know for all organizations together; False: reports only mark messages."""
    train_per_day: int = Field(500, ge=1)
    """Reports of one organization."""
    at_once: int = Field(20, ge=1, le=1_000)
    """Mails that a process has looked at at the same time: so many connections to each scanner."""
    again_seconds: float = Field(15.0, gt=0)
    """When pending mail is tried again; each time twice as long, up to eight times."""


class Tracking(Group):
    url: str = Field("", pattern=r"^(?:https?://[^/\s]+/?)?$")
    """Where opens and clicks come in, of domains without a tracking subdomain of their own. Empty: HTTP__PUBLIC_URL."""


class Base(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="POSTROOM_", env_nested_delimiter="__", extra="ignore", nested_model_default_partial_update=True
    )

    encryption_key: SecretStr | None = None
    old_encryption_keys: Strings = []
    """Keys used before, while `keys rotate` is under way."""
    database: Database = Database()
    redis: Redis = Redis()
    ops: Ops = Ops()
    log: Log = Log()
    blob: Blob = Blob()
    dns: Dns = Dns()
    queue: Queue = Queue()
    quota: Quota = Quota()
    network: Network = Network()
    catch: Catch = Catch()
    domains: Domains = Domains()
    sandbox: Sandbox = Sandbox()
    imap: Imap = Imap()
    tracking: Tracking = Tracking()
    reputation: Reputation = Reputation()
    warmup: WarmUp = WarmUp()
    health: Health = Health()
    scanners: Scanners = Scanners()
    failpoint: str = ""
    """Test builds only: where to die (kit.failpoint)."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = os.environ.get("POSTROOM_CONFIG")  # noqa: TID251 - this module is where the environment is read
        yaml = (YamlConfigSettingsSource(settings_cls, yaml_file=file),) if file else ()
        return (init_settings, env_settings, *yaml)

    def keyring(self) -> Keyring:
        """Raises Refused when no valid key is set."""
        if self.encryption_key is None:
            raise Refused("Set POSTROOM_ENCRYPTION_KEY (32 bytes). Make one with: openssl rand -base64 32")
        return Keyring(
            [parse_key(self.encryption_key.get_secret_value()), *(parse_key(key) for key in self.old_encryption_keys)]
        )


def load(settings: type[S]) -> S:
    """The settings of a process; ends it with one clear line when they are wrong."""
    try:
        loaded = settings()
        loaded.keyring()
    except ValidationError as error:
        first = error.errors()[0]
        name = "POSTROOM_" + "__".join(str(part) for part in first["loc"]).upper()
        sys.exit(f"{name}: {first['msg']}. See .env.example.")
    except Refused as error:
        sys.exit(error.public)
    return loaded
