"""What an organization's routes say becomes of a mail in hand (flow.table), turned into what is written: mailboxes, posts, mail
that leaves, or nothing, and for each of it the decision that says so.

A recipient whose actions cannot be done (an endpoint that is switched off, a forward that may not leave) gets the mail in his
mailbox: a table that is wrong loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from mailcore.flow.authenticate import outcomes
from mailcore.flow.blocked import blocked
from mailcore.flow.conditions import Facts
from mailcore.flow.in_hand import InHand, Post, mailbox_addresses
from mailcore.flow.marking import marks_of
from mailcore.flow.pass_on import PassesOn
from mailcore.flow.table import (
    DropAction,
    ForwardAction,
    Plan,
    QuarantineAction,
    RejectAction,
    RelayAction,
    Step,
    StoreAction,
    Table,
    WebhookAction,
)
from mailcore.mime.automatic import automatic
from mailcore.mime.fields import Field
from mailcore.mime.text import decode_header

AT_ONCE = 500
"""Routes times recipients that are tried on the event loop; more go to a thread."""


async def follow(mail: InHand, table: Table, passes_on: PassesOn) -> None:
    """Raises Unavailable."""
    if mail.held:
        return
    unwanted = blocked(mail, table)
    if not table.routes:
        mail.kept = [each.lower() for each in mail.row.rcpt_to]
        return
    plan = await planned(mail, table, without=unwanted)
    if plan.held is not None and isinstance(plan.held.action, QuarantineAction):
        mail.hold("routes", f"{_named(plan.held)}: {plan.held.action.reason}")
        return
    mail.kept = [each.lower() for each in unwanted]
    _tell(mail, plan)
    _local(mail, plan, table)
    leaving = [step for step in plan.steps if isinstance(step.action, ForwardAction | RelayAction)]
    if leaving:
        mail.outgoing = await passes_on.prepare(mail, leaving, table)
        mail.kept += [each.lower() for each in mail.outgoing.kept]
    done = mail.boxes or mail.kept or mail.posts or leaving
    mail.state = "routed" if done else _nothing(plan)


async def planned(mail: InHand, table: Table, *, without: Collection[str] = ()) -> Plan:
    """What its routes say; for who only wants to know, too. `without`: recipients for whom none is tried."""
    facts = facts_of(mail, header=table.reads_header)
    recipients = [each for each in mail.row.rcpt_to if each not in without]
    released = mail.row.released_at is not None
    if len(table.routes) * len(recipients) <= AT_ONCE:
        return table.plan(facts, recipients, released=released)
    return await asyncio.to_thread(table.plan, facts, recipients, released=released)


def facts_of(mail: InHand, *, header: bool = True) -> Facts:
    """`header`: its fields are asked for."""
    row, found = mail.row, mail.summary
    fields: Sequence[Field] = mail.fields if header else ()
    named: dict[str, list[str]] = {}
    for field in fields:
        named.setdefault(field.name, []).append(decode_header(field.value))
    return Facts(
        sender=row.mail_from,
        door=row.door,
        size=row.size,
        from_=[one.address for one in found.from_],
        subject=[found.subject] if found.subject is not None else [],
        headers=named,
        attachments=bool(found.attachments),
        automatic=header and automatic(fields, row.mail_from) is not None,
        verdicts=tuple(mail.verdicts),
        scores=tuple(mail.scores),
        auth=outcomes(mail.auth) if mail.auth else {},
    )


def _tell(mail: InHand, plan: Plan) -> None:
    for recipient, route in plan.matched:
        mail.decide("routes", "matched", f"{route.named()} fits.", route_id=str(route.id), recipient=recipient)
    for step in plan.steps:
        if step.route is None:
            mail.decide("routes", "no route", "No route fits: the mailbox has it.", recipient=step.recipient)


def _local(mail: InHand, plan: Plan, table: Table) -> None:
    """Everything that does not leave."""
    for step in plan.steps:
        action = step.action
        if isinstance(action, StoreAction):
            if action.mailbox:
                mail.boxes += mailbox_addresses([action.mailbox])
            else:
                mail.kept.append(step.recipient.lower())
        elif isinstance(action, WebhookAction):
            if action.webhook_id in table.endpoints and step.route is not None:
                marks = marks_of(mail, step.recipient).as_json() if mail.findings else None
                mail.posts.append(
                    Post(
                        *(action.webhook_id, step.recipient, step.route.id, step.route.name),
                        action.inline_attachments,
                        marks,
                    )
                )
                told = {"recipient": step.recipient, "webhook_id": str(action.webhook_id)}
                mail.decide("route", "posted", f"{_named(step)} says so.", event="email.routed", **told)
            else:
                said = f"{_named(step)} names an endpoint that is switched off or gone: the mailbox has the mail."
                mail.decide("route", "not posted", said, recipient=step.recipient)
                mail.kept.append(step.recipient.lower())
        elif isinstance(action, DropAction):
            mail.decide("route", "dropped", f"{_named(step)} says so.", recipient=step.recipient)
        elif isinstance(action, RejectAction):
            said = f"{_named(step)} rejects it, which could not be said before it was taken: {action.message}"
            mail.decide("route", "refused", said, recipient=step.recipient)


def _nothing(plan: Plan) -> str:
    return "refused" if any(isinstance(step.action, RejectAction) for step in plan.steps) else "dropped"


def _named(step: Step) -> str:
    return step.route.named() if step.route is not None else "No route"
