"""What attempts came to: state, attempt with the peer's words, event, one transaction a batch, only where the lease still holds.

1. `settlement`   an Outcome as a state: final, or queued again by the schedule
2. `settle`       rows and events of a batch, who bounced for good goes on the suppression list, who handed the mail in is owed a
                  report (flow.owed); the caller rings webhooks when some were queued
3. `sweep`        leases of dead workers are taken back, in the transaction that buries them
4. `expire`       rows that waited out their time for a site that could not be reached, or for room
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from mailcore.dsn.classify import Kind, classify
from mailcore.dsn.rules import Category
from mailcore.events import bounce as bounce_detail
from mailcore.events import suppressed
from mailcore.flow import suppress
from mailcore.kit.errors import Unavailable
from mailcore.kit.ids import uuid7
from mailcore.kit.log import logger
from mailcore.kit.metrics import DELIVERIES
from mailcore.smtp.outcome import Line, Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import deliveries, events, expiry, leases, owed, turned_away, workers
from mailcore.store.deliveries import Key, Leased, Settled, Settlement
from mailcore.store.events import NewEvent
from mailcore.store.expiry import Ends, Expired, Place
from mailcore.store.leases import TakenBack
from mailcore.store.owed import NewOwed
from mailcore.store.session import Connection, Store
from mailcore.store.suppressions import NewSuppression, folded

log = logger(__name__)

MAX_LINES = 100
MAX_LINE = 500
"""Of a conversation, what is kept."""
TEST_ADDRESS = "test-address"
"""Rule of outcomes that a test address asked for (outbound.simulator): they suppress nobody."""
TEST_COMPLAINT = "test-complaint"
"""The same, delivered and then complained about."""
PROVIDER_REFUSED = "provider-refused"
"""Rule of what a provider's API refused for good: its words are the reason."""
_WORDS_OF_A_PEER = (None, "null-mx")
"""Rules under which a refusal is the recipient's side's own (RFC 7505 §3: the domain says so by its MX)."""
_SAID_BY_A_PEER = (*_WORDS_OF_A_PEER, "greeting-refused", "ehlo-refused", "auth-refused", PROVIDER_REFUSED)
"""Rules under which the reply is a peer's at all, about whomever: its words are classed. Others are ours."""
_OWN = {"size": Category.CONTENT, "invalid-message": Category.CONTENT, "bad-address": Category.RECIPIENT}
"""What our own refusals are about, where that is not the machines between."""


class Attempt(NamedTuple):
    """One attempt on one leased row, and how it ended."""

    row: Leased
    outcome: Outcome
    site: str | None
    """Key of the site it went to."""
    attempts: int
    """How many the schedule grants: the next delay is due after each but the last."""
    notice: bool = True
    """When it is deferred, that is told, once: it has waited long enough."""


@dataclass(frozen=True, slots=True)
class Batch:
    settled: frozenset[Key]
    """Whose lease was still held."""
    webhooks: int
    """Webhook deliveries queued: ring when not 0."""
    reports: Sequence[UUID] = ()
    """Emails with a delivery report to write (flow.owed)."""


# ---- 1. outcome to settlement ----------------------------------------------------------------------------------------

_STATES: dict[Result, tuple[str, str | None]] = {
    Result.DELIVERED: ("delivered", "delivered"),
    Result.RELAYED: ("relayed", None),
    Result.BOUNCED: ("bounced", "bounced"),
    Result.FAILED: ("failed", "failed"),
    Result.SUPPRESSED: ("suppressed", "suppressed"),
}


def settlement(attempt: Attempt) -> Settlement:
    row, outcome, reply = attempt.row, attempt.outcome, attempt.outcome.reply
    kind = kind_of(outcome)
    if outcome.result is not Result.DEFERRED:
        state, event = _STATES[outcome.result]
    elif row.attempt >= attempt.attempts:
        state, event = "expired", "bounced"
    else:
        state, event = "queued", "delivery_delayed" if attempt.notice else None
    if outcome.rule == TEST_COMPLAINT:
        event = "complained"
    return Settlement(
        email_id=row.email_id,
        n=row.n,
        attempt=row.attempt,
        worker=row.worker,
        leased_at=row.leased_at,
        state=state,
        last_event=event,
        outcome=outcome.result.value,
        site=attempt.site,
        mx_host=outcome.mx_host,
        mx_ip=outcome.mx_ip,
        source_ip=outcome.source_ip,
        tls=outcome.tls,
        tls_policy=outcome.tls_policy,
        code=reply.code if reply else None,
        enhanced_code=reply.enhanced if reply else None,
        reply=storable(reply.text) if reply else None,
        rule=outcome.rule,
        conversation=_conversation(outcome.conversation),
        unsure=outcome.dot_sent and outcome.result is Result.DEFERRED and outcome.rule is not None,
        retry_after=outcome.retry_after,
        category=kind.category.value if kind else None,
        category_rule=kind.rule if kind else None,
    )


def kind_of(outcome: Outcome) -> Kind | None:
    """What a refusal is about; None: nothing was refused."""
    if outcome.reply is None or outcome.result not in (Result.DEFERRED, Result.BOUNCED, Result.FAILED):
        return None
    if outcome.rule in _SAID_BY_A_PEER or outcome.rule == TEST_ADDRESS:
        return classify(outcome.reply)
    return Kind(_OWN.get(outcome.rule or "", Category.INFRASTRUCTURE), "General", outcome.rule or "")


def _conversation(lines: Sequence[Line]) -> str | None:
    if not lines:
        return None
    kept = [
        (round(line.at, 3), "said", storable(line.said[:MAX_LINE]))
        if line.said is not None
        else (round(line.at, 3), "heard", storable((line.heard or "")[:MAX_LINE]))
        for line in lines[:MAX_LINES]
    ]
    return orjson.dumps(kept).decode()


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """A peer says what it likes; Postgres text holds no NUL and no lone surrogate."""
    return text if text.isascii() and "\0" not in text else _UNSTORABLE.sub("\ufffd", text)


# ---- 2. settle -------------------------------------------------------------------------------------------------------


async def settle(store: Store, attempts: Sequence[Attempt]) -> Batch:
    """One transaction. Raises Unavailable; then nothing is known, and the same call may be made again: it is fenced."""
    by_key = {attempt.row.key: attempt for attempt in attempts}
    async with store.worker(by_index=True) as db:
        settled = await deliveries.settle(db, [settlement(attempt) for attempt in attempts])
        now = datetime.now(UTC)
        raised = [event for row in settled for event in _events(row, by_key[row.email_id, row.n], now)]
        queued = await events.insert(db, raised)
        ended = [(row, by_key[row.email_id, row.n]) for row in settled]
        hard = [row for row, attempt in ended if _is_hard(attempt.outcome) and not attempt.row.relayed]
        if hard:
            new = [NewSuppression(row.org_id, folded(row.recipient), "bounce", row.email_id) for row in hard]
            queued += await suppress.add_in(db, new)
        late = [each for row in settled if (each := _owed(row, by_key[row.email_id, row.n])) is not None]
        reports = await owed.owe(db, late) if late else []
    for row in settled:
        DELIVERIES.labels(by_key[row.email_id, row.n].outcome.result.value).inc()
    return Batch(frozenset((row.email_id, row.n) for row in settled), queued, reports)


def suppression(row: Leased) -> Outcome | None:
    """What a row gets whose recipient was suppressed after it was submitted; None: it may be sent."""
    if row.suppressed is None:
        return None
    reply = Reply(550, f"the recipient is on the suppression list ({row.suppressed})", "5.7.1")
    return Outcome(Result.SUPPRESSED, reply, rule="suppression-list")


def _events(row: Settled, attempt: Attempt, now: datetime) -> list[NewEvent]:
    """In order, by their ids too."""
    outcome = attempt.outcome
    raised: list[tuple[str, dict[str, Any]]] = []
    if row.scheduled and outcome.result in (Result.DELIVERED, Result.RELAYED, Result.BOUNCED, Result.DEFERRED):
        raised.append(("email.sent", {}))  # what was scheduled was not sent when it was submitted
    ended = _ended(row, attempt)
    if ended:
        raised.append(ended)
    if outcome.rule == TEST_COMPLAINT:
        raised.append(("email.complained", {}))
    if outcome.rule in (TEST_ADDRESS, TEST_COMPLAINT) or attempt.row.relayed:
        raised = [
            (type_, {**detail, "test": True}) for type_, detail in raised
        ]  # says nothing about anybody (flow.reputation)
    at = int(now.timestamp() * 1000)
    return [
        NewEvent(uuid7(at + n), row.org_id, type_, row.email_id, now, [row.recipient], detail or None)
        for n, (type_, detail) in enumerate(raised)
    ]


def _owed(row: Settled, attempt: Attempt) -> NewOwed | None:
    """What whoever handed the mail in may want to be told (RFC 3461 §6): whether he does stands with the email."""
    result = attempt.outcome.result
    if result is Result.DELIVERED:
        # a peer without DSN has only taken it; one with DSN reports for itself
        action = "relayed" if attempt.row.success and not attempt.outcome.dsn else None
    elif result is Result.DEFERRED and attempt.row.attempt < attempt.attempts:
        action = "delayed" if row.first_delay and attempt.notice else None
    else:
        action = None if result is Result.RELAYED else "failed"
    return None if action is None else NewOwed(row.email_id, row.n, action)


def _is_hard(outcome: Outcome) -> bool:
    """Nobody will ever read mail there, by the word of the recipient's side."""
    return (
        outcome.result is Result.BOUNCED
        and outcome.rule in _WORDS_OF_A_PEER
        and outcome.reply is not None
        and classify(outcome.reply).hard
    )


def _ended(row: Settled, attempt: Attempt) -> tuple[str, dict[str, Any]] | None:
    """Type and detail of the event that the outcome is; None: it waits, which is told already or not yet."""
    outcome = attempt.outcome
    detail: dict[str, Any] = {}
    if outcome.result is Result.RELAYED:
        return None  # its provider's report says what became of it (flow.provider_events)
    if outcome.result is Result.DELIVERED:
        type_ = "email.delivered"
    elif outcome.result is Result.SUPPRESSED:
        type_ = "email.suppressed"
        detail |= suppressed(attempt.row.suppressed)
    elif outcome.result is Result.FAILED:
        type_ = "email.failed"
        words = outcome.reply.text if outcome.reply and outcome.rule == PROVIDER_REFUSED else outcome.rule
        detail["failed"] = {"reason": storable(words or "failed")}
    elif outcome.result is Result.BOUNCED or attempt.row.attempt >= attempt.attempts:
        type_ = "email.bounced"
        detail |= bounce(outcome)
    elif row.first_delay and attempt.notice:
        type_ = "email.delivery_delayed"
    else:
        return None
    if row.possible_duplicate:
        detail["possible_duplicate"] = True
    return type_, detail


def bounce(outcome: Outcome) -> dict[str, Any]:
    """The detail of `email.bounced`: Permanent when a peer refused it, Transient when the schedule was used up."""
    reply = outcome.reply or Reply(451, "no answer", "4.4.7")
    kind = "Permanent" if outcome.result is Result.BOUNCED else "Transient"
    text = storable(str(reply))
    return bounce_detail(text, [f"smtp; {text}"], type=kind, sub_type=classify(reply).sub_type)


# ---- 3. sweep --------------------------------------------------------------------------------------------------------


async def sweep(store: Store, service: str, lease_seconds: float) -> list[TakenBack]:
    """Buries the service's dead workers and takes their rows back, in one transaction; rows of workers that are no more, too."""
    async with store.worker() as db:
        dead = await workers.bury(db, service, lease_seconds) + await workers.ownerless(db, "queue")
        back = await leases.take_back(db, dead) if dead else []
    if dead:
        log.warning(
            "workers died",
            workers=dead,
            taken_back=len(back),
            possible_duplicates=sum(row.possible_duplicate for row in back),
        )
    for row in back:
        DELIVERIES.labels("quarantined" if row.quarantined else "lost").inc()
        if row.quarantined:
            log.error(
                "delivery quarantined: its worker died with it each time",
                email_id=str(row.email_id),
                n=row.n,
                crashes=row.crashes,
            )
    return back


# ---- 4. expire -------------------------------------------------------------------------------------------------------


async def expire(
    store: Store,
    before: datetime,
    broadcasts_before: datetime | None = None,
    waiting_before: datetime | None = None,
) -> tuple[int, int]:
    """All free rows of mail that was due before that, of broadcasts before another time, and of those that wait for room before a
    third; none that is held or paused, or was within a day. Returns `(expired, webhook deliveries queued)`."""
    broadcasts_before = broadcasts_before or before
    ends = Ends(before, broadcasts_before, waiting_before or broadcasts_before)
    total = queued = 0
    async with store.worker() as db:
        places = await expiry.stuck(db)
    for first in places:
        place: Place | None = first
        while place is not None:
            async with store.worker() as db:
                rows, place = await expiry.expire(db, place, ends)
                if rows:
                    queued += await _tell_expired(db, rows)
            total += len(rows)
            DELIVERIES.labels("expired").inc(len(rows))
    return total, queued


async def _tell_expired(db: Connection, rows: Sequence[Expired]) -> int:
    await owed.owe(db, [NewOwed(row.email_id, row.n, "failed") for row in rows])
    now = datetime.now(UTC)
    raised = [
        NewEvent(
            uuid7(),
            row.org_id,
            "email.bounced",
            row.email_id,
            now,
            [row.recipient],
            bounce(Outcome(Result.DEFERRED, Reply(451, _expired(row), "4.4.7"))),
        )
        for row in rows
    ]
    return await events.insert(db, raised)


def _expired(row: Expired) -> str:
    if row.why is not None:
        return f"could not leave for as long as mail may wait: {row.why}"
    return f"could not be reached for as long as the retry schedule lasts: {row.last_reply or 'no answer'}"


# ---- for runners: claims and releases, each its own transaction --------------------------------------------------------


async def release(store: Store, rows: Iterable[Leased], away: Sequence[Attempt] = ()) -> None:
    """Gives back what was leased and not begun, and what was turned `away`: due at once, no attempt counted. When the database is
    away, the lease's end does it."""
    rows = list(rows)
    if rows:
        await _given_back(store, len(rows), lambda db: deliveries.release(db, rows))
    if away:  # a transaction each: rows are locked by key in each statement, not across two
        turned = [_turned_away(each) for each in away]
        await _given_back(store, len(turned), lambda db: turned_away.release(db, turned))


async def _given_back(store: Store, count: int, release: Callable[[Connection], Awaitable[int]]) -> None:
    try:
        async with store.worker(by_index=True) as db:
            await release(db)
    except Unavailable as error:
        why = error.public
        log.warning("rows could not be released; they are free when the lease ends", rows=count, error=why)
    except Exception as error:  # they are no longer held, so that the runner's sweep finds them
        log.error("rows could not be released", rows=count, error=repr(error))


def _turned_away(attempt: Attempt) -> Settlement:
    """Of the conversation two lines: by whom, and its words."""
    outcome, at = attempt.outcome, datetime.now(UTC).timestamp()
    by = " ".join(filter(None, (outcome.mx_host, f"[{outcome.mx_ip}]" if outcome.mx_ip else None))) or "the site"
    lines = (Line(at, said=f"[turned away by {by}: not counted as an attempt]"), Line(at, heard=str(outcome.reply)))
    return settlement(attempt)._replace(conversation=_conversation(lines))
