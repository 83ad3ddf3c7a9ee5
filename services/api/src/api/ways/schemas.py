"""What /v1/ways and /v1/routes-out take and answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from api.body import Exact

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewWay(Exact):
    name: Name
    kind: str
    """`smarthost`, `resend`, `sendgrid`, `mailgun`, `postmark`, `ses` or `cloudflare`."""
    settings: dict[str, Any]
    """Of that kind, credentials among them; those are sealed and never shown."""
    max_connections: Annotated[int, Field(ge=1, le=1000)] = 20
    """Requests, or sessions of a smart host, at the same time."""


class ChangedWay(Exact):
    name: Name | None = None
    settings: dict[str, Any] | None = None
    """What is left out stays as it is; null takes a setting away."""
    enabled: bool | None = None
    """Off: no mail takes it; mail whose routes have no other waits."""


class WayHealth(BaseModel):
    state: Literal["working", "resting", "off"]
    failures: int
    """In a row."""
    resting_until: str | None
    last_reply: str | None
    """What it said when it last took nothing."""


class WayShown(BaseModel):
    id: str
    name: str
    kind: str
    settings: dict[str, Any]
    secrets: list[str]
    """Names of the settings that are secret; their values are never shown."""
    site: str
    """As attempts name it."""
    enabled: bool
    health: WayHealth
    max_connections: int
    events_url: str | None
    """Where this provider's webhook posts to."""
    reports: bool
    """Its signing secret is set: what it takes is relayed until it reports. Else what it takes counts as delivered."""
    created_at: str


class Way(WayShown):
    object: Literal["way"]


class WayList(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[WayShown]


class WayGone(BaseModel):
    object: Literal["way"]
    id: str
    deleted: Literal[True]


class RouteTag(Exact):
    name: Tag
    value: Tag | None = None
    """Left out: whatever its value."""


class NewRoute(Exact):
    ways: Annotated[list[str], Field(min_length=1, max_length=10)]
    """Ids of ways in order, or `default`: the installation's own. The first that works takes the mail."""
    domain_id: str | None = None
    """Of mail from this domain only."""
    tag: RouteTag | None = None
    """Of mail with this tag only."""
    organization_id: str | None = None
    """Of the installation's routes: of this organization's mail only."""


class ChangedRoute(Exact):
    ways: Annotated[list[str], Field(min_length=1, max_length=10)]


class RouteShown(BaseModel):
    id: str
    ways: list[str]
    domain_id: str | None
    tag: RouteTag | None
    organization_id: str | None
    created_at: str


class Route(RouteShown):
    object: Literal["route_out"]


class RouteList(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[RouteShown]


class RouteGone(BaseModel):
    object: Literal["route_out"]
    id: str
    deleted: Literal[True]
