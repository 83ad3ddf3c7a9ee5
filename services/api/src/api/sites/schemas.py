from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.body import Exact
from api.queue.schemas import Bar
from mailcore.flow.shaping import MAX_RULES, LimitsForm, Reaction


class ChangedSite(Exact):
    """What is left out stays; `null` takes the operator's own back."""

    limits: LimitsForm | None = None
    rules: Annotated[list[dict[str, Any]], Field(max_length=MAX_RULES)] | None = None


class Suspended(Exact):
    seconds: Annotated[int, Field(ge=1, le=366 * 86_400, description="Left out: until it is resumed.")] | None = None
    organization_id: Annotated[str, Field(description="Only this organization's mail to the site.")] | None = None
    reason: Annotated[str, Field(max_length=500)] = ""
    dry_run: bool = False


class Resumed(Exact):
    organization_id: str | None = None
    dry_run: bool = False


class Depth(BaseModel):
    waiting: int
    at_least: bool = Field(description="There is more than was counted.")
    lanes: int = Field(description="Recipient domain × class × organization.")
    oldest_due: str | None


class Connections(BaseModel):
    limit: int
    granted: int = Field(description="Leased by the processes that work on the site.")
    in_use: int = Field(description="Of those, how many they use: what the site's answers allow.")
    open: int
    processes: int


class Limits(BaseModel):
    connections: int
    mails_per_connection: int
    per_second: int | None
    per_minute: int | None
    per_hour: int | None


class OwnLimits(BaseModel):
    connections: int | None
    mails_per_connection: int | None
    per_second: int | None
    per_minute: int | None
    per_hour: int | None


class Slowed(BaseModel):
    until: str
    reason: str | None


class Held(BaseModel):
    object: Literal["hold"] = "hold"
    id: str
    site_id: str | None = Field(description="null: every site.")
    organization_id: str | None = Field(description="null: everybody's mail.")
    until: str | None = Field(description="null: until it is resumed.")
    origin: Literal["operator", "rule"]
    reason: str
    created_at: str


class Reply(BaseModel):
    at: str
    code: int
    enhanced_code: str | None
    text: str
    rule: str | None = Field(description="Which rule of ours decided, where it was not simply the reply.")
    count: int


class Site(BaseModel):
    object: Literal["site"] = "site"
    id: str
    key: str
    hosts: list[str]
    provider: str | None = Field(description="Of the shaping file, by the hosts.")
    state: Literal["open", "slowed", "resting", "held"]
    depth: Depth
    rate: float = Field(description="Mails a second, lately.")
    connections: Connections
    limits: Limits = Field(description="What holds: the operator's own over the files.")
    resting_until: str | None
    failures: int = Field(description="Connections that failed in a row.")
    last_failure: str | None
    slowed: Slowed | None
    holds: list[Held]
    bars: list[Bar] = Field(description="Sources whose mail it does not get for now.")
    last_delivered_at: str | None
    replies: list[Reply] = Field(description="What it said lately that was no success, newest first.")


class SiteRule(BaseModel):
    match: str
    class_: str | None = Field(
        None, alias="class", description="Category of a refusal that it asks for; see docs/bounces.md."
    )
    do: Reaction
    for_: str = Field(alias="for")
    times: int
    within: str


class WholeSite(Site):
    own_limits: OwnLimits
    own_rules: list[SiteRule]
    rules: list[str] = Field(description="In the order in which they are asked, by name.")
    domains: list[str] = Field(description="Whose mail goes there, 50 at most.")


class SiteList(BaseModel):
    object: Literal["list"] = "list"
    has_more: bool
    data: list[Site]
