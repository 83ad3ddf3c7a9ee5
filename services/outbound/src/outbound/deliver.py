"""One site at work: claim, compose, hand to the transport, pass outcomes on.

1. lanes with due rows come from the runner and take turns; each claim gives every lane its quantum
2. a claim asks for about as much as the site takes in a second, and the next is made while half of it is still under way
3. mails are composed and signed in chunks; each chunk goes to the transport as soon as it is ready
   large ones when the process has memory for them (`memory`), before their content is fetched
4. outcomes go to the settler; rows that were never begun go back
5. no connection: the site rests, one mail's attempt tells why, the others are not attempted one by one
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Collection, Iterable, Sequence
from uuid import UUID

from mailcore.flow import settle as door
from mailcore.flow.settle import Attempt
from mailcore.kit import failpoint
from mailcore.kit.errors import Unavailable
from mailcore.kit.log import logger
from mailcore.kit.metrics import DELIVERY_SECONDS
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import deliveries, sites
from mailcore.store.deliveries import Content, Key, Leased
from mailcore.transport import Destination, Mail, MailQueue, TlsPolicy
from outbound.composer import CHUNK, Work, chunks, compose_all, fetch
from outbound.memory import LIGHT_BYTES, Holding, Share, weight
from outbound.office import Office
from outbound.routes import Way
from outbound.signer import Identity
from outbound.verp import enveloped

log = logger(__name__)

MOST = 600
"""Rows that one site holds at most."""
LANES = 64
"""That share one claim."""
RUN_SECONDS = 300.0
"""After that the run ends and another begins, with what is known of hops and limits by then."""
REST_FIRST, REST_LONGEST = 30.0, 900.0
"""Seconds a site rests after its first failure, doubling to the longest."""


class SiteRun:
    def __init__(self, office: Office, way: Way, failures: int = 0) -> None:
        self._office = office
        self._way = way
        self._failures = failures
        """Of the site so far: until it takes a mail again, it is tried with one."""
        self._lanes: dict[int, None] = {}
        """In the order of their turns."""
        self._queues: dict[TlsPolicy, tuple[MailQueue, asyncio.Task[None]]] = {}
        self._under_way: dict[Key, Leased] = {}
        self._handed: dict[Key, float] = {}
        """Of those under way, what the transport was given; with the time of day since when the mail wanted to leave."""
        self._holding = Holding()
        """Memory of those under way."""
        self._composing: set[asyncio.Task[None]] = set()
        self._unattempted: list[Leased] = []
        self._down: Outcome | None = None
        self._changed = asyncio.Event()
        self._began = time.monotonic()
        self._until = self._began + RUN_SECONDS
        self._done = 0
        self._rate = 4.0 * way.site.max_connections
        self._target = 0
        """Rows under way when a claim is answered; the next one is made at half of it."""
        self.closed = False
        self.claimed = 0
        self._rested = False

    def offer(self, lane: int) -> bool:
        """Rows of that lane are due. False: this run is at its end, begin another."""
        if self.closed:
            return False
        if lane not in self._lanes:
            self._lanes[lane] = None
            self._changed.set()
        return True

    @property
    def falling(self) -> bool:
        """The site takes no mail, and that is not written yet: a new run would cost another mail its attempt."""
        return self._down is not None and not self._rested

    def stop(self) -> None:
        """No more claims; what no session has begun is given back, and nothing waits for memory."""
        self._changed.set()
        for queue, _ in self._queues.values():
            self._put_back([mail.key for mail in queue.take_all() if isinstance(mail.key, Leased)])
        self._office.memory.refuse(self)

    async def run(self) -> None:
        """Until no lane has rows left and nothing is under way."""
        try:
            while not self._ending():
                if self._unattempted:
                    await self._release()
                wanted = self._wanted()
                if self._lanes and wanted:
                    self._begin(await self._claim(wanted))
                elif self._under_way or self._lanes:
                    await self._change()
                else:
                    break
        finally:
            self.closed = True
            await self._finish()

    async def deliver(self, rows: Sequence[Leased]) -> None:
        """Just these: for a suspect, which goes alone."""
        self.closed = True
        self._begin(rows)
        await self._finish()

    def _ending(self) -> bool:
        broken = any(task.done() and not queue.closed for queue, task in self._queues.values())
        return self._office.draining or self._down is not None or broken or time.monotonic() > self._until

    async def _change(self) -> None:
        self._changed.clear()
        # also looks up by itself: the rate decides how much may be under way
        try:
            async with asyncio.timeout(1.0):
                await self._changed.wait()
        except TimeoutError:
            pass

    # ---- claim

    def _wanted(self) -> int:
        """Rows to claim now; 0 while enough is under way."""
        if self._failures:
            return 0 if self._under_way else 1
        target = self._target = min(MOST, max(2 * self._way.site.max_connections, int(self._rate)))
        return target - len(self._under_way) if len(self._under_way) <= target // 2 else 0

    async def _claim(self, limit: int) -> list[Leased]:
        office = self._office
        lanes = list(itertools.islice(self._lanes, min(LANES, limit)))
        for lane in lanes:
            del self._lanes[lane]
        quantum = max(1, limit // len(lanes))
        async with office.store.worker() as db:
            worker = office.lease.id
            rows = await deliveries.claim(db, lanes, worker, limit=limit, quantum=quantum, schedule=office.schedule)
        office.held.update([row.key for row in rows])
        failpoint.hit("f5")
        full = _full(rows, quantum)
        # to the back: the next claim begins with others
        self._lanes.update((lane, None) for lane in lanes if lane in full)
        self.claimed += len(rows)
        return rows

    # ---- compose

    def _begin(self, rows: Sequence[Leased]) -> None:
        if not rows:
            return
        self._under_way.update([(row.key, row) for row in rows])
        if any(row.suppressed for row in rows):
            rows = self._without_suppressed(rows)
        most = self._office.memory.rows
        for start in range(0, len(rows), most):
            task = asyncio.get_running_loop().create_task(self._compose(rows[start : start + most]))
            self._composing.add(task)
            task.add_done_callback(self._composed)

    def _without_suppressed(self, rows: Sequence[Leased]) -> list[Leased]:
        """Settles those that must not be sent any more."""
        left = []
        for row in rows:
            outcome = door.suppression(row)
            if outcome is None:
                left.append(row)
            else:
                self._settle(row, outcome)
        return left

    def _composed(self, task: asyncio.Task[None]) -> None:
        self._composing.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("composing failed; its rows go back", site=self._way.site.key, exc_info=error)

    async def _compose(self, rows: Sequence[Leased]) -> None:
        """Each row is handed to the transport, settled, or given back."""
        office = self._office
        by_email: dict[UUID, list[Leased]] = {}
        for row in rows:
            by_email.setdefault(row.email_id, []).append(row)
        share = office.memory.light
        asked = len(by_email) * weight(LIGHT_BYTES)
        taken = asked if await self._take(share, asked) else 0
        try:
            if not taken:
                return
            async with office.store.worker() as db:
                light, heavy = await deliveries.light_contents(db, by_email, LIGHT_BYTES)
            taken -= self._hold(share, {content.id: size for content, size in light}, by_email)
            share.give(taken)
            taken = 0
            self._settle_gone(by_email, {*heavy, *(content.id for content, _ in light)})
            ready = [content for content, _ in light]
            work = [self._compose_chunk(ready[i : i + CHUNK], by_email) for i in range(0, len(ready), CHUNK)]
            work += [self._compose_heavy(chunk, by_email) for chunk in chunks(heavy)]
            del light, ready  # large ones may wait for long: the small ones' content must not stay as long
            # to the end of all of them: what goes back below must not be handed over after it
            ended = await asyncio.gather(*work, return_exceptions=True)
            if error := next((each for each in ended if isinstance(each, BaseException)), None):
                raise error
        except Unavailable as error:
            log.warning("leased rows go back: their content cannot be read", rows=len(rows), error=error.public)
        finally:
            share.give(taken)
            self._put_back([row for row in rows if row.key in self._under_way and row.key not in self._handed])

    def _hold(self, share: Share, sizes: dict[UUID, int], by_email: dict[UUID, list[Leased]]) -> int:
        for id_, size in sizes.items():
            self._holding.add(share, weight(size), [row.key for row in by_email[id_]])
        return sum(map(weight, sizes.values()))

    async def _take(self, share: Share, octets: int) -> bool:
        return not self._ending() and await share.take(octets, self)

    async def _compose_heavy(self, sizes: dict[UUID, int], by_email: dict[UUID, list[Leased]]) -> None:
        """Waits for memory first, holding none of it."""
        share = self._office.memory.heavy
        if not await self._take(share, sum(map(weight, sizes.values()))):
            return
        self._hold(share, sizes, by_email)
        try:
            async with self._office.store.worker() as db:
                contents = await deliveries.contents(db, sizes)
            self._settle_gone({id_: by_email[id_] for id_ in sizes}, contents.keys())
            await self._compose_chunk(list(contents.values()), by_email)
        finally:
            # others wait for it, before these rows go back
            for id_ in sizes:
                self._free(by_email[id_])

    def _free(self, rows: Iterable[Leased]) -> None:
        """The memory of those that the transport was not given."""
        for row in rows:
            if row.key not in self._handed:
                self._holding.done(row.key)

    def _settle_gone(self, by_email: dict[UUID, list[Leased]], there: Collection[UUID]) -> None:
        for id_, rows in by_email.items():
            if id_ not in there:
                self._settle_all(rows, _own(Result.FAILED, "the mail's content is gone", "5.3.0", "content-gone"))

    async def _compose_chunk(self, chunk: Sequence[Content], by_email: dict[UUID, list[Leased]]) -> None:
        office = self._office
        try:
            identities = await office.signer.identities({content.domain_id for content in chunk})
            await self._compose_signed(chunk, identities, by_email)
        finally:
            for content in chunk:
                self._free(by_email[content.id])

    async def _compose_signed(
        self, chunk: Sequence[Content], identities: dict[UUID, Identity], by_email: dict[UUID, list[Leased]]
    ) -> None:
        office = self._office
        work: list[Work] = []
        for content in chunk:
            identity = identities.get(content.domain_id)
            if identity is None:
                self._settle_all(by_email[content.id], _DOMAIN_GONE)
                continue
            fetched = await fetch(content, identity.keys, office.blobs, office.tracker)
            if isinstance(fetched, Work):
                work.append(fetched)
            else:
                self._settle_all(by_email[content.id], fetched)
        composed = await compose_all(work, office.threads) if work else []
        for each, octets in zip(work, composed, strict=True):
            rows = by_email[each.content.id]
            identity = identities.get(each.content.domain_id)
            if isinstance(octets, Outcome) or identity is None:
                self._settle_all(rows, octets if isinstance(octets, Outcome) else _NO_KEY)
                continue
            since = (each.content.scheduled_at or each.content.created_at).timestamp()
            queue = self._queue(self._tls(identity))
            for row in rows:
                if self._ending() or queue.closed:
                    continue
                self._handed[row.key] = since
                queue.put(enveloped(office.verp, each.content, row, identity.return_path, octets))

    def _tls(self, identity: Identity) -> TlsPolicy:
        if identity.tls_required and not self._way.bind_tls:
            return TlsPolicy.REQUIRED
        return self._way.tls

    # ---- deliver

    def _queue(self, tls: TlsPolicy) -> MailQueue:
        found = self._queues.get(tls)
        if found is None:
            queue = MailQueue()
            way = self._way
            destination = Destination(way.site.key, way.hops, self._office.source_ip, tls, credentials=way.credentials)
            task = asyncio.get_running_loop().create_task(
                (way.transport or self._office.transport).deliver(
                    destination,
                    queue,
                    connections=max(1, way.site.max_connections // self._office.sharers),
                    before_dot=self._office.gate.before_dot,
                    on_outcome=self._on_outcome,
                )
            )
            found = self._queues[tls] = (queue, task)
        return found[0]

    def _on_outcome(self, mail: Mail, outcome: Outcome) -> None:
        row = mail.key
        assert isinstance(row, Leased)
        self._done += 1
        if outcome.rule == "lease-lost":
            self._put_back([row])
        elif self._is_down(outcome):
            if self._down is None:
                self._down = outcome
                self._settle(row, outcome)
                self.stop()
            else:
                self._put_back([row])
        else:
            if self._failures and (outcome.rule is None or outcome.result is Result.DELIVERED):
                self._failures = 0
                self._spawn_clear()
            self._settle(row, outcome)
        if self._unattempted or self._down is not None or len(self._under_way) <= self._target // 2:
            self._changed.set()

    def _is_down(self, outcome: Outcome) -> bool:
        """No session came as far as this mail's MAIL: it is about the site, not about the mail."""
        own_demand = outcome.rule in ("tls-failed", "tls-not-offered") and self._way.tls is not TlsPolicy.REQUIRED
        return (
            outcome.result is Result.DEFERRED
            and outcome.rule is not None
            and not own_demand
            and not outcome.dot_sent
            and not any(line.said and line.said.startswith("MAIL ") for line in outcome.conversation)
        )

    def _spawn_clear(self) -> None:
        self._clearing = asyncio.get_running_loop().create_task(self._clear())

    async def _clear(self) -> None:
        try:
            async with self._office.store.worker() as db:
                await sites.clear(db, self._way.site.id)
        except Unavailable as error:
            log.warning("the site's failures could not be cleared", site=self._way.site.key, error=error.public)

    def _settle_all(self, rows: Iterable[Leased], outcome: Outcome) -> None:
        for row in rows:
            self._settle(row, outcome)

    def _settle(self, row: Leased, outcome: Outcome) -> None:
        self._holding.done(row.key)
        self._under_way.pop(row.key, None)
        since = self._handed.pop(row.key, None)
        if outcome.result is Result.DELIVERED and since is not None:
            DELIVERY_SECONDS.observe(max(0.0, time.time() - since))
        self._office.settler.add(Attempt(row, outcome, self._way.site.key, self._office.attempts))
        now = time.monotonic()
        if now - self._began >= 0.5:
            self._rate = 0.5 * self._rate + 0.5 * self._done / (now - self._began)
            self._began, self._done = now, 0

    # ---- the end

    def _put_back(self, rows: Sequence[Leased]) -> None:
        """Not begun: their memory at once, themselves with the next `_release`."""
        for row in rows:
            self._holding.done(row.key)
        self._unattempted.extend(rows)

    async def _finish(self) -> None:
        try:
            await self._end()
        finally:
            self._holding.done_all()

    async def _end(self) -> None:
        while self._composing:
            if self._ending():
                self.stop()  # a run that broke holds mails which nobody will take
            await asyncio.wait(self._composing, timeout=1.0)
        if self._ending():
            self.stop()
        for queue, _ in self._queues.values():
            queue.close()
        await self._release()  # what is under way may take minutes
        await self._rest()
        for _, task in self._queues.values():
            try:
                await task
            except Exception as error:
                log.error("a delivery run failed", site=self._way.site.key, exc_info=error)
        await self._release()
        for row in list(self._under_way.values()):
            # the transport ended without a word about it: its final dot may have left
            outcome = _own(Result.DEFERRED, "this process failed", "4.3.0", "internal-error")
            self._settle(row, dataclasses.replace(outcome, dot_sent=True))
        await self._rest()

    async def _release(self) -> None:
        rows, self._unattempted = self._unattempted, []
        for row in rows:
            self._under_way.pop(row.key, None)
            self._handed.pop(row.key, None)
        await door.release(self._office.store, rows)
        self._office.held.difference_update([row.key for row in rows])

    async def _rest(self) -> None:
        if not self.falling or self._down is None:
            return
        reply = str(self._down.reply)
        try:
            async with self._office.store.worker() as db:
                seconds = await sites.suspend(
                    db, self._way.site.id, reply[:500], first=REST_FIRST, longest=REST_LONGEST
                )
        except Unavailable as error:
            log.warning("the site's failure could not be written", site=self._way.site.key, error=error.public)
        else:
            log.warning(
                "a site takes no mail now", site=self._way.site.key, reply=reply[:200], rests_seconds=round(seconds)
            )
        finally:
            self._rested = True


def _full(rows: Sequence[Leased], quantum: int) -> set[int]:
    """Lanes that gave all they were asked for: more may be due in them."""
    counts: dict[int, int] = {}
    for row in rows:
        counts[row.lane_id] = counts.get(row.lane_id, 0) + 1
    return {lane for lane, count in counts.items() if count >= quantum}


def _own(result: Result, text: str, enhanced: str, rule: str) -> Outcome:
    return Outcome(result, Reply(451 if result is Result.DEFERRED else 554, text, enhanced), rule=rule)


_DOMAIN_GONE = _own(Result.FAILED, "the sending domain has been removed", "5.7.1", "domain-deleted")
_NO_KEY = _own(Result.DEFERRED, "the sending domain has no usable DKIM key", "4.7.0", "no-signing-key")
