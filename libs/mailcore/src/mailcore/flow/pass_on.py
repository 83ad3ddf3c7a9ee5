"""Forwards and relays: what routes say leaves again, made ready for the door of sending.

    outgoing = await passes_on.prepare(mail, steps, table)       # no transaction is open
    ... in routing's transaction: submit_in(db, outgoing.rows)

What cannot leave (a loop, a domain that may not send, a quota, a way that is gone) is said in the mail's decisions, and its
recipient gets the mail in his mailbox instead: `outgoing.kept`. Nothing is dropped for it.

Loops end in three ways: a mail that was forwarded for this address before says so in Delivered-To, one that was relayed for it in a
field of ours, and after MAX_RECEIVED servers nothing is passed on at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from mailcore.dsn.wishes import Wishes
from mailcore.flow.in_hand import InHand, mailbox_addresses, shown
from mailcore.flow.marking import marks_of, unmarked
from mailcore.flow.passed_on import RELAYED_FOR, PassedOn, address_field, received, results_of
from mailcore.flow.submit import NewEmail, Submits
from mailcore.flow.table import ForwardAction, RelayAction, Step, Table
from mailcore.kit.errors import Exceeded, Invalid, Refused
from mailcore.kit.remember import Remembered
from mailcore.mailauth.dkim.canonical import split_fields
from mailcore.mailauth.dkim.verify import off_loop
from mailcore.mailauth.results import header_end, without_ours
from mailcore.mime.automatic import MAX_RECEIVED, hops, passed_on_for
from mailcore.mime.marks import MAX_HEADER
from mailcore.smtp.address import Address, parse_address
from mailcore.store import routes
from mailcore.store.emails import NewRow
from mailcore.store.session import Store

DOMAIN_SECONDS = 5.0
UNWANTED = ("spam", "infected", "listed")
"""Verdicts with which nothing is forwarded: it would be ours that others judge us by."""


@dataclass(slots=True)
class Outgoing:
    rows: list[NewRow] = field(default_factory=list)
    relayed: int = 0
    """Copies among them that stay in the house: they count against no quota."""
    kept: list[str] = field(default_factory=list)
    """Recipients for whom something could not leave."""


class PassesOn:
    """One a process."""

    def __init__(self, store: Store, submits: Submits) -> None:
        self.submits = submits
        self._store = store
        self._domains: Remembered[tuple[UUID, str], UUID] = Remembered(self._domain, seconds=DOMAIN_SECONDS)

    async def prepare(self, mail: InHand, steps: Sequence[Step], table: Table) -> Outgoing:
        """Of steps that forward or relay. Large mail is copied to its own blob here. Raises Unavailable."""
        outgoing = Outgoing()
        gone: set[str] = set()
        """Where it goes already: two recipients who forward to one address send one copy."""
        for step in steps:
            try:
                email = await self._email(mail, step, table, gone)
                if email is None:
                    continue
                rows = await self.submits.prepare(mail.row.org_id, [email])
            except (Refused, Exceeded) as error:
                mail.decide("route", f"not {_WORDS[step.action.type]}", error.public, recipient=step.recipient)
                outgoing.kept.append(step.recipient)
                continue
            outgoing.rows += rows
            if isinstance(step.action, RelayAction):
                outgoing.relayed += len(rows[0].recipients)
            to = [str(address) for address in email.recipients]
            why = f"{step.route.named()} says so." if step.route else ""
            mail.decide("route", _WORDS[step.action.type], why, recipient=step.recipient, to=to, email_id=rows[0].id)
        return outgoing

    async def _email(self, mail: InHand, step: Step, table: Table, gone: set[str]) -> NewEmail | None:
        """None: it goes there already. Raises Refused."""
        if (why := loop(mail, step.recipient)) is not None:
            raise Refused(why, enhanced="5.4.6")
        if isinstance(step.action, ForwardAction) and (
            bad := next((one for one in mail.verdicts if one in UNWANTED), None)
        ):
            raise Refused(f"A scanner says {bad}: such mail is not forwarded under our name.")
        if header_end(mail.raw) > MAX_HEADER:
            raise Refused(f"Its header has more than {MAX_HEADER} octets: it is not passed on.")
        if isinstance(step.action, RelayAction):
            return await self._relay(mail, step.recipient, step.action, table)
        assert isinstance(step.action, ForwardAction)
        targets = [parse_address(one) for one in step.action.to if one.lower() not in gone]
        gone.update(str(one).lower() for one in targets)
        if not targets:
            said = "The mail goes to these addresses already, for another of its recipients."
            mail.decide("route", "forwarded once", said, recipient=step.recipient, to=step.action.to)
            return None
        if step.recipient.lower() in (str(one).lower() for one in targets):
            raise Refused("A route that forwards an address to itself would never end.")
        return await off_loop(len(mail.raw), _forward, mail, step.recipient, targets, table)

    async def _relay(self, mail: InHand, recipient: str, action: RelayAction, table: Table) -> NewEmail:
        row = mail.row
        lane_route = table.lane_routes.get(action.way_id)
        if lane_route is None:
            raise Refused("The way out that the route names is gone. Change the route.")
        address = parse_address(recipient, allow_quoted=True)
        domain_id = await self._domains.get((row.org_id, address.domain))
        if domain_id is None:
            raise Refused(f"The domain {address.domain} is gone.")
        email = await off_loop(len(mail.raw), _relayed, mail, recipient, address)
        email.domain_id, email.lane_route = domain_id, lane_route
        return email

    async def _domain(self, key: tuple[UUID, str]) -> UUID | None:
        async with self._store.tenant(key[0]) as db:
            return await routes.domain_id(db, key[1])


_WORDS = {"forward": "forwarded", "relay": "relayed"}


def loop(mail: InHand, recipient: str) -> str | None:
    """Why it is not passed on (any more) for that recipient."""
    if hops(mail.fields) >= MAX_RECEIVED:
        return f"It has been through {MAX_RECEIVED} servers: that is a loop."
    again = passed_on_for(mail.fields, [recipient.lower(), *mailbox_addresses([recipient])], RELAYED_FOR.lower())
    return None if again is None else f"It has been passed on for {again} before: that is a loop."


def _relayed(mail: InHand, recipient: str, address: Address) -> NewEmail:
    row = mail.row
    auth, server, raw = _ours(mail)
    marks = marks_of(mail, recipient, relayed=True)
    head = auth + received(row, recipient, server) + address_field(RELAYED_FOR, mailbox_addresses([recipient])[0])
    passed_on = PassedOn("relay", str(row.id), row.mail_from, marks.head + head)
    return _new(mail, unmarked(replace_bare(raw), marks), address.domain, [address], passed_on)


def _forward(mail: InHand, recipient: str, targets: list[Address], table: Table) -> NewEmail:
    """Raises Refused: no domain of the organization may send, or it cannot be signed."""
    _signable(mail)
    row, auth = mail.row, mail.auth or {}
    own = recipient.rpartition("@")[2].lower()
    sender = own if own in table.senders or not table.senders else table.senders[0]
    chain = auth.get("arc") or {}
    # a chain that could not be judged just now would be sealed as broken, and be broken for good
    header, server, raw = _ours(mail)
    marks = marks_of(mail, recipient)
    head = marks.head + received(row, recipient, server) + address_field("Delivered-To", recipient.lower())
    passed_on = PassedOn("forward", str(row.id), row.mail_from, head)
    if header and not chain.get("temporary"):
        passed_on = replace(passed_on, server=server, results=results_of(header), cv=chain.get("result", "none"))
    return _new(mail, unmarked(replace_bare(raw), marks), sender, targets, passed_on)


def _signable(mail: InHand) -> None:
    """Raises Refused for what leaves in our name and could not be signed in it (RFC 6376 §5.4): on its way out it would fail, where
    nobody has it any more."""
    try:
        fields = split_fields(replace_bare(mail.raw[: header_end(mail.raw)]))
    except Invalid as error:
        raise Refused(f"It cannot be signed, and so not be forwarded. {error.public}") from None
    if not any(name == b"from" for name, _ in fields):
        raise Refused("It has no From field: it cannot be signed, and so not be forwarded.")


def _ours(mail: InHand) -> tuple[str, str, bytes]:
    """Our Authentication-Results field, our name in it, and the mail without those that only claim to be ours (RFC 8601 §5)."""
    header = (mail.auth or {}).get("header") or ""
    server = header.partition(":")[2].partition(";")[0].strip()
    return header, server, without_ours(mail.raw, server) if server else mail.raw


def _new(mail: InHand, raw: bytes, domain: str, to: list[Address], passed_on: PassedOn) -> NewEmail:
    row, found = mail.row, mail.summary
    return NewEmail(
        from_=shown(found.from_[0]) if found.from_ else row.mail_from,
        domain=domain,
        to=[str(one) for one in to],
        recipients=to,
        subject=found.subject or "",
        raw=raw,
        message_id=found.message_id or None,
        # an empty return path stays one, so that nobody reports about a report (RFC 5321 §4.5.5)
        dsn=None if row.mail_from else Wishes("").as_json(),
        tags=[{"name": f"{passed_on.kind}_of", "value": str(row.id)}],
        track_opens=False,
        track_clicks=False,
        passed_on=passed_on.as_json(),
    )


def replace_bare(raw: bytes) -> bytes:
    """Line ends as SMTP has them: mail of other doors may have come without CRs. As it is, the very same object."""
    pairs = raw.count(b"\r\n")
    if raw.count(b"\r") == pairs and raw.count(b"\n") == pairs:
        return raw
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
