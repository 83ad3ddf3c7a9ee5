"""Mail that came to a return path of ours: what it says became of the mail whose path that was.

1. the return path: ours, and alive (dsn.verp), which is longer for a complaint that comes elsewhere and names it? Who writes to
   another suppresses nobody
2. a complaint (dsn.feedback): email.complained, and the recipient is suppressed
3. a delivery report (dsn.parse): failed: email.bounced after all, suppressed when it is the address itself; anything else is
   only noted
4. what changes nothing, noted or ignored, is kept as an arrival that no mail is made of: its `decisions` say why

Whom it is about is what the return path names, never what the mail says: with somebody's return path one can at most make him
bounce who got that mail, and only once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mailcore.blob.base import INLINE_BYTES
from mailcore.dsn import feedback
from mailcore.dsn.classify import classify
from mailcore.dsn.parse import parse
from mailcore.dsn.report import Action, DeliveryReport, Reported
from mailcore.dsn.verp import COMPLAINT_DAYS, LIFE_DAYS, ReturnPath, Verp
from mailcore.events import bounce
from mailcore.flow import suppress
from mailcore.flow.receive import decision
from mailcore.flow.settle import storable
from mailcore.kit.ids import uuid7, uuid7_time
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import REPORT, WEBHOOKS
from mailcore.smtp.reply import Reply
from mailcore.store import arrivals, events, owed, plans, returned
from mailcore.store.arrivals import NewArrival
from mailcore.store.events import NewEvent
from mailcore.store.owed import NewOwed
from mailcore.store.returned import CameBack
from mailcore.store.session import Store
from mailcore.store.suppressions import NewSuppression, folded

MAX_BYTES = 1024 * 1024
"""Of a report; the rest is not read."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was made of it, and why, for whoever keeps the decision."""

    what: str
    """bounced, complained, noted, ignored."""
    why: str


class Returned:
    """One a process."""

    def __init__(self, store: Store, ringer: Ringer, verp: Verp) -> None:
        self._store = store
        self._ringer = ringer
        self._verp = verp

    def path(self, address: str, days: int = LIFE_DAYS) -> ReturnPath | None:
        """Whose return path that address is; None: not one of ours, or older than that."""
        path = self._verp.read(address.rpartition("@")[0])
        return path if path is not None and self._verp.alive(path, days) else None

    async def take(
        self, address: str, raw: bytes, *, mail_from: str = "", source: str = "", facts: Mapping[str, Any] | None = None
    ) -> Taken:
        """`address`: whom the mail came to; the others as in flow.receive, for the row. Twice does what once does. Raises
        Unavailable."""
        path = self.path(address)
        if path is None:
            return Taken("ignored", f"The return path is not one of ours, or older than {LIFE_DAYS} days.")
        taken = await self._take(path, raw)
        if taken.what in ("ignored", "noted"):
            await self._keep(path, address, raw, taken, mail_from, source, dict(facts or {}))
        return taken

    async def _keep(
        self,
        path: ReturnPath,
        address: str,
        raw: bytes,
        taken: Taken,
        mail_from: str,
        source: str,
        facts: dict[str, Any],
    ) -> None:
        """For whoever wonders. Of a large one the first INLINE_BYTES: reports are small."""
        async with self._store.worker() as db:
            await plans.by_index(db)
            org_id = await returned.owner(db, path.email_id, path.n, address.rpartition("@")[2].lower())
        if org_id is None:
            return  # nobody is left who might look
        id_ = uuid7()
        at = uuid7_time(id_)
        if len(raw) > INLINE_BYTES:
            facts["kept_bytes"] = INLINE_BYTES
        new = NewArrival(
            id=id_,
            org_id=org_id,
            door="smtp",
            source=source,
            source_id=None,
            mail_from=mail_from,
            rcpt_to=(address,),
            facts=facts,
            size=len(raw),
            sha256=hashlib.sha256(raw).digest(),
            raw=raw[:INLINE_BYTES],
            raw_blob=None,
            decisions=[decision("returned", taken.what, taken.why, at, email_id=str(path.email_id), recipient=path.n)],
            created_at=at,
        )
        async with self._store.door() as db:
            await arrivals.insert_read(db, new)

    async def _take(self, path: ReturnPath, raw: bytes) -> Taken:
        # the mail that came back stands last, and of it only the header is read
        complaint, report = await asyncio.to_thread(_read, raw[:MAX_BYTES])
        if complaint is not None:
            return await self.complained(path, complaint)
        if report is None:
            return Taken("ignored", "It is no report.")
        return await self.reported(path, report)

    async def complaint(self, raw: bytes) -> Taken | None:
        """A feedback report that came to whoever answers for abuse (RFC 5965 §2), as most do: the return path of the mail that it
        is about stands in it, and is believed for COMPLAINT_DAYS. None: it is no such report. Raises Unavailable."""
        report, _ = await asyncio.to_thread(_read, raw[:MAX_BYTES])
        if report is None:
            return None
        path = self.path(report.mail_from or "", COMPLAINT_DAYS)
        if path is None:
            why = f"The mail it is about has no return path of ours, or one older than {COMPLAINT_DAYS} days."
            return Taken("ignored", why)
        return await self.complained(path, report)

    async def complained(self, path: ReturnPath, report: feedback.FeedbackReport) -> Taken:
        """Of a path that is believed. Raises Unavailable."""
        if not report.complaint:
            return Taken("noted", f"A feedback report of type {report.kind} says nothing against the mail.")
        queued = await suppress.complaint(self._store, path.email_id, path.n)
        if queued:
            self._ringer.ring(WEBHOOKS)
        return Taken("complained", f"A feedback report of type {report.kind}.")

    async def reported(self, path: ReturnPath, report: DeliveryReport) -> Taken:
        """As `complained`."""
        async with self._store.worker() as db:
            await plans.by_index(db)
            found = await returned.recipient(db, path.email_id, path.n)
            if found is None:
                return Taken("ignored", "The mail whose return path it is is gone.")
            org_id, recipient, _ = found
            one = _about(report, recipient)
            if one.action is not Action.FAILED:
                return Taken("noted", f"A report of form {report.form}: {one.action}.")
            reply = one.reply or Reply(550, "no reason given")
            kind = classify(reply)
            text = storable(reply.text)
            came_back = CameBack(
                *(path.email_id, path.n, one.remote_mta or report.reporting_mta, reply.code, reply.enhanced, text),
                *(kind.category.value, kind.rule),
            )
            if not await returned.bounced(db, came_back):
                return Taken("ignored", "What became of that mail is known already.")
            said = storable(str(reply))
            detail = bounce(said, [f"smtp; {said}"], type="Permanent", sub_type=kind.sub_type)
            event = NewEvent(uuid7(), org_id, "email.bounced", path.email_id, datetime.now(UTC), [recipient], detail)
            queued = await events.insert(db, [event])
            if kind.hard:
                queued += await suppress.add_in(
                    db, [NewSuppression(org_id, folded(recipient), "bounce", path.email_id)]
                )
            reports: list[UUID] = await owed.owe(db, [NewOwed(path.email_id, path.n, "failed")])
        if queued:
            self._ringer.ring(WEBHOOKS)
        for email_id in reports:
            await self._ringer.enqueue(REPORT, str(email_id))
        return Taken("bounced", f"A report of form {report.form}: {kind.category}, by the rule {kind.rule}.")


def _read(raw: bytes) -> tuple[feedback.FeedbackReport | None, DeliveryReport | None]:
    return feedback.parse(raw), parse(raw)


def _about(report: DeliveryReport, recipient: str) -> Reported:
    """The one whom the mail was sent to; of several that are all somebody else (an alias, a list), the first that failed."""
    wanted = recipient.lower()
    named = [one for one in report.recipients if wanted in (one.address.lower(), one.final.lower())]
    failed = [one for one in report.recipients if one.action is Action.FAILED]
    return (named or failed or list(report.recipients))[0]
