"""The settings of api: the only reader of its environment."""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, model_validator

from mailcore.kit.settings import Base, Group, Strings


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

    @model_validator(mode="after")
    def _one_fits(self) -> Self:
        if self.bodies_bytes < self.body_limit_bytes:
            raise ValueError(
                "bodies_bytes must be at least body_limit_bytes, or the largest request would never be taken"
            )
        return self


class RateLimit(Group):
    requests_per_second: int = Field(10, ge=0, le=1_000_000)
    """Per organization, in windows of one second; 0 is off."""


class Settings(Base):
    http: Http = Http()
    rate_limit: RateLimit = RateLimit()
    metrics_auth_token: SecretStr | None = None
    """Opens /api/metrics; hidden while unset."""
