from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from api.body import Asked

_LABEL = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


def _label(text: str) -> str:
    if not _LABEL.match(text.lower()):
        raise ValueError("It must begin with a letter and hold at most 63 letters, digits and hyphens")
    return text.lower()


Label = Annotated[str, AfterValidator(_label)]


Region = Literal["us-east-1", "eu-west-1", "sa-east-1", "ap-northeast-1"]
"""A label without meaning on one's own servers; kept because clients send and show it."""


class Capabilities(Asked):
    sending: Literal["enabled", "disabled"] = "enabled"
    receiving: Literal["enabled", "disabled"] = "disabled"


class CreateDomain(Asked):
    name: str = Field(max_length=300)
    region: Region = "us-east-1"
    custom_return_path: Label = "send"
    open_tracking: bool = False
    click_tracking: bool = False
    tls: Literal["opportunistic", "enforced"] = "opportunistic"
    capabilities: Capabilities = Capabilities()
    tracking_subdomain: Label | None = None


class CapabilitiesChanged(Asked):
    """One that is left out stays as it is."""

    sending: Literal["enabled", "disabled"] | None = None
    receiving: Literal["enabled", "disabled"] | None = None


class UpdateDomain(Asked):
    """What is left out stays as it is."""

    open_tracking: bool = False
    click_tracking: bool = False
    tls: Literal["opportunistic", "enforced"] = "opportunistic"
    capabilities: CapabilitiesChanged = CapabilitiesChanged()
    tracking_subdomain: Label | None = None
    """Another one at most once in 24 hours; it cannot be removed."""


class ClaimDomain(Asked):
    name: str = Field(max_length=300)
    region: Region = "us-east-1"
    custom_return_path: Label = "send"
    open_tracking: bool = False
    click_tracking: bool = False
    tracking_subdomain: Label | None = None


class Record(BaseModel):
    record: str
    name: str
    type: str
    ttl: str
    status: str
    value: str
    priority: int | None = None


class CapabilitiesShown(BaseModel):
    sending: str
    receiving: str


class DomainSummary(BaseModel):
    id: str
    name: str
    status: str
    created_at: str
    region: str
    open_tracking: bool
    click_tracking: bool
    tracking_subdomain: str | None
    capabilities: CapabilitiesShown


class Advice(BaseModel):
    """No requirement: what makes mail of this domain arrive better, or what is about to go wrong."""

    topic: str
    """DMARC, MTA-STS, TLS-RPT, SPF, ReturnPath, Records, Tracking, Claim."""
    status: str
    """ok, missing, warning, unknown."""
    message: str
    name: str | None = None
    type: str | None = None
    value: str | None = None
    """The record to publish, where one is advised; `name` and `type` go with it."""


class DomainCreated(DomainSummary):
    records: list[Record]
    advice: list[Advice]


class Domain(DomainCreated):
    object: str = "domain"
    custom_return_path: str
    tls: str


class ClaimRecord(BaseModel):
    type: Literal["TXT"]
    name: str
    value: str
    ttl: str


class Claim(BaseModel):
    object: Literal["domain_claim"]
    id: str
    name: str
    status: Literal["pending", "verified", "completed", "blocked", "expired", "superseded", "canceled", "failed"]
    domain_id: str | None
    region: str | None
    record: ClaimRecord
    blocked_reason: Literal["grace_period", "recent_owner_activity", "pending_scheduled_emails"] | None
    failure_reason: str | None
    created_at: str
    expires_at: str


class DomainList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[DomainSummary]


class DomainId(BaseModel):
    object: str = "domain"
    id: str


class DomainDeleted(DomainId):
    deleted: bool
