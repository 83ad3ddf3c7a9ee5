"""What becomes of mail that has arrived: the router's step, for a batch it has claimed.

1. read the arrivals and their raw mail
2. parse each under limits (flow.parse): the summary; a TLS report in it is stored (flow.tls_reports), once however often it is read
3. one transaction: the lease is still ours, mailboxes found or made, messages, the event email.received, state routed
4. after the commit the webhooks' bell

Running it twice makes nothing twice: the queue row is deleted, and the state moved on, in the transaction that writes. A batch that
fails is tried again mail by mail, so that one bad mail holds up no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from mailcore.blob.base import BlobStore
from mailcore.dsn import tls_report
from mailcore.flow import tls_reports
from mailcore.flow.parse import Reader, raw_of
from mailcore.flow.receive import decision
from mailcore.kit.errors import NotFound, Unavailable
from mailcore.kit.ids import uuid7
from mailcore.kit.log import logger
from mailcore.kit.retry import delay
from mailcore.mime.fields import MailAddress
from mailcore.mime.parse import Summary
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import WEBHOOKS
from mailcore.store import arrivals, events, mailboxes, messages
from mailcore.store.arrivals import Claimed, RoutedArrival, Stored
from mailcore.store.events import NewEvent
from mailcore.store.messages import RoutedMessage
from mailcore.store.session import Store

log = logger(__name__)

RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0)
"""Between tries of a mail that cannot be routed for a reason nobody foresaw; after the last it is quarantined."""


@dataclass(frozen=True, slots=True)
class Read:
    """An arrival whose mail has been read, ready to be written."""

    row: Stored
    summary: Summary
    told: Sequence[tuple[str, str]] = ()
    """What was decided of a TLS report in it, and why."""


class Routes:
    """One a process."""

    def __init__(self, store: Store, ringer: Ringer, blobs: BlobStore) -> None:
        self._store = store
        self._ringer = ringer
        self._blobs = blobs
        self._reader = Reader()

    async def route(self, worker: int, claimed: Sequence[Claimed]) -> int:
        """Routes what `worker` has claimed; how many were. A mail that fails is due again later. Raises Unavailable."""
        async with self._store.worker() as db:
            rows = {row.id: row for row in await arrivals.load(db, [one.arrival_id for one in claimed])}
        read: list[tuple[Claimed, Read]] = []
        for one in claimed:
            row = rows.get(one.arrival_id)
            if row is None:
                await self._quarantine(worker, one, "The arrival's row is gone.")
                continue
            try:
                raw = await raw_of(self._blobs, row.raw, row.raw_blob)
                found = await self._reader.summary(raw)
                told = await self._tls_report(row, found, raw)
            except Unavailable as error:
                await self._wait(worker, one, error)
            except NotFound as error:
                # a volume that is not mounted looks like this too
                await self._failed(worker, one, error, "The raw mail is no longer where it was kept.")
            except Exception as error:
                await self._failed(worker, one, error)
            else:
                read.append((one, Read(row, found, told)))
        return await self._write(worker, read)

    async def _tls_report(self, row: Stored, found: Summary, raw: bytes) -> list[tuple[str, str]]:
        if not any(one.content_type in (tls_report.JSON, tls_report.GZIP) for one in found.attachments):
            return []
        return await tls_reports.receive_mail(self._store, row.org_id, raw, source=row.mail_from)

    async def _write(self, worker: int, read: list[tuple[Claimed, Read]]) -> int:
        if not read:
            return 0
        try:
            routed, queued = await self._commit(worker, [each for _, each in read])
        except Unavailable:
            raise
        except Exception as error:
            if len(read) == 1:
                await self._failed(worker, read[0][0], error)
                return 0
            log.warning("a batch could not be routed; trying its mails alone", mails=len(read), error=repr(error))
            return sum([await self._write(worker, [one]) for one in read])
        if queued:
            self._ringer.ring(WEBHOOKS)
        return routed

    async def _commit(self, worker: int, read: Sequence[Read]) -> tuple[int, int]:
        """How many were routed, how many webhook deliveries that queued."""
        async with self._store.worker() as db:
            mine = await arrivals.finish(db, worker, [each.row.id for each in read])
            todo = [each for each in read if each.row.id in mine and each.row.state == "received"]
            boxes = await mailboxes.ensure(
                db, {(each.row.org_id, address) for each in todo for address in mailbox_addresses(each.row.rcpt_to)}
            )
            new = {each.row.id: _messages(each, boxes) for each in todo}
            routed = await arrivals.settle_routed(
                db,
                [
                    RoutedArrival(
                        each.row.id,
                        summary_json(each.row.id, each.row.rcpt_to, each.summary),
                        _decisions(each, new[each.row.id]),
                    )
                    for each in todo
                ],
            )
            made = [message for id_ in routed for message in new[id_]]
            if made:
                await messages.insert(db, made)
            queued = await events.insert(db, [_event(each.row) for each in todo if each.row.id in routed])
        return len(routed), queued

    async def _wait(self, worker: int, one: Claimed, error: Unavailable) -> None:
        """Something it needs is away: that is never the mail's fault, however long it lasts."""
        seconds = delay(RETRY_SECONDS, min(one.attempt, len(RETRY_SECONDS)))
        log.warning("a mail waits to be routed", arrival=str(one.arrival_id), attempt=one.attempt, error=error.public)
        async with self._store.worker() as db:
            await arrivals.defer(db, worker, one.arrival_id, seconds or RETRY_SECONDS[-1])

    async def _failed(self, worker: int, one: Claimed, error: Exception, why: str | None = None) -> None:
        seconds = delay(RETRY_SECONDS, one.attempt)
        log.error("could not route a mail", arrival=str(one.arrival_id), attempt=one.attempt, exc_info=error)
        if seconds is None:
            why = why or f"It could not be routed in {one.attempt} attempts: {type(error).__name__}."
            await self._quarantine(worker, one, why)
            return
        async with self._store.worker() as db:
            await arrivals.defer(db, worker, one.arrival_id, seconds)

    async def _quarantine(self, worker: int, one: Claimed, why: str) -> None:
        async with self._store.worker() as db:
            if not await arrivals.finish(db, worker, [one.arrival_id]):
                return  # another has it now, and decides
            await arrivals.quarantine(db, [one.arrival_id], decision("route", "quarantined", why))
        log.error("arrival quarantined", arrival=str(one.arrival_id), reason=why)


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


def _messages(each: Read, boxes: dict[tuple[UUID, str], UUID]) -> list[RoutedMessage]:
    row, found = each.row, each.summary
    made = []
    for address in mailbox_addresses(row.rcpt_to):
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
                )
            )
    return made


def _decisions(each: Read, made: Sequence[RoutedMessage]) -> list[dict[str, Any]]:
    found = [decision("parse", "defect", defect) for defect in each.summary.defects[:20]]
    found += [decision("report", what, why) for what, why in each.told]
    if not made:
        return [*found, decision("route", "no mailbox", "The organization is gone.")]
    why = "A recipient of this mail has it as its address, apart from a +tag."
    return [
        *found,
        *(
            decision("route", "delivered", why, mailbox_id=str(message.mailbox_id), message_id=str(message.id))
            for message in made
        ),
        decision("route", "announced", "Event email.received.", event="email.received"),
    ]


def _event(row: Stored) -> NewEvent:
    id_ = uuid7()
    return NewEvent(id_, row.org_id, "email.received", row.id, row.created_at, list(row.rcpt_to))
