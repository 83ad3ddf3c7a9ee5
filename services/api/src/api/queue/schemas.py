from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from api.body import Exact

Reason = Annotated[str, Field(max_length=500)]


class Hold(Exact):
    """Without an organization: everything."""

    organization_id: str | None = None
    seconds: Annotated[int, Field(ge=1, le=366 * 86_400, description="Left out: until it is resumed.")] | None = None
    reason: Reason = ""
    dry_run: bool = False


class Resume(Exact):
    organization_id: str | None = None
    dry_run: bool = False


class ByQuery(Exact):
    """Which waiting mail; at least one, or `all`."""

    all: bool = False
    site_id: Annotated[str, Field(max_length=20)] | None = None
    organization_id: str | None = None
    domain: Annotated[str, Field(max_length=255, description="Of the recipient.")] | None = None
    from_domain: Annotated[str, Field(max_length=255)] | None = None
    recipient: Annotated[str, Field(max_length=1000)] | None = None
    email_id: str | None = None
    class_: Annotated[Literal["transactional", "broadcast"] | None, Field(alias="class")] = None
    older_than_seconds: Annotated[int, Field(ge=0, le=366 * 86_400)] | None = None
    scheduled: Annotated[bool, Field(description="Mail that waits for its time, too.")] = False
    reason: Reason = ""
    dry_run: bool = False

    @model_validator(mode="after")
    def _something(self) -> Self:
        told = self.model_dump(exclude={"all", "scheduled", "reason", "dry_run", "way_id"})
        if self.all == any(value is not None for value in told.values()):
            raise ValueError("Say which mail is meant by at least one of its properties, or by `all` alone")
        return self


class Reroute(ByQuery):
    way_id: Annotated[
        str | None,
        Field(description="A way of the installation (GET /v1/installation/ways); null: the domain's own servers."),
    ]


class HoldShape(BaseModel):
    object: Literal["hold"] = "hold"
    id: str
    site_id: str | None
    organization_id: str | None
    until: str | None
    origin: Literal["operator", "rule"]
    reason: str
    created_at: str


class HoldList(BaseModel):
    object: Literal["list"] = "list"
    has_more: bool
    data: list[HoldShape]


class Sample(BaseModel):
    email_id: str
    recipient: str
    due_at: str


class Touches(BaseModel):
    deliveries: int
    at_least: bool = Field(description="There are more than were counted.")
    lanes: int
    sites: list[str] = Field(description="20 at most.")
    organizations: list[str] = Field(description="20 at most.")
    sample: list[Sample]
    left: int = Field(
        description="Left where they are: mail with REQUIRETLS, of a reroute to a provider's API, which cannot promise that."
    )


class OrderShape(BaseModel):
    object: Literal["order"] = "order"
    id: str
    verb: Literal["hold", "resume", "flush", "reroute", "bounce", "purge"]
    query: dict[str, Any] = Field(description="As it was asked for; `before` stands for `older_than_seconds`.")
    reason: str
    ordered_by: str
    state: Literal["waiting", "done", "failed"]
    touched: int = Field(description="Deliveries so far.")
    left: int = Field(description="Deliveries so far that were left where they are, as `touches` says of `left`.")
    error: str | None
    created_at: str
    done_at: str | None


class OrderList(BaseModel):
    object: Literal["list"] = "list"
    has_more: bool
    data: list[OrderShape]


class Bar(BaseModel):
    """A source that a site, or all sites of a provider, take nothing from: they said that its address is the reason."""

    source_id: str
    site: str | None = Field(description="Key of the site; null: all sites of the provider.")
    provider: str | None
    until: str
    reason: str = Field(description="The rule, and what the site said.")
    created_at: str


class Told(BaseModel):
    object: Literal["verb"] = "verb"
    verb: str
    dry_run: bool
    touches: Touches
    holds: list[HoldShape] = Field(description="Placed or lifted, or what would be lifted.")
    woken: int = Field(description="Sites whose rest ended, or would.")
    bars: int = Field(description="Sources that may send there again, or could.")
    order: OrderShape | None
