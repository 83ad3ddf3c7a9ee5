from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from api.body import Exact
from api.queue.schemas import Bar

Mail = Literal["transactional", "broadcast"]
Name = Annotated[str, Field(min_length=1, max_length=100)]
PoolName = Annotated[str, Field(min_length=1, max_length=100, description="Name or id of the pool.")]
WayId = Annotated[str, Field(max_length=36)]
DomainName = Annotated[str, Field(max_length=253)]
Address = Annotated[str, Field(max_length=45)]
Cap = Annotated[int, Field(ge=1, le=100_000_000)]
Schedule = Annotated[
    list[Cap], Field(min_length=1, max_length=100, description="Mails a day, by step. After the last there is no cap.")
]


class NewPool(Exact):
    name: Name
    mail: Annotated[
        list[Mail], Field(min_length=1, max_length=2, default_factory=lambda: ["transactional", "broadcast"])
    ]
    domains: Annotated[
        list[DomainName],
        Field(max_length=1000, default_factory=list, description="Sending domains. Empty: those of no other pool."),
    ]
    overflow: Annotated[
        WayId | None,
        Field(description="Id of a way out of the installation, for what has no room today. null: it waits."),
    ] = None


class PoolChange(Exact):
    """What is left out stays as it is."""

    name: Name | None = None
    mail: Annotated[list[Mail], Field(min_length=1, max_length=2)] | None = None
    domains: Annotated[list[DomainName], Field(max_length=1000)] | None = None
    overflow: WayId | None = None


class NewSource(Exact):
    pool: PoolName
    ipv4: Address | None = None
    ipv6: Address | None = None
    local_ipv4: Annotated[Address | None, Field(description="What to bind, where a NAT stands between.")] = None
    local_ipv6: Address | None = None
    ehlo_name: Annotated[str, Field(max_length=255, description="Should resolve to these addresses, and they to it.")]
    warm: Annotated[bool, Field(description="It has sent before: no warm-up.")] = False
    schedule: Schedule | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.ipv4 is None and self.ipv6 is None:
            raise ValueError("Give `ipv4`, `ipv6` or both")
        for local, address in (("local_ipv4", self.ipv4), ("local_ipv6", self.ipv6)):
            if getattr(self, local) is not None and address is None:
                raise ValueError(f"`{local}` needs `{local.removeprefix('local_')}`")
        return self


class WarmupChanges(Exact):
    schedule: Schedule | None = None
    step: Annotated[int, Field(ge=1, le=100)] | None = None
    warm: Annotated[bool | None, Field(description="true: no cap from now on. false: warmed up again.")] = None
    paused: Annotated[bool | None, Field(description="false also ends a pause for bad signs.")] = None


class SourceChange(WarmupChanges):
    """What is left out stays as it is."""

    pool: PoolName | None = None
    ehlo_name: Annotated[str, Field(max_length=255)] | None = None
    local_ipv4: Address | None = None
    local_ipv6: Address | None = None


class NewWarmup(Exact):
    domain: DomainName
    schedule: Schedule | None = None


class Gone(BaseModel):
    object: str
    id: str
    deleted: bool = True


class PoolSummary(BaseModel):
    id: str
    name: str
    mail: list[Mail]
    domains: list[str] = Field(description="Empty: every domain that has no pool of its own.")
    overflow: str | None
    sources: list[str]
    waiting: int = Field(description="Mails that wait for room; counted up to 10,000.")
    created_at: str


class Pool(PoolSummary):
    object: str = "pool"


class PoolList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[PoolSummary]


class Day(BaseModel):
    """What left on one day (UTC), and what became of it."""

    day: str
    cap: int | None
    leased: int = Field(description="Handed out to processes: used, or about to be.")
    used: int
    delivered: int
    deferred: int
    blocked: int
    bounced: int
    complaints: int
    last_words: str | None = Field(description="Of the peer that blocked or deferred last.")


class Decision(BaseModel):
    at: str
    what: Literal["began", "grew", "held", "paused", "resumed", "warm", "changed"]
    step: int
    why: str


class Paused(BaseModel):
    by: Literal["operator", "warm-up"]
    since: str | None
    until: str | None = Field(description="null: until somebody resumes it.")
    why: str


class WarmupState(BaseModel):
    state: Literal["warming", "paused", "warm"]
    step: int
    steps: int
    schedule: list[int]
    cap: int | None = Field(description="Mails today; null: no limit.")
    used: int
    paused: Paused | None
    why: str = Field(description="The last decision.")
    next_step: str = Field(description="Where it stands and what comes next, in words.")
    today: Day | None


class WarmupSummary(WarmupState):
    id: str
    domain: str


class WarmupOne(WarmupSummary):
    object: str = "warmup"
    days: list[Day]
    decisions: list[Decision]


class WarmupList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[WarmupSummary]


class HostSeen(BaseModel):
    host: str
    usable: bool = Field(description="It can send from one of the addresses.")
    error: str | None = Field(description="Why it cannot send from the others.")
    seen_at: str


class SourceSummary(WarmupState):
    id: str
    pool_id: str
    pool: str
    ipv4: str | None
    ipv6: str | None
    local_ipv4: str | None
    local_ipv6: str | None
    ehlo_name: str
    hosts: list[HostSeen]
    bars: list[Bar] = Field(description="Sites, and providers, that get nothing from it for now.")
    created_at: str


class Source(SourceSummary):
    object: str = "source"
    days: list[Day]
    decisions: list[Decision]


class SourceList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[SourceSummary]
