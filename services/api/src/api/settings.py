"""The settings of api: the only reader of its environment."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from mailcore.kit.settings import Base, Group, HowMailLeaves, Networks, Strings


class Http(Group):
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    public_url: str = "http://127.0.0.1:8080"
    """Every link we print begins with it."""
    trusted_proxies: Strings = Field(default_factory=list)
    """Addresses or CIDRs whose X-Forwarded-* headers are believed."""
    body_limit_bytes: int = Field(60_000_000, ge=1_000_000)
    """40 MB of mail as base64 in JSON, and room for the rest."""
    bodies_bytes: int = Field(256 * 1024 * 1024, ge=1_000_000)
    """Of all bodies over 1 MB that this process is reading or answering; at least body_limit_bytes."""

    @field_validator("trusted_proxies")
    @classmethod
    def _each_is_named(cls, proxies: list[str]) -> list[str]:
        for proxy in proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                # `*` would believe everybody, and a name nobody
                raise ValueError(f"`{proxy}` is neither an address nor a CIDR (of host bits only zeroes)") from None
        return proxies

    @model_validator(mode="after")
    def _one_fits(self) -> Self:
        if self.bodies_bytes < self.body_limit_bytes:
            raise ValueError(
                "bodies_bytes must be at least body_limit_bytes, or the largest request would never be taken"
            )
        return self


def _endpoints(value: Any) -> Any:
    """`POST /emails=50,POST /emails/batch=10`, or JSON."""
    if not isinstance(value, str) or value.lstrip().startswith("{"):
        return json.loads(value) if isinstance(value, str) else value
    pairs = [part.rpartition("=") for part in value.split(",") if part.strip()]
    return {" ".join(name.split()): limit.strip() for name, _, limit in pairs}


Endpoints = Annotated[dict[str, Annotated[int, Field(ge=1, le=1_000_000)]], NoDecode, BeforeValidator(_endpoints)]


class RateLimit(Group):
    requests_per_second: int = Field(10, ge=0, le=1_000_000)
    """Per organization, in windows of one second; an organization's own limit goes before it. 0 turns all limits off."""
    endpoints: Endpoints = Field(default_factory=dict)
    """`METHOD /path` (an id is `{id}`) → requests per second and organization, counted apart from all others."""
    unauthenticated: int = Field(100, ge=0, le=1_000_000)
    """Requests without a valid key, per second and client address (IPv6: per /64). 0 is off."""

    @model_validator(mode="after")
    def _well_named(self) -> Self:
        for name in self.endpoints:
            if not re.fullmatch(r"(GET|POST|PUT|PATCH|DELETE) /\S*", name):
                raise ValueError(f"`{name}` in endpoints is not of the form `POST /emails=50`")
        return self


class Logs(Group):
    enabled: bool = True
    """Whether API calls are written to the log that GET /logs shows."""
    body_bytes: int = Field(16_384, ge=256, le=262_144)
    """What is kept of a request's and of an answer's body."""


class Auth(Group):
    """How people sign in."""

    registration_enabled: Annotated[
        Literal["auto", "true", "false"], BeforeValidator(lambda value: str(value).strip().lower())
    ] = "auto"
    """auto: the first user only, who becomes the admin. true: everybody. false: nobody (`postroom setup` makes an admin)."""
    allowed_addresses: Strings = Field(default_factory=list)
    """Who may register: mail addresses and domains. Empty: anybody."""
    allowed_networks: Networks = Field(default_factory=list)
    """From where one may register: CIDRs. Empty: from anywhere."""
    attempts: int = Field(10, ge=1, le=100)
    """To sign in or to register, in `attempts_minutes`: from one address (IPv6: one /64), and of one account."""
    attempts_minutes: int = Field(15, ge=1, le=1440)


class Settings(Base):
    http: Http = Http()
    rate_limit: RateLimit = RateLimit()
    auth: Auth = Auth()
    logs: Logs = Logs()
    outbound: HowMailLeaves = HowMailLeaves()
    metrics_auth_token: SecretStr | None = None
    """Opens /api/metrics; hidden while unset."""
