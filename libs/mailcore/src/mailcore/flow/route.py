"""What becomes of mail that has arrived: the router's step, for a batch it has claimed.

1. `_read`   the arrival's raw mail, parsed under limits (flow.parse): the summary
2. `_steps`  what is found out about it, each a line there, before anything is written: whom it is from (flow.authenticate), what
             scanners say (flow.scan), reports about what we sent, and what the organization's routes say (flow.follow)
3. `_write`  one transaction: the lease is still ours, mailboxes found or made, messages, what is passed on, events, the new state
4. after the commit the bells of webhooks and outbound

Steps may talk to the network and hold no transaction; what they find stands in the mail in hand (flow.in_hand), their decisions end
in `arrivals.decisions`. A step that raises Unavailable makes the mail wait, whatever else it raises fails this try.

A mail that takes longer than PATIENCE_SECONDS, because somebody's DNS does not answer, does not hold up the others of its batch: it
is written by itself when it is done.

Running it twice makes nothing twice: the queue row is deleted, and the state moved on, in the transaction that writes. A batch that
fails is tried again mail by mail, so that one bad mail holds up no other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from uuid import UUID

from mailcore.blob.base import BlobStore
from mailcore.flow import mailbox, threads
from mailcore.flow.announcing import Announcing
from mailcore.flow.authenticate import Authenticator, DmarcPolicies
from mailcore.flow.follow import follow
from mailcore.flow.in_hand import InHand, findings_json, messages_of, received_event, routed, routed_events
from mailcore.flow.parse import Reader, raw_of
from mailcore.flow.pass_on import PassesOn
from mailcore.flow.receive import decision
from mailcore.flow.reports import Reports
from mailcore.flow.returned import Returned
from mailcore.flow.scan import Scans
from mailcore.flow.submit import Due, Submits
from mailcore.flow.tables import Tables
from mailcore.kit import failpoint
from mailcore.kit.errors import NotFound, Unavailable
from mailcore.kit.log import logger
from mailcore.kit.retry import delay
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import WEBHOOKS
from mailcore.store import arrivals, events, mailboxes, messages, usage, webhook_queue
from mailcore.store.arrivals import Claimed, Pending, Stored
from mailcore.store.events import NewEvent
from mailcore.store.session import Connection, Store

log = logger(__name__)

RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0)
"""Between tries of a mail that cannot be routed for a reason nobody foresaw; after the last it is quarantined."""
PATIENCE_SECONDS = 0.5
"""How long a batch waits for the last of its mails."""
MAX_SLOW = 1_000
"""Mails that go on by themselves; each is at most INLINE_BYTES, but for LARGE_AT_ONCE."""
LARGE_AT_ONCE = 4
"""Mails over INLINE_BYTES in memory."""
RING_SECONDS = 0.25
_AGAIN_SECONDS = 5.0


class Routes:
    """One a process."""

    def __init__(
        self,
        store: Store,
        ringer: Ringer,
        blobs: BlobStore,
        *,
        authenticator: Authenticator | None = None,
        submits: Submits | None = None,
        returned: Returned | None = None,
        announcing: Announcing | None = None,
        scans: Scans | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """`authenticator`: None leaves out whether mail is from whom it says. `submits`: by which mail is passed on; None: one of
        its own. `returned`: as in flow.reports. `scans`: None asks no scanner. `patience`: how long a batch
        waits for the last of its mails, in seconds."""
        self._store = store
        self._ringer = ringer
        self._blobs = blobs
        self._reader = Reader()
        self._authenticator = authenticator
        self._policies = DmarcPolicies(store)
        self._scans = scans or Scans(store)
        self._patience = patience
        self._about_ours = Reports(store, returned)
        self._tables = Tables(store)
        self._passes_on = PassesOn(store, submits or Submits(store, ringer, blobs))
        self._announcing = announcing or Announcing()
        self._alarm: asyncio.TimerHandle | None = None
        self._ring_until = 0.0
        """When the last batch that was put off is due, by the loop's clock."""
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._slow: set[asyncio.Task[None]] = set()

    async def route(self, worker: int, claimed: Sequence[Claimed]) -> int:
        """Routes what `worker` has claimed; how many were. A mail that fails is due again later. Raises Unavailable."""
        async with self._store.worker() as db:
            rows = {row.id: row for row in await arrivals.load(db, [one.arrival_id for one in claimed])}
        await self._tables.of({one.org_id for one in claimed})  # for the whole batch, and remembered
        while len(self._slow) >= MAX_SLOW:
            await asyncio.wait(self._slow, return_when=asyncio.FIRST_COMPLETED)
        trying = [asyncio.create_task(self._try(worker, one, rows.get(one.arrival_id))) for one in claimed]
        try:
            if trying:
                await asyncio.wait(trying, timeout=self._patience)
        except asyncio.CancelledError:
            for each in trying:
                each.cancel()
            raise
        for one, each in zip(claimed, trying, strict=True):
            if not each.done():
                going_on = asyncio.create_task(self._alone(worker, one, each))
                self._slow.add(going_on)
                going_on.add_done_callback(self._slow.discard)
        return await self._write(worker, [ready for each in trying if each.done() and (ready := each.result())])

    def abandon(self) -> None:
        """Mails that go on by themselves are left to whoever claims them next: their leases are given back."""
        for each in self._slow:
            each.cancel()
        if self._alarm is not None:
            self._alarm.cancel()

    async def settled(self) -> None:
        """Returns when no mail goes on by itself."""
        while self._slow:
            await asyncio.wait(self._slow)

    async def _try(self, worker: int, one: Claimed, row: Stored | None) -> tuple[Claimed, InHand] | None:
        """None: it is not to be written now, and its row says what becomes of it. Raises Unavailable."""
        if row is None:
            await self._quarantine(worker, one, "The arrival's row is gone.")
            return None
        try:
            if row.raw is not None:
                return one, await self._look(row)
            async with self._large:
                return one, await self._look(row)
        except Unavailable as error:
            await self._wait(worker, one, error)
        except NotFound as error:
            # a volume that is not mounted looks like this too
            await self._failed(worker, one, error, "The raw mail is no longer where it was kept.")
        except Exception as error:
            await self._failed(worker, one, error)
        return None

    async def _alone(self, worker: int, one: Claimed, trying: asyncio.Task[tuple[Claimed, InHand] | None]) -> None:
        """Until its row is no longer ours: a lease that nobody ends would keep the mail for ever."""
        try:
            ready = await trying
        except Unavailable as error:
            end: Callable[[], Awaitable[object]] = partial(self._wait, worker, one, error)
        else:
            end = partial(self._write, worker, [ready] if ready else [])
        while True:
            try:
                await end()
                return
            except Unavailable:
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _look(self, row: Stored) -> InHand:
        mail = await self._read(row)
        await self._steps(mail)
        return mail

    # ---- 1. read -------------------------------------------------------------------------------------------------

    async def _read(self, row: Stored) -> InHand:
        """Raises NotFound, Unavailable."""
        raw = await raw_of(self._blobs, row.raw, row.raw_blob)
        return InHand(row, raw, await self._reader.summary(raw))

    # ---- 2. steps ------------------------------------------------------------------------------------------------

    async def _steps(self, mail: InHand) -> None:
        """In this order: each may read what those before it found."""
        await self._authenticate(mail)
        await self._scans.look(mail)
        if not mail.pending:  # what waits for a scanner is looked at again, all of it
            await self._reports(mail)
            await self._follow(mail)
        mail.raw = b""

    async def _authenticate(self, mail: InHand) -> None:
        """What was found before the reply counts: the world may look otherwise by now."""
        row = mail.row
        mail.auth = row.auth
        if mail.auth is None and self._authenticator is not None:
            mail.auth = await self._authenticator.of_arrival(mail.raw, row)
        held = await self._policies.holds(row.org_id, row.rcpt_to, mail.auth)
        if held:
            mail.hold("dmarc", held)

    async def _reports(self, mail: InHand) -> None:
        """Reports about mail that we sent. Each counts once however often it is read."""
        for what, why in await self._about_ours.read(mail.row, mail.raw, mail.summary, mail.auth):
            mail.decide("report", what, why)

    async def _follow(self, mail: InHand) -> None:
        """What the organization's routes say becomes of it; nothing of what somebody is to look at first."""
        org_id = mail.row.org_id
        await follow(mail, (await self._tables.of([org_id]))[org_id], self._passes_on)

    # ---- 3. write ------------------------------------------------------------------------------------------------

    async def _write(self, worker: int, ready: list[tuple[Claimed, InHand]]) -> int:
        if not ready:
            return 0
        try:
            done, due = await self._commit(worker, [mail for _, mail in ready])
        except Unavailable:
            raise
        except Exception as error:
            if len(ready) == 1:
                await self._failed(worker, ready[0][0], error)
                return 0
            log.warning("a batch could not be routed; trying its mails alone", mails=len(ready), error=repr(error))
            return sum([await self._write(worker, [one]) for one in ready])
        self._passes_on.submits.ring(due)
        return done

    async def _commit(self, worker: int, ready: Sequence[InHand]) -> tuple[int, Due]:
        """How many were routed, and what to ring."""
        async with self._store.worker() as db:
            waiting = [_pending(mail) for mail in ready if mail.pending]
            if waiting:
                await arrivals.pend(db, worker, waiting, seconds=self._scans.again_seconds)
                ready = [mail for mail in ready if not mail.pending]
            mine = await arrivals.finish(db, worker, [mail.row.id for mail in ready])
            todo = [mail for mail in ready if mail.row.id in mine and mail.row.state == "received"]
            await mailbox.name(db, todo)
            made_now: set[mailboxes.Key] = set()
            wanted = {(mail.row.org_id, address) for mail in todo for address in mail.boxes}
            boxes = await mailboxes.ensure(db, wanted, made=made_now)
            new = {mail.row.id: messages_of(mail, boxes) for mail in todo if mail.boxes}
            done = await arrivals.settle_routed(db, [routed(mail, new.get(mail.row.id, ())) for mail in todo])
            written = [mail for mail in todo if mail.row.id in done and mail.state == "routed"]
            made = [message for mail in written for message in new.get(mail.row.id, ())]
            if made:
                await messages.insert(db, await threads.assign(db, made))
            raised = [(mail, received_event(mail.row)) for mail in written]
            posts = [(mail, post) for mail in written for post in routed_events(mail)]
            queued = await events.insert(db, [event for _, event in raised])
            queued += await events.insert_for(db, [post for _, post in posts])
            later = self._later([*raised, *((mail, event) for mail, (event, _) in posts)], made_now) if queued else {}
            if later:
                await webhook_queue.put_off(db, later)
            due = await self._pass_on(db, written)
            failpoint.hit("f17-routing")
        failpoint.hit("f17-routed")
        self._ring_later(later.values())
        return len(done), Due(due.sites, due.webhooks or queued > 0)

    def _later(self, raised: Sequence[tuple[InHand, NewEvent]], new: Collection[mailboxes.Key]) -> dict[UUID, float]:
        """Events that are announced later than now, and by how many seconds: see flow.announcing."""
        waits: dict[UUID, float] = {}
        found: dict[UUID, float] = {}
        for mail, event in raised:
            org_id = mail.row.org_id
            if mail.row.id not in waits:
                guessed = mail.boxes and all((org_id, box) in new for box in mail.boxes)
                if not guessed and not any(one["decision"] == "catch-all" for one in mail.decisions):
                    continue
                waits[mail.row.id] = self._announcing.wait(org_id, mail.row.rcpt_to[0].rpartition("@")[2].lower())
            if waits[mail.row.id] > 0:
                found[event.id] = waits[mail.row.id]
        return found

    def _ring_later(self, waits: Collection[float]) -> None:
        """Until the last batch that was put off is due, every quarter of a second: the sweep would be late. One alarm, however many
        wait: those of a flood are due for hours."""
        if not waits:
            return
        loop = asyncio.get_running_loop()
        self._ring_until = max(self._ring_until, loop.time() + max(waits))
        if self._alarm is None:
            self._alarm = loop.call_later(RING_SECONDS, self._ring_again)

    def _ring_again(self) -> None:
        loop = asyncio.get_running_loop()
        over = loop.time() > self._ring_until
        self._ringer.ring(WEBHOOKS)
        self._alarm = None if over else loop.call_later(RING_SECONDS, self._ring_again)

    async def _pass_on(self, db: Connection, written: Sequence[InHand]) -> Due:
        """Once: in the transaction that ends the lease."""
        outgoing = [(mail.row.org_id, mail.outgoing) for mail in written if mail.outgoing is not None]
        rows = [row for _, each in outgoing for row in each.rows]
        if not rows:
            return Due([], webhooks=False)
        due = await self._passes_on.submits.submit_in(db, rows)
        stays = Counter[UUID]()
        for org_id, each in outgoing:
            stays[org_id] += each.relayed
        await usage.give_back(db, {org_id: count for org_id, count in stays.items() if count})
        return due

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


def _pending(mail: InHand) -> Pending:
    """Of its decisions only those about that: its other steps are taken again."""
    told = [one for one in mail.decisions if one["step"] == "scan"]
    return Pending(mail.row.id, mail.pending, findings_json(mail), told, mail.auth)
