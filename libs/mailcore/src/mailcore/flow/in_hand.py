"""A mail in the router's hands: what its steps have found so far, and the rows that are made of it in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from mailcore.flow import threads, words
from mailcore.flow.receive import decision
from mailcore.flow.scan_policy import Policy
from mailcore.kit.ids import uuid7
from mailcore.mime.fields import Field, MailAddress, read_fields
from mailcore.mime.parse import Limits, Summary
from mailcore.scanners.base import Finding
from mailcore.store.arrivals import RoutedArrival, Stored
from mailcore.store.events import NewEvent
from mailcore.store.messages import JUNK, RoutedMessage

if TYPE_CHECKING:
    from mailcore.flow.pass_on import Outgoing

_MOST_DEFECTS = 20


@dataclass(frozen=True, slots=True)
class Post:
    """One to one endpoint, for one recipient."""

    webhook_id: UUID
    recipient: str
    route_id: UUID
    route: str
    inline_attachments: bool = False
    marks: dict[str, Any] | None = None
    """As flow.marking tells them."""


@dataclass(slots=True)
class InHand:
    """One a mail and organization. Each step of flow.route reads what earlier ones have put here, and adds its own."""

    row: Stored
    raw: bytes
    """Emptied when the last step that reads it is done: a batch of large mails would fill the memory."""
    summary: Summary
    decisions: list[dict[str, Any]] = field(default_factory=list)
    """What the steps decided and why, in order; appended to `arrivals.decisions`."""
    auth: dict[str, Any] | None = None
    """As flow.authenticate tells it; of a mail that was looked at before the reply, what was found then."""
    verdicts: list[str] = field(default_factory=list)
    """What scanners say (scanners.base.Verdict); routes ask for them, and spam is not forwarded."""
    scores: list[float] = field(default_factory=list)
    """Points of the spam filters, each by its own scale."""
    findings: list[Finding] = field(default_factory=list)
    """What scanners found, with what is known from before (flow.scan)."""
    policies: Mapping[str, Policy] = field(default_factory=dict)
    """What its recipients' domains want done; only where something was found."""
    pending: str = ""
    """Scanners that must look at it before anything becomes of it, and are away. Empty: none."""
    junk: bool = False
    """It lies among the junk of its mailboxes."""
    unwanted: frozenset[str] = frozenset()
    """Mailboxes that want nothing of its sender, where it lies among the junk; an empty one: all (flow.blocked)."""
    held: str = ""
    """Why nothing becomes of it before somebody looks at it: it is quarantined. Empty: nothing is in its way."""
    held_by: str | None = None
    """The step that holds it."""
    state: str = "routed"
    """What the arrival becomes: routed, quarantined, dropped, refused."""
    kept: list[str] = field(default_factory=list)
    """Recipients in lower case in whose mailboxes it lies; which those are is read when it is written (flow.mailbox)."""
    boxes: list[str] = field(default_factory=list)
    """Addresses of the mailboxes that it goes into, each once; before it is written, those that a route names."""
    outgoing: Outgoing | None = None
    """What is passed on of it."""
    posts: list[Post] = field(default_factory=list)
    """Endpoints that its routes name."""
    _fields: list[Field] | None = None

    def decide(self, step: str, what: str, why: str, **more: Any) -> None:
        self.decisions.append(decision(step, what, why, **more))

    def hold(self, by: str, why: str) -> None:
        """The first to hold it counts. What somebody has let out is held no more, and that is said."""
        if self.row.released_at is not None:
            self.decide(by, "not held", f"It has been released. {why}")
        elif not self.held:
            self.held, self.held_by, self.state = why, by, "quarantined"

    @property
    def fields(self) -> list[Field]:
        """Of its header, under the limits of mime.parse; read at the first question, while `raw` is there."""
        if self._fields is None:
            self._fields, _ = read_fields(self.raw, 0, Limits().header_bytes, [])
        return self._fields


def mailbox_addresses(rcpt_to: Sequence[str]) -> list[str]:
    """The mailboxes of these recipients, each once, in order. `user+tag@…` lies in the mailbox of `user@…`."""
    found: dict[str, None] = {}
    for address in rcpt_to:
        local, _, domain = address.lower().rpartition("@")
        base = local if local.startswith('"') else local.partition("+")[0] or local
        found.setdefault(f"{base}@{domain}", None)
    return list(found)


def attachment_id(arrival_id: UUID, n: int) -> UUID:
    """The same at every parse: made from the arrival and the attachment's number in it."""
    return uuid5(arrival_id, f"attachment/{n}")


def routed(mail: InHand, made: Sequence[RoutedMessage]) -> RoutedArrival:
    """The arrival as it is when its mail is routed."""
    row = mail.row
    summary = summary_json(row.id, row.rcpt_to, mail.summary)
    return RoutedArrival(
        row.id,
        summary,
        _decisions(mail, made),
        mail.auth,
        mail.state,
        mail.held_by,
        mail.held or None,
        findings_json(mail),
    )


def findings_json(mail: InHand) -> list[dict[str, Any]] | None:
    return [one.json() for one in mail.findings] or None


def summary_json(arrival_id: UUID, rcpt_to: Sequence[str], found: Summary) -> dict[str, Any]:
    """`arrivals.summary`: bare addresses, lists never null."""
    return {
        "from": found.from_[0].address if found.from_ else "",
        "from_display": shown(found.from_[0]) if found.from_ else "",
        "to": [one.address for one in found.to],
        "cc": [one.address for one in found.cc],
        "bcc": [one.address for one in found.bcc],
        "reply_to": [one.address for one in found.reply_to],
        # who got it here first: a Bcc stands nowhere else; then those it had been meant for before it was forwarded
        "received_for": list(dict.fromkeys([*rcpt_to, *found.received_for])),
        "message_id": found.message_id or "",
        "subject": found.subject,
        "date": found.date.isoformat() if found.date else None,
        "attachments": [
            {
                "id": str(attachment_id(arrival_id, one.n)),
                "filename": one.filename,
                "content_type": one.content_type,
                "content_disposition": one.content_disposition,
                "content_id": one.content_id,
                "size": one.size,
            }
            for one in found.attachments
        ],
        "defects": found.defects,
    }


def shown(one: MailAddress) -> str:
    return f"{one.name} <{one.address}>" if one.name else one.address


def messages_of(mail: InHand, boxes: Mapping[tuple[UUID, str], UUID]) -> list[RoutedMessage]:
    """One a mailbox; `boxes` as from store.mailboxes.ensure."""
    row, found = mail.row, mail.summary
    made = []
    doubts = [*found.doubts, *(["another_checked"] if _another_checked(mail) else [])]
    mark, about = words.mark(row.org_id, row.created_at), threads.related(found)
    found_by = words.tsvector(found, org_id=row.org_id, received_at=row.created_at, rcpt_to=row.rcpt_to)
    for address in mail.boxes:
        mailbox = boxes.get((row.org_id, address))
        if mailbox is not None:
            made.append(
                RoutedMessage(
                    id=uuid7(),
                    org_id=row.org_id,
                    mailbox_id=mailbox,
                    arrival_id=row.id,
                    message_id=found.message_id,
                    from_=shown(found.from_[0]) if found.from_ else None,
                    to=[shown(one) for one in found.to],
                    cc=[shown(one) for one in found.cc],
                    subject=found.subject,
                    date=found.date,
                    size=row.size,
                    received_at=row.created_at,
                    reply_to=[shown(one) for one in found.reply_to],
                    attachments=words.files(found),
                    snippet=words.snippet(found.text),
                    flags=[JUNK] if mail.junk or not mail.unwanted.isdisjoint(("", address)) else [],
                    doubts=doubts,
                    words=words.of_mailbox(found_by, mark, mailbox),
                    related=about,
                )
            )
    return made


def _another_checked(mail: InHand) -> bool:
    """Whether readers are shown an author whose domain is not the one that DMARC asked about."""
    if mail.auth is None or not mail.summary.from_:
        return False
    shown_domain = mail.summary.from_[0].address.rpartition("@")[2].lower()
    return bool(mail.auth["dmarc"]["domain"] != shown_domain)


def _decisions(mail: InHand, made: Sequence[RoutedMessage]) -> list[dict[str, Any]]:
    found = [decision("parse", "defect", defect) for defect in mail.summary.defects[:_MOST_DEFECTS]]
    found += mail.decisions
    if mail.held:
        return [*found, decision("route", "quarantined", mail.held)]
    if mail.boxes and not made:
        return [*found, decision("route", "no mailbox", "The organization is gone.")]
    why = "A recipient of this mail has it as its address, apart from a +tag, or a route names it."
    return [
        *found,
        *(
            decision("route", "delivered", why, mailbox_id=str(message.mailbox_id), message_id=str(message.id))
            for message in made
        ),
        *(
            [decision("route", "announced", "Event email.received.", event="email.received")]
            if mail.state == "routed"
            else []
        ),
    ]


def routed_events(mail: InHand) -> list[tuple[NewEvent, UUID]]:
    """One for each post to an endpoint that a route names, with the endpoint."""
    row = mail.row
    return [
        (
            NewEvent(
                *(uuid7(), row.org_id, "email.routed", row.id, row.created_at, [post.recipient]),
                {"route": {"id": str(post.route_id), "name": post.route}}
                | ({"marks": post.marks} if post.marks else {})
                | ({"inline_attachments": True} if post.inline_attachments else {}),
            ),
            post.webhook_id,
        )
        for post in mail.posts
    ]


def received_event(row: Stored) -> NewEvent:
    return NewEvent(uuid7(), row.org_id, "email.received", row.id, row.created_at, list(row.rcpt_to))
