"""What providers post about mail they took ends in the same events as our own deliveries, once each.

1. the way that the URL names; its provider's signature, before anything else is believed
2. each event's delivery: by our reference and the recipient, and only where that way was given the mail
3. one transaction: what was taken before is passed over, states move, events are raised, who bounced for good or complained goes
   on the suppression list; the caller has its 200 after the commit. What may be about another recipient of the mail is only noted

A delivery under way is asked for again later (503): its attempt is not settled yet. One that waits for a retry because the
provider's answer was lost is found to have arrived, and waits no longer.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mailcore.dsn.classify import classify
from mailcore.flow import suppress
from mailcore.flow.settle import bounce, storable
from mailcore.flow.ways import account_of
from mailcore.kit.errors import NotFound, Refused, Unavailable
from mailcore.kit.ids import uuid7
from mailcore.kit.log import logger
from mailcore.kit.seal import Keyring
from mailcore.providers.base import Event, EventSource, Kind, Post
from mailcore.providers.client import Client
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import REPORT, WEBHOOKS
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import events, owed, provider_events, ways
from mailcore.store.events import NewEvent
from mailcore.store.owed import NewOwed
from mailcore.store.provider_events import Carried, Move, Unclear
from mailcore.store.session import Connection, Store
from mailcore.store.suppressions import NewSuppression, folded
from mailcore.store.ways import WayRow

log = logger(__name__)

MOST = 1_000
"""Ways whose signing keys are kept."""


@dataclass(frozen=True, slots=True)
class Taken:
    events: int
    """That were about mail of ours and new."""


class Reports:
    """One a process."""

    def __init__(self, store: Store, ringer: Ringer, keyring: Keyring, client: Client) -> None:
        self._store = store
        self._ringer = ringer
        self._keyring = keyring
        self._client = client
        self._sources: dict[tuple[UUID, datetime], EventSource | None] = {}

    async def take(self, way_id: UUID, post: Post) -> Taken:
        """After the commit. Raises NotFound, Forged, Invalid; Unavailable when the post is to be made again later."""
        async with self._store.worker() as db:
            row = await ways.by_id(db, way_id)
        source = self._source(row) if row is not None else None
        if row is None or source is None:
            raise NotFound("Way not found")
        reported = await source.read(post, now=time.time(), fetch=self._client.fetch)
        if not reported:
            return Taken(0)
        async with self._store.worker() as db:
            done = await self._take_in(db, row, reported)
        if done.webhooks:
            self._ringer.ring(WEBHOOKS)
        for email_id in done.reports:
            await self._ringer.enqueue(REPORT, str(email_id))
        if done.under_way:
            raise Unavailable("Some of these mails are under way. Post the events again in a moment.")
        return Taken(done.taken)

    def _source(self, row: WayRow) -> EventSource | None:
        key = (row.id, row.updated_at)
        if key not in self._sources:
            try:
                source = account_of(self._keyring, row).events()
            except Refused as error:
                # the operator can mend it, and then the post is welcome
                log.error("the secrets of a way cannot be opened", way_id=str(row.id), error=error.public)
                raise Unavailable("This way cannot be used just now.") from error
            if len(self._sources) >= MOST:
                self._sources.clear()
            self._sources[key] = source
        return self._sources[key]

    async def _take_in(self, db: Connection, row: WayRow, reported: Sequence[Event]) -> _Done:
        found = await provider_events.carried(
            db, row.site_key, row.org_id, list({id_ for e in reported if (id_ := _email(e))})
        )
        by_email: dict[UUID, list[Carried]] = {}
        for carried in found:
            by_email.setdefault(carried.email_id, []).append(carried)
        done = _Done()
        matched: list[tuple[bytes, Event, Carried]] = []
        for event in reported:
            of_email = by_email.get(_email(event) or UUID(int=0), [])
            delivery = _delivery(event, of_email)
            if delivery is None:
                continue
            if delivery.leased:
                done.under_way = True
            else:
                matched.append((hashlib.sha256(row.id.bytes + event.id.encode()).digest(), event, delivery))
        unseen = {digest: (event, delivery) for digest, event, delivery in matched}
        new = await provider_events.take(db, list(unseen), [delivery.org_id for _, delivery in unseen.values()])
        state = _Deliveries()
        for digest, (event, delivery) in unseen.items():
            if digest in new:
                state.apply(event, delivery)
                done.taken += 1
        if state.moves:
            await provider_events.move(db, row.site_key, list(state.moves.values()))
        if state.unclear:
            log.warning("a provider does not say which recipient it reports about", way_id=str(row.id), kind=row.kind)
            await provider_events.note(db, row.site_key, state.unclear)
        done.webhooks = await events.insert(db, state.raised)
        if state.suppressions:
            done.webhooks += await suppress.add_in(db, state.suppressions)
        if state.failed:
            done.reports = await owed.owe(db, state.failed)
        return done


@dataclass(slots=True)
class _Done:
    taken: int = 0
    webhooks: int = 0
    under_way: bool = False
    reports: list[UUID] = field(default_factory=list)
    """Emails whose senders are owed a delivery report."""


def _email(event: Event) -> UUID | None:
    """Our reference is the email's id (outbound.by_provider). None: mail of somebody else's in the same account."""
    try:
        return UUID(hex=event.reference) if len(event.reference) == 32 else None
    except ValueError:
        return None


def _delivery(event: Event, of_email: Sequence[Carried]) -> Carried | None:
    recipient = event.recipient.lower()
    named = next((each for each in of_email if each.recipient.lower() == recipient), None)
    # a provider may write a domain in its other form
    return named or (of_email[0] if len(of_email) == 1 else None)


# ---- what an event does ----------------------------------------------------------------------------------------------

_OPEN = ("relayed", "queued", "expired")
"""States of which a report may be the last word. expired: we gave up, and the lost answer was a yes."""


@dataclass(slots=True)
class _Deliveries:
    moves: dict[tuple[UUID, int], Move] = field(default_factory=dict)
    raised: list[NewEvent] = field(default_factory=list)
    suppressions: list[NewSuppression] = field(default_factory=list)
    unclear: list[Unclear] = field(default_factory=list)
    failed: list[NewOwed] = field(default_factory=list)
    """Who handed them in by SMTP may want to be told (RFC 3461 §6)."""

    def apply(self, event: Event, delivery: Carried) -> None:
        if event.unsure:
            said = f": {_words(event)}" if event.reply else ""
            words = f"the provider reports `{event.kind}` of one of several recipients, and does not say of which{said}"
            self.unclear.append(Unclear(delivery.email_id, delivery.n, words))
            return
        before = self.moves.get((delivery.email_id, delivery.n))
        state = before.state if before and before.state else delivery.state
        last_event = before.last_event if before else delivery.last_event
        match event.kind:
            case Kind.DELIVERED if state in _OPEN:
                self._move(delivery, "delivered", "delivered")
                self._raise("email.delivered", delivery)
            case Kind.DELAYED if state == "relayed" and last_event != "delivery_delayed":
                self._move(delivery, None, "delivery_delayed")
                self._raise("email.delivery_delayed", delivery)
            case Kind.BOUNCED if state in (*_OPEN, "delivered"):
                self._bounced(event.reply or Reply(550, "the provider gave no reason"), delivery)
            case Kind.FAILED if state in _OPEN:
                self._fail(delivery, "failed", event.reply)
                self._raise("email.failed", delivery, {"failed": {"reason": _words(event)}})
            case Kind.SUPPRESSED if state in _OPEN:
                self._fail(delivery, "suppressed", event.reply)
                detail = {"type": "OnAccountSuppressionList", "message": _words(event), "diagnosticCode": []}
                self._raise("email.suppressed", delivery, {"suppressed": detail})
            case Kind.COMPLAINED if last_event != "complained":
                self._move(delivery, "delivered" if state in _OPEN else None, "complained")
                self._raise("email.complained", delivery)
                self._suppress(delivery, "complaint")

    def _bounced(self, reply: Reply, delivery: Carried) -> None:
        self._fail(delivery, "bounced", reply)
        result = Result.BOUNCED if reply.permanent else Result.DEFERRED
        self._raise("email.bounced", delivery, bounce(Outcome(result, reply)))
        if reply.permanent and classify(reply).hard:
            self._suppress(delivery, "bounce")

    def _fail(self, delivery: Carried, state: str, reply: Reply | None) -> None:
        self._move(delivery, state, state, reply)
        self.failed.append(NewOwed(delivery.email_id, delivery.n, "failed"))

    def _move(self, delivery: Carried, state: str | None, last_event: str, reply: Reply | None = None) -> None:
        key = (delivery.email_id, delivery.n)
        before = self.moves.get(key, Move(*key, None, last_event))
        if reply is not None:
            kind = classify(reply)
            self.moves[key] = Move(
                *(*key, state, last_event),
                code=reply.code,
                enhanced_code=reply.enhanced,
                reply=storable(reply.text),
                category=kind.category.value,
                category_rule=kind.rule,
            )
        else:
            self.moves[key] = replace(before, state=state or before.state, last_event=last_event)

    def _raise(self, type_: str, delivery: Carried, detail: dict[str, Any] | None = None) -> None:
        now = datetime.now(UTC)
        self.raised.append(
            NewEvent(uuid7(), delivery.org_id, type_, delivery.email_id, now, [delivery.recipient], detail)
        )

    def _suppress(self, delivery: Carried, origin: str) -> None:
        self.suppressions.append(NewSuppression(delivery.org_id, folded(delivery.recipient), origin, delivery.email_id))


def _words(event: Event) -> str:
    return storable(event.reply.text) if event.reply else "the provider gave no reason"
