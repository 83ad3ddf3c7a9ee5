"""The settings of webhooks: the only reader of its environment."""

from __future__ import annotations

from pydantic import BaseModel, Field

from mailcore.kit.settings import Base, Group, Seconds


class Webhooks(Group):
    retry_schedule: Seconds = Field(default=[5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0], max_length=50)
    """Seconds from a failed attempt to the next; one attempt more than entries."""
    disable_after_seconds: float = Field(432_000.0, gt=0)
    """An endpoint none of whose posts has succeeded for this long (5 days) is disabled at its next failure."""
    processes: int = Field(1, ge=0)
    """How many `postroom up` starts; nothing here reads it."""
    timeout_seconds: float = Field(15.0, gt=0, le=120)
    """For the whole of one attempt, name lookup and answer included."""
    concurrency: int = Field(64, ge=1, le=10_000)
    """Posts in flight in this process to endpoints that answer within a second."""
    slow_concurrency: int = Field(512, ge=1, le=10_000)
    """Posts in flight in this process to endpoints that answer slowly or not at all."""
    endpoint_concurrency: int = Field(8, ge=1, le=1_000)
    """Posts in flight in this process to one endpoint."""


class Http(BaseModel, extra="ignore"):
    """Of api's group, what posts need to know."""

    public_url: str = "http://127.0.0.1:8080"
    """Links to attachments begin with it."""


class Settings(Base):
    webhooks: Webhooks = Webhooks()
    http: Http = Http()
