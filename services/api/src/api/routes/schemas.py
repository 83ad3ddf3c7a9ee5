"""What /v1/routes takes and answers. Conditions and actions: mailcore.flow.conditions, mailcore.flow.table."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from api.body import Asked
from mailcore.flow.conditions import Match
from mailcore.flow.table import MAX_ROUTES, Actions

RouteName = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
MAX_RAW = 1024 * 1024
MAX_RECIPIENTS = 50
"""Of an explanation."""


class NewInboundRoute(Asked):
    name: RouteName
    match: Match = Match()
    """Empty: every mail."""
    except_: Annotated[Match | None, Field(alias="except")] = None
    """Not what fits this as well."""
    actions: Actions
    """In order; `drop`, `reject` and `quarantine` stand alone."""
    stop: bool = True
    """No route behind this one is tried for a recipient whom it fits."""
    enabled: bool = True
    position: Annotated[int | None, Field(ge=1, le=MAX_ROUTES)] = None
    """In the table, from 1; left out: at its end."""


class ChangedInboundRoute(Asked):
    """What is left out stays as it is."""

    name: RouteName | None = None
    match: Match | None = None
    except_: Annotated[Match | None, Field(alias="except")] = None
    """null: no exception any more."""
    actions: Actions | None = None
    stop: bool | None = None
    enabled: bool | None = None


class NewOrder(Asked):
    ids: Annotated[list[str], Field(max_length=MAX_ROUTES)]
    """Those to come first, in their new order."""


class AskedExplanation(Asked):
    """Of a mail that has arrived, or of one that is made up."""

    arrival_id: str | None = None
    raw: Annotated[str | None, Field(max_length=MAX_RAW)] = None
    """A whole message, header and body."""
    mail_from: Annotated[str, Field(max_length=320)] = ""
    rcpt_to: Annotated[
        list[Annotated[str, StringConstraints(min_length=3, max_length=320)]] | None,
        Field(min_length=1, max_length=MAX_RECIPIENTS),
    ] = None
    """Of the envelope; of an arrival, to try others than its own."""
    auth: dict[Annotated[str, StringConstraints(pattern="^(spf|dkim|dmarc|arc)$")], str] | None = None
    """Results to suppose; left out: of an arrival what was found, else not known."""
    verdict: Annotated[list[str] | None, Field(max_length=20)] = None
    score: Annotated[list[float] | None, Field(max_length=20)] = None
    """Of the scanners, the same."""


class InboundRouteShown(BaseModel):
    id: str
    name: str
    position: int
    enabled: bool
    match: dict[str, Any]
    except_: Annotated[dict[str, Any] | None, Field(alias="except")]
    actions: list[dict[str, Any]]
    stop: bool
    created_at: str
    updated_at: str


class InboundRoute(InboundRouteShown):
    object: Literal["route"]


class InboundRouteList(BaseModel):
    object: Literal["list"]
    has_more: Literal[False]
    data: list[InboundRouteShown]


class InboundRouteGone(BaseModel):
    object: Literal["route"]
    id: str
    deleted: Literal[True]


class ConditionTried(BaseModel):
    condition: str
    wanted: str
    found: str | None
    holds: bool | None
    """null: not known."""


class RouteTried(BaseModel):
    id: str
    name: str
    position: int
    tried: bool
    """False: an earlier route ends the table."""
    fits: bool | None
    conditions: list[ConditionTried]
    exceptions: list[ConditionTried]


class RecipientExplained(BaseModel):
    recipient: str
    routes: list[RouteTried]
    actions: list[dict[str, Any]]
    """What would be done, by which route; `route_id` null: no route fits."""
    rejected_at_rcpt: bool
    """The sender would hear 550 before he sends the mail."""
    loop: str | None
    """Why nothing would be passed on for this recipient."""


class Explanation(BaseModel):
    object: Literal["routes_explanation"]
    quarantined: str | None
    """The route that holds the whole mail."""
    recipients: list[RecipientExplained]
