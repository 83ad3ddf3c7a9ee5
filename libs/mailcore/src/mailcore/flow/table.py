"""An organization's routes of received mail: an ordered table, and what it says becomes of a mail.

Routes are tried in order, for each recipient by itself. One that fits gives its actions, and unless `stop` is false the table ends
there. A recipient for whom no route fits gets the mail in his mailbox, as without any table.

    store       into the recipient's mailbox, or another of the organization
    webhook     the parsed mail to one of the organization's endpoints
    forward     to other addresses, by the door of sending
    relay       to another server, by one of the organization's ways out (SMTP or LMTP)
    drop        nothing; reject the same, and where the envelope is enough to decide it, the sender hears 550 at RCPT
    quarantine  nothing before somebody releases it; the whole mail waits, whoever else it is for

The last three stand alone and end the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from mailcore.flow.conditions import Condition, Facts, Match, all_hold, conditions
from mailcore.kit.errors import Invalid
from mailcore.kit.log import logger
from mailcore.smtp.address import parse_address

log = logger(__name__)

MAX_ROUTES = 200
"""Of one organization: each mail may be tried against all of them."""
MAX_ACTIONS = 10
MAX_TARGETS = 10
_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"


# ---- actions ---------------------------------------------------------------------------------------------------------


def _address(text: str) -> str:
    try:
        return str(parse_address(text))
    except Invalid as error:
        raise ValueError(error.public) from None


class _Action(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StoreAction(_Action):
    type: Literal["store"]
    mailbox: Annotated[str, StringConstraints(max_length=254), AfterValidator(_address)] | None = None
    """An address of a receiving domain of the organization; left out: the recipient's own."""


class WebhookAction(_Action):
    type: Literal["webhook"]
    webhook_id: Annotated[UUID, Field(strict=False)]
    inline_attachments: bool = False
    """Attachments up to 10 MB go along, as base64; the others by link, as all do otherwise."""


class ForwardAction(_Action):
    type: Literal["forward"]
    to: Annotated[
        list[Annotated[str, StringConstraints(max_length=254), AfterValidator(_address)]],
        Field(min_length=1, max_length=MAX_TARGETS),
    ]


class RelayAction(_Action):
    type: Literal["relay"]
    way_id: Annotated[UUID, Field(strict=False)]
    """Of kind smarthost or lmtp."""


class DropAction(_Action):
    type: Literal["drop"]


class RejectAction(_Action):
    type: Literal["reject"]
    message: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[ -~]+$")] = (
        "Mail is not taken here"
    )


class QuarantineAction(_Action):
    type: Literal["quarantine"]
    reason: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_LINE)] = "A route says so."


AnyAction: TypeAlias = (
    StoreAction | WebhookAction | ForwardAction | RelayAction | DropAction | RejectAction | QuarantineAction
)
Action: TypeAlias = Annotated[AnyAction, Field(discriminator="type")]
Actions: TypeAlias = Annotated[list[Action], Field(min_length=1, max_length=MAX_ACTIONS)]
LAST = (DropAction, RejectAction, QuarantineAction)
"""They stand alone, and no route after them is tried."""


# ---- routes ----------------------------------------------------------------------------------------------------------


class Definition(BaseModel):
    """A route as its owner wrote it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    match: Match
    except_: Annotated[Match | None, Field(alias="except")] = None
    """Not what fits this as well."""
    actions: Actions
    stop: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    id: UUID
    name: str
    place: int
    """In the table, from 1."""
    updated_at: datetime
    actions: tuple[Action, ...]
    stop: bool
    of_mail: tuple[Condition, ...]
    """Tried once a mail …"""
    of_recipient: tuple[Condition, ...]
    """… and these once a recipient."""
    exceptions: tuple[Condition, ...] = ()

    @classmethod
    def of(cls, id_: UUID, name: str, place: int, updated_at: datetime, written: Definition) -> Route:
        tried = conditions(written.match)
        except_ = () if written.except_ is None else tuple(conditions(written.except_))
        return cls(
            id_,
            name,
            place,
            updated_at,
            tuple(written.actions),
            written.stop or isinstance(written.actions[0], LAST),
            tuple(each for each in tried if not each.of_recipient),
            tuple(each for each in tried if each.of_recipient),
            except_,
        )

    def fits(self, facts: Facts, recipient: str, *, mail: bool | None = None) -> bool | None:
        """`mail`: what the conditions of the mail came to, where that is known. None: it cannot be told yet."""
        of_mail = all_hold(self.of_mail, facts, recipient) if mail is None else mail
        of_recipient = of_mail is not False and all_hold(self.of_recipient, facts, recipient)
        if of_mail is False or of_recipient is False:
            return False
        excepted = all_hold(self.exceptions, facts, recipient) if self.exceptions else False
        if excepted is True:
            return False
        return None if None in (of_mail, of_recipient, excepted) else True

    def named(self) -> str:
        return f"Route {self.place}, “{self.name}”"

    def explained(self, facts: Facts, recipient: str) -> dict[str, Any]:
        return {
            "id": str(self.id),
            "name": self.name,
            "position": self.place,
            "fits": self.fits(facts, recipient),
            "conditions": [each.explained(facts, recipient) for each in (*self.of_mail, *self.of_recipient)],
            "exceptions": [each.explained(facts, recipient) for each in self.exceptions],
        }


@dataclass(frozen=True, slots=True)
class Step:
    """One action for one recipient."""

    recipient: str
    action: Action
    route: Route | None
    """None: no route fits, and he gets it in his mailbox."""


@dataclass(slots=True)
class Plan:
    steps: list[Step] = field(default_factory=list)
    """In the order of the recipients, then of the routes."""
    matched: list[tuple[str, Route]] = field(default_factory=list)
    """Recipient and route, in the same order."""

    @property
    def held(self) -> Step | None:
        return next((step for step in self.steps if isinstance(step.action, QuarantineAction)), None)


@dataclass(frozen=True, slots=True)
class Table:
    routes: tuple[Route, ...] = ()
    """Those that are switched on, in order."""
    lane_routes: Mapping[UUID, int] = field(default_factory=dict)
    """Way → what lanes name it by, for relays; a way that is not here cannot be used."""
    endpoints: frozenset[UUID] = frozenset()
    """Webhooks that are switched on, of those that routes name."""
    senders: tuple[str, ...] = ()
    """Verified domains that forwards may leave by, the oldest first; only where a route forwards."""
    blocked: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Sender, or `@domain`, of whom mailboxes want nothing → those mailboxes; an empty one: all of the organization's."""

    @property
    def reads_header(self) -> bool:
        """Its conditions or actions need the fields of the header."""
        return any(
            each.name.startswith("headers.") or each.name == "automatic"
            for route in self.routes
            for each in (*route.of_mail, *route.exceptions)
        ) or any(isinstance(action, ForwardAction | RelayAction) for route in self.routes for action in route.actions)

    def plan(self, facts: Facts, recipients: Sequence[str], *, released: bool = False) -> Plan:
        """`released`: somebody let it out of quarantine: routes that would hold it again are passed over."""
        plan = Plan()
        routes = [route for route in self.routes if not (released and isinstance(route.actions[0], QuarantineAction))]
        of_mail = {route.id: all_hold(route.of_mail, facts, "") for route in routes}
        tried = [route for route in routes if of_mail[route.id] is True]
        for recipient in recipients:
            before = len(plan.steps)
            for route in tried:
                if route.fits(facts, recipient, mail=True) is not True:
                    continue
                plan.matched.append((recipient, route))
                plan.steps += [Step(recipient, action, route) for action in route.actions]
                if route.stop:
                    break
            if len(plan.steps) == before:
                plan.steps.append(Step(recipient, KEEP, None))
        return plan

    def refusal(self, facts: Facts, recipient: str) -> tuple[Route, RejectAction] | None:
        """Whether a recipient is rejected whatever the rest of the mail will be: for RCPT, where only the envelope is known."""
        for route in self.routes:
            fits = route.fits(facts, recipient)
            if fits and isinstance(route.actions[0], RejectAction):
                return route, route.actions[0]
            if route.stop and fits is not False:
                return None  # it ends there, or perhaps does
        return None

    def explained(self, facts: Facts, recipient: str) -> list[dict[str, Any]]:
        """Each route in order, also those behind the one that ends the table: `tried` says which were reached."""
        found, reached = [], True
        for route in self.routes:
            one = route.explained(facts, recipient)
            found.append(one | {"tried": reached})
            reached = reached and not (one["fits"] and route.stop)
        return found


KEEP = StoreAction(type="store")
EMPTY = Table()


def table_of(
    rows: Iterable[Mapping[str, Any]],
    known: Callable[[UUID, datetime], Route | None] = lambda *_: None,
) -> tuple[Route, ...]:
    """Rows `(id, name, updated_at, match, except_, actions, stop)` in order. `known`: a route that has been read before.

    A row that this version cannot read is left out: who wrote it was another version.
    """
    found: list[Route] = []
    for place, row in enumerate(rows, 1):
        route = known(row["id"], row["updated_at"])
        if route is None or route.place != place:
            try:
                route = Route.of(row["id"], row["name"], place, row["updated_at"], definition(row))
            except ValueError as error:
                log.error("a route cannot be read and is passed over", route=str(row["id"]), error=str(error))
                continue
        found.append(route)
    return tuple(found)


def definition(row: Mapping[str, Any]) -> Definition:
    """As it is stored. Raises ValueError."""
    return Definition.model_validate(
        {"match": row["match"], "except": row["except_"], "actions": row["actions"], "stop": row["stop"]}
    )
