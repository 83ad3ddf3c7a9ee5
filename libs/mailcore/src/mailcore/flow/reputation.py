"""The reputation of a domain and of a key: measured, warned of, stopped.

1. `judge`, `judge_key`  rates against thresholds: what ought to be open now; no I/O
2. `guard`               every minute in outbound: raises alarms, pauses domains, suspends keys, and ends what has passed
3. `end`, `pause`        a person takes an alarm back, and the counts of its domain begin anew from there; or stops a domain

A pause is a row of `alarms`, nothing else: the door of sending reads it in the statement that finds the domain
(store.domains.sending_id), and mail that waits already is put off where it would be signed (store.senders), at no attempt, until no
pause of its domain is left (flow.waiting). Event counts come from flow.count, so that a pause begins within two minutes of what
caused it.

An alarm raises `alarm.raised`, its end `alarm.ended`: endpoints that ask for every type get them. Those of bulk senders are raised
and ended by flow.bulk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.events import timestamp
from mailcore.kit.errors import NotFound
from mailcore.kit.ids import uuid7, uuid7_time
from mailcore.kit.log import logger
from mailcore.kit.metrics import ALARMS
from mailcore.kit.settings import Reputation
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import RELEASE, WEBHOOKS
from mailcore.store import domains, events, reputation
from mailcore.store.events import NewEvent
from mailcore.store.reputation import KeyUse, NewAlarm, Open, Rates
from mailcore.store.session import Connection, Store

log = logger(__name__)

WINDOW_HOURS = 24


# ---- 1. what ought to be open ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    kind: str
    """complaints, bounces, volume."""
    action: str
    """warned, paused, suspended."""
    text: str


def judge(rates: Rates, limits: Reputation, open_: Sequence[Open] = ()) -> list[Wanted]:
    """What holds for a domain. A pause that is open stays until its rate is below the warning."""
    wanted = []
    for kind, n, rate, least, warning, limit, of, advice in (
        (
            *("complaints", rates.complained, rates.complaint_rate),
            *(limits.min_complaints, limits.complaint_warning, limits.complaint_limit),
            f"of {rates.delivered} delivered mails were marked as spam",
            "Mail only who asked for it, and make unsubscribing easy.",
        ),
        (
            *("bounces", rates.bounced, rates.bounce_rate),
            *(limits.min_bounces, limits.bounce_warning, limits.bounce_limit),
            f"of {rates.delivered + rates.bounced} mails bounced for good",
            "Clean the list of addresses: do not mail what has bounced, bought or guessed addresses.",
        ),
    ):
        paused = any((each.kind, each.action) == (kind, "paused") for each in open_)
        if n < least or rate < warning:
            continue
        stop = limits.pause and (rate >= limit or paused)
        what = f"{rates.name}: {n} {of} since {timestamp(rates.since)}, {rate:.2%}"
        if stop:
            until = f"It sends nothing until the rate is below {warning:.2%}, or the operator takes this back."
            wanted.append(Wanted(kind, "paused", f"{what}; the limit is {limit:.2%}. {until} {advice}"))
        else:
            wanted.append(Wanted(kind, "warned", f"{what}; at {limit:.2%} it is stopped. {advice}"))
    return wanted


def judge_key(use: KeyUse, limits: Reputation) -> list[Wanted]:
    action = "suspended" if limits.suspend_keys else "warned"
    then = "It is suspended; the operator can take that back." if limits.suspend_keys else ""
    advice = f"If this is not your doing, the key may be stolen: delete it and make another. {then}".strip()
    wanted = []
    usual = max(use.busiest, limits.key_min_recipients)
    if use.sent > limits.key_factor * usual:
        text = f"The API key `{use.name}` sent to {use.sent} recipients in an hour; its busiest hour of 30 days had {use.busiest}."
        wanted.append(Wanted("volume", action, f"{text} {advice}"))
    if use.bounced >= limits.min_bounces and use.bounced > limits.key_bounce_limit * use.sampled:
        share = use.bounced / use.sampled
        text = f"Of the mail that the API key `{use.name}` sent in an hour, {share:.0%} bounced for good."
        wanted.append(Wanted("bounces", action, f"{text} {advice}"))
    return wanted


# ---- 2. guard --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guarded:
    raised: int
    ended: int
    webhooks: int
    """Webhook deliveries queued: ring when not 0."""


async def guard(store: Store, limits: Reputation) -> Guarded | None:
    """One look at all of it, in one transaction. None: another process is at it. Raises Unavailable."""
    async with store.worker() as db:
        if not await reputation.alone(db):
            return None
        open_: dict[UUID, list[Open]] = {}
        for each in await reputation.open_alarms(db):
            if each.kind != "bulk":  # flow.bulk raises and ends those
                open_.setdefault(each.subject_id, []).append(each)
        raised: list[NewAlarm] = []
        ended: list[tuple[Open, str]] = []
        for rates in await reputation.suspicious(db, WINDOW_HOURS):
            before = open_.get(rates.domain_id, [])
            wanted = judge(rates, limits, before)
            raised += _new(wanted, before, rates.org_id, _facts(rates), domain=(rates.domain_id, rates.name))
            ended += _over(before, wanted)
        for use in await reputation.keys_in_use(db, limits.key_factor * limits.key_min_recipients, limits.min_bounces):
            before = open_.get(use.key_id, [])
            wanted = judge_key(use, limits)
            raised += _new(wanted, before, use.org_id, _key_facts(use), key_id=use.key_id)
            # a suspension is the operator's to take back
            ended += [(each, by) for each, by in _over(before, wanted) if each.action != "suspended"]
        raised = [alarm for alarm in raised if await _raise(db, alarm)]
        gone = [
            row for by in ("rate", "pause") for row in await reputation.end(db, [o.id for o, b in ended if b == by], by)
        ]
        queued = await tell(db, raised, gone)
    note(raised)
    return Guarded(len(raised), len(gone), queued)


async def tell(db: Connection, raised: Sequence[NewAlarm], gone: Sequence[asyncpg.Record]) -> int:
    """Events of alarms that were raised and of those that have ended. Returns webhook deliveries queued."""
    return await events.insert(db, [*map(_raised_event, raised), *map(_ended_event, gone)])


def note(raised: Sequence[NewAlarm]) -> None:
    """After the commit: for whoever reads metrics and logs."""
    for alarm in raised:
        ALARMS.labels(alarm.kind, alarm.action).inc()
        log.warning("alarm", kind=alarm.kind, action=alarm.action, org_id=str(alarm.org_id), text=alarm.text)


def _new(
    wanted: Sequence[Wanted],
    before: Sequence[Open],
    org_id: UUID,
    facts: dict[str, Any],
    *,
    domain: tuple[UUID, str] | tuple[None, None] = (None, None),
    key_id: UUID | None = None,
) -> list[NewAlarm]:
    there = {(each.kind, each.action) for each in before}
    return [
        NewAlarm(uuid7(), org_id, domain[0], domain[1], key_id, each.kind, each.action, each.text, facts)
        for each in wanted
        if (each.kind, each.action) not in there
    ]


def _over(before: Sequence[Open], wanted: Sequence[Wanted]) -> list[tuple[Open, str]]:
    """What holds no more, and why. What a person has ordered only a person takes back."""
    now = {each.kind: each.action for each in wanted}
    return [
        (each, "rate" if each.kind not in now or each.action == "paused" else "pause")
        for each in before
        if each.kind != "manual" and now.get(each.kind) != each.action
    ]


async def _raise(db: Connection, alarm: NewAlarm) -> bool:
    if alarm.action == "suspended" and alarm.key_id is not None:
        await reputation.set_key_status(db, alarm.key_id, "suspended", was="active")
    return await reputation.raise_(db, alarm)


def _facts(rates: Rates) -> dict[str, Any]:
    return {
        "since": timestamp(rates.since),
        "delivered": rates.delivered,
        "bounced": rates.bounced,
        "complained": rates.complained,
        "bounce_rate": round(rates.bounce_rate, 6),
        "complaint_rate": round(rates.complaint_rate, 6),
    }


def _key_facts(use: KeyUse) -> dict[str, Any]:
    return {
        "since": timestamp(use.since),
        "sent": use.sent,
        "busiest_hour": use.busiest,
        "sampled": use.sampled,
        "bounced": use.bounced,
    }


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """An alarm as the API and its events show it."""
    return {
        "id": str(row["id"]),
        "org_id": str(row["org_id"]),
        "kind": row["kind"],
        "action": row["action"],
        "domain_id": None if row["domain_id"] is None else str(row["domain_id"]),
        "domain": row["domain"],
        "api_key_id": None if row["key_id"] is None else str(row["key_id"]),
        "text": row["text"],
        "facts": row["facts"],
        "raised_at": timestamp(uuid7_time(row["id"])),
        "ended_at": None if row["ended_at"] is None else timestamp(row["ended_at"]),
        "ended_by": row["ended_by"],
    }


def _raised_event(alarm: NewAlarm) -> NewEvent:
    row = {
        name: getattr(alarm, name)
        for name in ("id", "org_id", "kind", "action", "domain_id", "domain", "key_id", "text", "facts")
    }
    detail = shown({**row, "ended_at": None, "ended_by": None})
    return NewEvent(uuid7(), alarm.org_id, "alarm.raised", alarm.id, datetime.now(UTC), None, detail)


def _ended_event(row: asyncpg.Record) -> NewEvent:
    return NewEvent(uuid7(), row["org_id"], "alarm.ended", row["id"], datetime.now(UTC), None, shown(row))


# ---- 3. by a person --------------------------------------------------------------------------------------------------


async def end(store: Store, ringer: Ringer, alarm_id: UUID) -> Mapping[str, Any]:
    """The operator takes an alarm back: a paused domain sends again within seconds, a suspended key is active again. One that has
    ended stays as it is. Raises NotFound."""
    async with store.worker() as db:
        before = await reputation.find(db, alarm_id)
        if before is None:
            raise NotFound("Alarm not found")
        rows = await reputation.end(db, [alarm_id], "person")
        if rows and before["action"] == "suspended":
            await reputation.set_key_status(db, before["key_id"], "active", was="suspended")
        queued = await events.insert(db, [_ended_event(row) for row in rows])
    if queued:
        ringer.ring(WEBHOOKS)
    if before["action"] == "paused":
        await ringer.enqueue(RELEASE, str(alarm_id))
    ended: Mapping[str, Any] = rows[0] if rows else before
    return ended


async def pause(store: Store, ringer: Ringer, domain_id: UUID, reason: str) -> Mapping[str, Any]:
    """The operator stops a domain until he takes that back. Raises NotFound."""
    async with store.worker() as db:
        row = await domains.find(db, domain_id)
        if row is None:
            raise NotFound("Domain not found")
        alarm = NewAlarm(uuid7(), row["org_id"], domain_id, row["name"], None, "manual", "paused", reason, {})
        queued = await events.insert(db, [_raised_event(alarm)]) if await reputation.raise_(db, alarm) else 0
        found = await reputation.paused(db, domain_id)
    if queued:
        ringer.ring(WEBHOOKS)
    return next(each for each in found if each["kind"] == "manual")
