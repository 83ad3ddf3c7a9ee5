"""What /openapi.json says of reputation and alarms."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from api.body import Exact


class Pause(Exact):
    reason: str = Field(min_length=1, max_length=500, description="Shown to whoever sends from the domain.")


class Alarm(BaseModel):
    id: str
    org_id: str
    kind: str = Field(description="complaints, bounces, volume, manual, bulk.")
    action: str = Field(description="warned; paused: a domain sends nothing; suspended: an API key opens nothing.")
    domain_id: str | None
    domain: str | None = Field(description="Its name: a domain that is deleted and added again is paused still.")
    api_key_id: str | None
    text: str = Field(description="What happened and what to do.")
    facts: dict[str, Any] = Field(description="The numbers it was decided by.")
    raised_at: str
    ended_at: str | None
    ended_by: str | None = Field(
        description="rate: it has fallen; pause: a pause took its place; person: the operator; of bulk, mended: nothing is missing "
        "any more; change: an alarm with what is missing now took its place."
    )


class AlarmFound(Alarm):
    object: str = "alarm"


class AlarmList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[Alarm]


class Rates(BaseModel):
    since: str
    delivered: int
    bounced: int = Field(description="For good.")
    complained: int
    bounce_rate: float = Field(description="Share of what came to an end: 0.05 is 5 %.")
    complaint_rate: float = Field(description="Share of what was delivered.")


class Day(BaseModel):
    date: str
    sent: int
    delivered: int
    bounced: int
    complained: int
    bounce_rate: float
    complaint_rate: float


class Requirement(BaseModel):
    name: str = Field(description="SPF, DKIM, DMARC, PTR, TLS, Unsubscribe, Reputation; Catch where no mail leaves.")
    status: str = Field(description="ok, missing, unknown.")
    text: str
    advice: str


class Broadcasts(BaseModel):
    allowed: bool
    requirements: list[Requirement]


class Thresholds(BaseModel):
    complaint_warning: float
    complaint_limit: float
    min_complaints: int
    bounce_warning: float
    bounce_limit: float
    min_bounces: int


class Reputation(BaseModel):
    object: str = "reputation"
    domain_id: str
    name: str
    state: str = Field(description="good, warned, paused.")
    last_24_hours: Rates
    thresholds: Thresholds
    days: list[Day] = Field(description="By UTC, the newest first, of the last 30 those with any mail.")
    alarms: list[Alarm] = Field(description="Those that have not ended.")
    bulk_sender_since: str | None = Field(
        description="When its registered domain was first seen to send more than 5,000 mails within 24 hours; null: never."
    )
    broadcasts: Broadcasts
