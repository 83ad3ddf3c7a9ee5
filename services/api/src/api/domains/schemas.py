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


class Capabilities(Asked):
    sending: Literal["enabled", "disabled"] = "enabled"
    receiving: Literal["enabled", "disabled"] = "disabled"


class CreateDomain(Asked):
    name: str = Field(max_length=300)
    region: Literal["us-east-1", "eu-west-1", "sa-east-1", "ap-northeast-1"] = "us-east-1"
    """A label without meaning on one's own servers; kept because clients send and show it."""
    custom_return_path: Label = "send"
    open_tracking: bool = False
    click_tracking: bool = False
    tls: Literal["opportunistic", "enforced"] = "opportunistic"
    capabilities: Capabilities = Capabilities()
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


class DomainCreated(DomainSummary):
    records: list[Record]


class Domain(DomainCreated):
    object: str = "domain"
    custom_return_path: str
    tls: str


class DomainList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[DomainSummary]


class DomainId(BaseModel):
    object: str = "domain"
    id: str


class DomainDeleted(DomainId):
    deleted: bool
