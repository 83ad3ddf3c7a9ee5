"""What becomes of mail that has arrived: the router's step, for a batch it has claimed.

1. `_read`   the arrival's raw mail, parsed under limits (flow.parse): the summary
2. `_steps`  what is found out about it, each a line there, before anything is written: reports about what we sent
3. `_write`  one transaction: the lease is still ours, mailboxes found or made, messages, the event email.received, state routed
4. after the commit the webhooks' bell

Steps may talk to the network and hold no transaction; what they find stands in the mail in hand (flow.in_hand), their decisions end
in `arrivals.decisions`. A step that raises Unavailable makes the mail wait, whatever else it raises fails this try.

Running it twice makes nothing twice: the queue row is deleted, and the state moved on, in the transaction that writes. A batch that
fails is tried again mail by mail, so that one bad mail holds up no other.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailcore.blob.base import BlobStore
from mailcore.dsn import tls_report
from mailcore.flow import tls_reports
from mailcore.flow.in_hand import InHand, mailbox_addresses, messages_of, received_event, routed
from mailcore.flow.parse import Reader, raw_of
from mailcore.flow.receive import decision
from mailcore.kit.errors import NotFound, Unavailable
from mailcore.kit.log import logger
from mailcore.kit.retry import delay
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import WEBHOOKS
from mailcore.store import arrivals, events, mailboxes, messages
from mailcore.store.arrivals import Claimed, Stored
from mailcore.store.session import Store

log = logger(__name__)

RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0)
"""Between tries of a mail that cannot be routed for a reason nobody foresaw; after the last it is quarantined."""


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
        ready: list[tuple[Claimed, InHand]] = []
        for one in claimed:
            row = rows.get(one.arrival_id)
            if row is None:
                await self._quarantine(worker, one, "The arrival's row is gone.")
                continue
            try:
                mail = await self._read(row)
                await self._steps(mail)
            except Unavailable as error:
                await self._wait(worker, one, error)
            except NotFound as error:
                # a volume that is not mounted looks like this too
                await self._failed(worker, one, error, "The raw mail is no longer where it was kept.")
            except Exception as error:
                await self._failed(worker, one, error)
            else:
                ready.append((one, mail))
        return await self._write(worker, ready)

    # ---- 1. read -------------------------------------------------------------------------------------------------

    async def _read(self, row: Stored) -> InHand:
        """Raises NotFound, Unavailable."""
        raw = await raw_of(self._blobs, row.raw, row.raw_blob)
        return InHand(row, raw, await self._reader.summary(raw))

    # ---- 2. steps ------------------------------------------------------------------------------------------------

    async def _steps(self, mail: InHand) -> None:
        """In this order: each may read what those before it found."""
        await self._reports(mail)
        mail.raw = b""

    async def _reports(self, mail: InHand) -> None:
        """Reports about mail that we sent. Each is stored once however often it is read."""
        if not any(one.content_type in (tls_report.JSON, tls_report.GZIP) for one in mail.summary.attachments):
            return
        row = mail.row
        for what, why in await tls_reports.receive_mail(self._store, row.org_id, mail.raw, source=row.mail_from):
            mail.decide("report", what, why)

    # ---- 3. write ------------------------------------------------------------------------------------------------

    async def _write(self, worker: int, ready: list[tuple[Claimed, InHand]]) -> int:
        if not ready:
            return 0
        try:
            done, queued = await self._commit(worker, [mail for _, mail in ready])
        except Unavailable:
            raise
        except Exception as error:
            if len(ready) == 1:
                await self._failed(worker, ready[0][0], error)
                return 0
            log.warning("a batch could not be routed; trying its mails alone", mails=len(ready), error=repr(error))
            return sum([await self._write(worker, [one]) for one in ready])
        if queued:
            self._ringer.ring(WEBHOOKS)
        return done

    async def _commit(self, worker: int, ready: Sequence[InHand]) -> tuple[int, int]:
        """How many were routed, how many webhook deliveries that queued."""
        async with self._store.worker() as db:
            mine = await arrivals.finish(db, worker, [mail.row.id for mail in ready])
            todo = [mail for mail in ready if mail.row.id in mine and mail.row.state == "received"]
            boxes = await mailboxes.ensure(
                db, {(mail.row.org_id, address) for mail in todo for address in mailbox_addresses(mail.row.rcpt_to)}
            )
            new = {mail.row.id: messages_of(mail, boxes) for mail in todo}
            done = await arrivals.settle_routed(db, [routed(mail, new[mail.row.id]) for mail in todo])
            made = [message for id_ in done for message in new[id_]]
            if made:
                await messages.insert(db, made)
            queued = await events.insert(db, [received_event(mail.row) for mail in todo if mail.row.id in done])
        return len(done), queued

    # ---- what fails ----------------------------------------------------------------------------------------------

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
