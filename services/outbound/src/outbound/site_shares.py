"""This process's part of each site: leased by heartbeat, shaped by what the site answers.

Of each site that is worked on (`site_share`) the process knows how many connections it was granted (`store.site_shares`: the sum
over all processes never exceeds the limit), how many of those the site bears just now (`bearing.Window`), its rates, its rules. The
heartbeat renews them, brings what an operator has changed meanwhile, and tells what the site said. A share is taken with the
first mail and given back when nothing is open any more; with a worker that dies its shares go as its leases do.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from uuid import UUID

import asyncpg

from mailcore.flow.lease import WorkerLease
from mailcore.flow.shaping import Rule, Shape, Shaping
from mailcore.kit.errors import MailError, Unavailable
from mailcore.kit.log import logger
from mailcore.smtp.outcome import Outcome
from mailcore.store import bars, holds, site_shares, sites
from mailcore.store.session import Store
from mailcore.store.site_shares import Ask, Grant, Standing
from outbound.bearing import Hits, Window
from outbound.rest import PROBES
from outbound.site_share import KEPT_REPLIES, SiteShare

log = logger(__name__)

BEAT_SECONDS = 2.0
"""Between two heartbeats."""
SOON_SECONDS = 0.25
"""After a share was to shrink: others wait for what is closed meanwhile."""
LINGER_SECONDS = 5.0
"""A share that nobody asked for in this time goes back, once nothing is open."""
FORGET_SECONDS = 30.0
"""Between two looks for holds that are over."""
REMEMBER_SECONDS = 900.0
"""How long it is remembered what a site bore that is not worked on."""


class SiteShares:
    def __init__(
        self,
        store: Store,
        lease: WorkerLease,
        shaping: Shaping,
        *,
        mails_per_connection: int,
        open_at: Callable[[str], int],
        beat_seconds: float = BEAT_SECONDS,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self._store = store
        self._lease = lease
        self._shaping = shaping
        self._mails = mails_per_connection
        self._open_at = open_at
        """Connections that the process has to the site with that key."""
        self._beat_seconds = beat_seconds
        self._linger_seconds = linger_seconds
        self.wake: Callable[[], None] = lambda: None
        """Called when a site has room that had none."""
        self._sites: dict[int, SiteShare] = {}
        self._hits = Hits()
        self._windows: dict[int, tuple[float, Window]] = {}
        """Of sites that are not worked on now and had not recovered, with the time when that is forgotten."""
        self._worker: int | None = None
        self._beating = asyncio.Lock()
        self._soon = asyncio.Event()
        self._beat_at = time.monotonic()
        self._forget_at = 0.0
        self._drained = False
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, site_id: int) -> SiteShare | None:
        """None: `lease` it first."""
        share = self._sites.get(site_id)
        if share is None or share.leaving or self._worker != self._lease.id:
            return None
        share.asked_at = time.monotonic()
        return share

    def has(self, site_id: int) -> bool:
        """Whether its share is good for mail that is due; else `lease` it."""
        share = self.get(site_id)
        return share is not None and not share.shut_elsewhere

    async def lease(self, site_ids: Iterable[int]) -> None:
        """A share of each that has none yet, or one of which only the last heartbeat says that it is closed. Raises Unavailable."""
        async with self._beating:
            missing = sorted({id_ for id_ in site_ids if not self.has(id_)})
            if missing and not self._drained:
                await self._renew(missing)

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._beat_seconds):
                    await self._soon.wait()
                await asyncio.sleep(SOON_SECONDS)
            except TimeoutError:
                pass
            self._soon.clear()
            try:
                await self.beat()
            except Unavailable as error:
                log.warning("shares of sites are not renewed: the database is away", error=error.public)
            except Exception as error:
                log.error("shares of sites are not renewed", exc_info=error)

    async def beat(self) -> None:
        async with self._beating:
            if self._worker is None or not self._lease.alive or self._drained:
                return
            now = time.monotonic()
            done = [share for share in self._sites.values() if self._is_done(share, now)]
            for share in done:
                share.leaving = True
            try:
                await self._renew([id_ for id_, share in self._sites.items() if not share.leaving], done)
            except BaseException:
                for share in done:
                    share.leaving = False
                raise
            for share in done:
                self._forget(share, now)
        if now >= self._forget_at:
            self._forget_at = now + FORGET_SECONDS
            async with self._store.worker() as db:
                await holds.forget(db)
                await bars.forget(db)

    def _is_done(self, share: SiteShare, now: float) -> bool:
        idle = not share.listeners and not share.pace.owes and now - share.asked_at > self._linger_seconds
        return idle and not self._open_at(share.key)

    def _forget(self, share: SiteShare, now: float) -> None:
        self._sites.pop(share.site_id, None)
        self._windows = {id_: known for id_, known in self._windows.items() if known[0] > now}
        if share.window.shrunk:
            self._windows[share.site_id] = (now + REMEMBER_SECONDS, share.window)

    async def _renew(self, site_ids: Collection[int], done: Collection[SiteShare] = ()) -> None:
        worker = self._lease.id
        fresh = worker != self._worker
        if fresh:  # we were declared dead, and our shares went with that
            site_ids = sorted({*site_ids, *self._sites})
        if not site_ids and not done:
            return
        now = time.monotonic()
        span, self._beat_at = max(0.001, now - self._beat_at), now
        async with self._store.worker(durable=False) as db:
            # those that are given back, too: what is noted of them is written under their locks, in one order
            going = {share.site_id for share in done}
            locked = await site_shares.lock(db, [*site_ids, *going])
            if going:
                await site_shares.give_back(db, worker, sorted(going))
            standings = {each.site_id: each for each in locked if each.site_id not in going}
            shapes = {id_: self._shape(each) for id_, each in standings.items()}
            asks = [self._ask(each, shapes[id_], fresh, span) for id_, each in standings.items()]
            try:
                granted = await site_shares.share(db, worker, self._lease.service, asks) if asks else []
            except asyncpg.ForeignKeyViolationError as error:
                raise Unavailable(
                    "This worker has been declared dead: it has no shares until it is enrolled anew."
                ) from error
            notes = _notes([*done, *(self._sites[id_] for id_ in standings if id_ in self._sites)])
            if notes:
                await sites.note(db, notes)
        self._worker = worker
        for id_ in site_ids:
            if id_ not in standings:
                self._sites.pop(id_, None)
        for grant in granted:
            self._take(standings[grant.site_id], shapes[grant.site_id], grant)

    def _take(self, standing: Standing, shape: Shape, grant: Grant) -> None:
        share = self._sites.get(standing.site_id)
        had = -1 if share is None else share.connections
        if share is None:
            share = self._sites[standing.site_id] = SiteShare(standing.site_id, shape, self._hits)
            if known := self._windows.pop(standing.site_id, None):
                share.window = known[1]
                share.window.resize(shape.connections)
        share.take(standing, shape, grant)
        if grant.target < grant.connections:
            self._soon.set()
        if had == 0 and share.connections:
            self.wake()

    def _shape(self, standing: Standing) -> Shape:
        shape = partial(
            self._shaping.shape,
            standing.key,
            connections=standing.max_connections,
            mails_per_connection=self._mails,
            limits=standing.limits,
        )
        try:
            return shape(rules=standing.rules)
        except (ValueError, MailError) as error:  # of another version, perhaps: no reason to renew no share at all
            log.error(
                "the rules of a site cannot be read; it is worked on without", site=standing.key, error=str(error)
            )
            return shape()

    def _ask(self, standing: Standing, shape: Shape, fresh: bool, span: float) -> Ask:
        site_id, most = standing.site_id, min(PROBES, shape.connections) if standing.failing else shape.connections
        share = self._sites.get(site_id)
        if share is None:
            return Ask(site_id, most, 0, 0, 0, 0.0)
        open_ = self._open_at(share.key)
        if span > 0.5:
            share.rate, share.mails = 0.5 * share.rate + 0.5 * share.mails / span, 0
        holds_ = 0 if fresh else max(open_, share.target)
        return Ask(site_id, most, holds_, share.connections, open_, share.rate)

    def soon(self) -> None:
        """A site fell, or took mail again: what it is asked by all together is another number now."""
        self._soon.set()

    # ---- reactions

    def react(self, share: SiteShare, rule: Rule, outcome: Outcome, org_id: UUID) -> None:
        """Acts on a rule: at once here, by the database everywhere. One about a source suspends the site for mail of no pool; of
        a pool it is not for here (`Places.bar`)."""
        if rule.do == "slow":
            share.window.slow_down(rule.seconds)
        elif not share.shut(org_id if rule.do == "suspend-tenant" else None):
            return
        share.tell()
        log.warning(
            "a site said what a rule is about",
            site=share.key,
            rule=rule.name,
            do=rule.do,
            seconds=rule.seconds,
            reply=str(outcome.reply)[:200],
            **({"org_id": str(org_id)} if rule.do == "suspend-tenant" else {}),
        )
        task = asyncio.get_running_loop().create_task(self._write(share, rule, outcome, org_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, share: SiteShare, rule: Rule, outcome: Outcome, org_id: UUID) -> None:
        reason = f"rule {rule.name}: {sites.storable(str(outcome.reply))[:400]}"
        try:
            async with self._store.worker() as db:
                if rule.do == "slow":
                    await sites.slow(db, share.site_id, rule.seconds, reason)
                else:
                    whom = org_id if rule.do == "suspend-tenant" else None
                    await holds.place(db, share.site_id, whom, origin="rule", reason=reason, seconds=rule.seconds)
        except Unavailable as error:
            log.warning("a rule's reaction could not be written", site=share.key, rule=rule.name, error=error.public)

    async def drain(self) -> None:
        """To the end of what is being written; the shares go with the worker, which leaves next: none is asked for any more."""
        async with self._beating:
            self._drained = True
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


def _notes(these: Iterable[SiteShare]) -> list[sites.Note]:
    notes = []
    for share in these:
        if share.took or share.said:
            said = [sites.Said(at, outcome.reply, outcome.rule) for at, outcome in share.said if outcome.reply]
            notes.append(sites.Note(share.site_id, share.took, said))
            share.took, share.said = False, deque(maxlen=KEPT_REPLIES)
    return notes
