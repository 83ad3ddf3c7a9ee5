"""Reports about mail of ours that came to an ordinary address: the Message-ID of what came back tells, where no return path does.

1. a mail that may be one: without a sender, or a report by its Content-Type
2. the mail it is about: by the return path that stands in a complaint, else by the Message-ID, among the organization's mail that
   is as young as a return path must be (dsn.verp)
3. the recipient: whom the report names; the only one of a mail with one
4. belief: a Message-ID is no secret, so the report must come from where that mail went. Its sender is the host that took the
   mail, or SPF or DKIM proves him to be of the recipient's domain or of that host's. What is not believed is noted and changes
   nothing.

What is believed goes the way of reports at return paths (flow.returned): events and suppressions follow once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from mailcore.dns.suffixes import registered_domain
from mailcore.dsn import feedback
from mailcore.dsn.feedback import FeedbackReport
from mailcore.dsn.parse import parse
from mailcore.dsn.report import Action, DeliveryReport
from mailcore.dsn.verp import COMPLAINT_DAYS, LIFE_DAYS, ReturnPath
from mailcore.flow.returned import MAX_BYTES, Returned, Taken
from mailcore.kit.ids import lower_bound
from mailcore.store import plans, returned
from mailcore.store.returned import Went
from mailcore.store.session import Store

MAX_RECIPIENTS = 50
"""Of one report that are looked for."""
_HEADER = 64 * 1024


class Arrived(Protocol):
    """What is asked of a mail: a row of arrivals has it."""

    @property
    def org_id(self) -> UUID: ...
    @property
    def mail_from(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def door(self) -> str: ...


@dataclass(frozen=True, slots=True)
class _About:
    """One delivery that a report tells of."""

    went: Went
    complaint: FeedbackReport | None = None
    report: DeliveryReport | None = None


class CameBack:
    """One a process."""

    def __init__(self, store: Store, take: Returned) -> None:
        self._store = store
        self._take = take

    async def read(self, row: Arrived, raw: bytes, auth: dict[str, Any] | None) -> list[Taken]:
        """What was made of it, one a recipient; empty when it is no report. Twice does what once does. Raises Unavailable."""
        if not may_be_report(row.mail_from, raw):
            return []
        complaint, report = await asyncio.to_thread(_read, raw[:MAX_BYTES])
        if complaint is not None:
            path = self._take.path(complaint.mail_from or "", COMPLAINT_DAYS)
            if path is not None:
                return [await self._take.complained(path, complaint)]
        about = complaint or report
        if about is None:
            return []
        message_id = (about.message_id or "").strip()
        days = LIFE_DAYS if complaint is None else COMPLAINT_DAYS
        went = await self._went(row.org_id, message_id, days) if message_id else []
        if not went:
            return [Taken("ignored", f"It is a report, but about no mail of ours of the last {days} days.")]
        found = _of_complaint(complaint, went) if complaint is not None else _of_report(report, went)
        if not found:
            return [Taken("ignored", "It is a report about a mail of ours, and names none of its recipients.")]
        return [await self._believe(each, row, auth) for each in found]

    async def _went(self, org_id: UUID, message_id: str, days: int) -> list[Went]:
        async with self._store.worker() as db:
            await plans.by_index(db)
            return await returned.by_message_id(
                db, org_id, message_id, lower_bound(datetime.now(UTC) - timedelta(days=days))
            )

    async def _believe(self, about: _About, row: Arrived, auth: dict[str, Any] | None) -> Taken:
        went = about.went
        if not comes_from_there(went, row.source if row.door == "smtp" else "", auth):
            return Taken(
                "noted",
                f"It tells of the mail to {went.recipient}, but nothing proves that it comes from where that mail went.",
            )
        path = ReturnPath(went.email_id, went.n, 0)
        if about.complaint is not None:
            return await self._take.complained(path, about.complaint)
        assert about.report is not None
        return await self._take.reported(path, about.report)


def may_be_report(mail_from: str, raw: bytes) -> bool:
    """Without reading it."""
    return not mail_from or b"multipart/report" in raw[:_HEADER].lower()


def comes_from_there(went: Went, peer_ip: str, auth: dict[str, Any] | None) -> bool:
    """Whether who hands the report over is where the mail went, or proven to belong there."""
    if peer_ip and peer_ip in went.mx_ips:
        return True
    there = {_registered(went.recipient.rpartition("@")[2]), *map(_registered, went.mx_hosts)} - {None}
    return any(_registered(each) in there for each in _proven(auth or {}))


def _proven(auth: dict[str, Any]) -> list[str]:
    """Domains that SPF or DKIM has proven."""
    spf = auth.get("spf") or {}
    found = [spf.get("domain")] if spf.get("result") == "pass" else []
    found += [each.get("domain") for each in auth.get("dkim") or () if each.get("result") == "pass"]
    return [each for each in found if each]


def _registered(domain: str) -> str | None:
    return registered_domain(domain.lower())


def _read(raw: bytes) -> tuple[FeedbackReport | None, DeliveryReport | None]:
    complaint = feedback.parse(raw)
    return complaint, None if complaint is not None else parse(raw)


def _of_complaint(complaint: FeedbackReport, went: Sequence[Went]) -> list[_About]:
    named = {address.lower() for address in complaint.rcpt_to}
    found = [each for each in went if each.recipient.lower() in named] or list(went)
    return [_About(found[0], complaint=complaint)] if len(found) == 1 else []


def _of_report(report: DeliveryReport | None, went: Sequence[Went]) -> list[_About]:
    if report is None:
        return []
    failed = [one for one in report.recipients if one.action is Action.FAILED][:MAX_RECIPIENTS]
    named = {address.lower() for one in failed for address in (one.address, one.final)}
    found = [each for each in went if each.recipient.lower() in named]
    # an alias of the only recipient, which the reporter knows by another address
    if not found and len(went) == 1 and failed:
        found = list(went)
    return [_About(each, report=report) for each in found]
