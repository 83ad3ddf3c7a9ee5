from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.body import Asked

Mode = Literal["enforce", "testing", "none"]


class ChangeTls(Asked):
    mode: Mode | None = None
    """Null: no policy is served any more. First serve `none` for as long as max_age was (RFC 8461 §8.3)."""
    max_age: Annotated[int, Field(ge=0, le=31_557_600)] | None = None
    mx: Annotated[list[Annotated[str, Field(max_length=255)]], Field(max_length=20)] | None = None
    """Mail hosts of the domain besides ours: names, or `*.` and a domain."""


class Policy(BaseModel):
    mode: Mode
    max_age: int
    mx: list[str] = Field(description="All hosts that the policy names; ours is the first.")
    id: str = Field(description="Of the TXT record: another one for each other policy.")
    url: str


class Record(BaseModel):
    record: Literal["MTA-STS", "MTA-STS host", "TLS-RPT"]
    name: str
    type: Literal["TXT", "CNAME"]
    value: str
    ttl: str = "Auto"


class VerifiedRecord(Record):
    status: Literal["verified", "missing", "other", "unknown"] = Field(
        description="other: the record has another value. unknown: the DNS did not answer."
    )


class DomainTls(BaseModel):
    object: str = "domain_tls"
    domain_id: str
    domain: str
    policy: Policy | None
    records: list[Record]


class DomainTlsVerified(DomainTls):
    records: list[VerifiedRecord]  # type: ignore[assignment]


class ReceivedSummary(BaseModel):
    id: str
    domain_id: str
    domain: str
    door: Literal["https", "mail"]
    source: str = Field(
        description="The address it was posted from, or that of its mail's sender. Anybody may send a report."
    )
    organization: str
    report_id: str
    begins_at: str
    ends_at: str
    successful_sessions: int
    failed_sessions: int
    received_at: str


class Received(ReceivedSummary):
    object: str = "tls_report"
    report: dict[str, Any] = Field(description="As RFC 8460 §4.4 writes it.")


class ReceivedList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[ReceivedSummary]


class Sent(BaseModel):
    domain: str
    day: str = Field(description="That it is about, by UTC.")
    state: Literal["due", "sent", "unwanted", "failed"]
    due_at: str
    attempts: int
    sent_at: str | None
    went_to: dict[str, str]
    last_error: str | None
    report: dict[str, Any] | None


class SentList(BaseModel):
    object: str = "list"
    data: list[Sent]


class Hosts(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[str] = Field(description="In order; the next page begins `after` the last one.")
