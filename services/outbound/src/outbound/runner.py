"""Who works where: looks for due lanes, finds their sites, keeps one SiteRun a site.

Woken by the bell and by the sweep. A look costs one index probe a lane with rows, so that bells in quick succession share one:
after a look of d seconds the next begins no sooner than 10 d later, or MAX_SPACING. A bell names a site: the lanes that it had
lately are looked at alone and at once, so that who sends now and then does not wait for the many. The sweep also buries dead
workers and takes their rows back.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from chassis.runner import Runner
from mailcore.flow import settle as door
from mailcore.kit import failpoint
from mailcore.kit.errors import MailError, Unavailable
from mailcore.kit.log import logger
from mailcore.kit.metrics import QUEUE_AGE, QUEUE_DEPTH
from mailcore.smtp.outcome import Outcome
from mailcore.store import deliveries, leases
from mailcore.store.deliveries import Leased
from mailcore.store.due import DueLane, depth, due_lanes, peek_suspect
from outbound.asks import Quantum
from outbound.deliver import SiteRun
from outbound.office import Office
from outbound.rest import REST_FIRST, REST_LONGEST
from outbound.routes import NoWay, Routes, Way
from outbound.site_share import SiteShare

log = logger(__name__)

SERVICE = "outbound"
SPACING = 0.005
"""Seconds between looks at least; a busy queue gathers rows meanwhile."""
MAX_SPACING = 0.25
"""And at most: on a busy machine a look takes long because it waits for its turn, and whoever comes new waits for the look."""
NEAR_SPACING = 0.02
"""Seconds between looks at few lanes."""
NEAR_LANES = 32
"""Of a site that are remembered, and NEAR_SITES sites; what is not finds the next look at all."""
NEAR_SITES = 10_000
MAX_FINDING = 100
"""Domains that are looked up in the DNS at the same time …"""
NEXT_FINDING = 200
"""… and that wait for it; who comes after them is seen by the next look."""
REFUSED = 50
"""Mails that are refused in one go, as their domain takes none."""
MAX_REFUSING = 100
"""Lanes whose mail is refused, as their domains take none, at the same time."""
AT_REST = 2
"""Domains of which it is written at the same time that nobody knows where their mail goes: the pool is for the others."""
BEGINNINGS = 200
"""Sites that a look begins to work on: what they all ask for next is not to hold up those that are at work."""
SUSPECT_SECONDS = 10.0
"""A suspect that is under way for longer waits for its peer and kills nobody: the next one may begin."""
MAX_ALONE = 10
"""Suspects that wait for replies of one site."""


class Outbound:
    def __init__(
        self,
        office: Office,
        routes: Routes,
        *,
        sweep_seconds: float,
        lease_seconds: float,
        spacing: float = SPACING,
    ) -> None:
        """`spacing`: seconds between looks at least."""
        self._office = office
        self._routes = routes
        self._lease_seconds = lease_seconds
        self._spacing = spacing
        self.runner = Runner("outbound", self._look, sweep_seconds=sweep_seconds)
        self._runs: dict[tuple[int, str], SiteRun] = {}
        """By site and order of its hosts."""
        self._finding: set[str] = set()
        self._refusing: set[int] = set()
        self._slots = asyncio.Semaphore(MAX_FINDING)
        self._resting = asyncio.Semaphore(AT_REST)
        self._tasks: set[asyncio.Task[None]] = set()
        self._suspects: asyncio.Task[None] | None = None
        self._alone: Counter[int] = Counter()
        """Suspects under way, by site."""
        self._next_look = 0.0
        self._lately: dict[str, dict[int, None]] = {}
        """By site, as bells name it: lanes that had mail, the latest last."""
        self._rung: set[str] = set()
        self._near: asyncio.Task[None] | None = None
        office.shares.wake = self.wake

    def wake(self, key: str = "") -> None:
        if key in self._lately and not self._office.draining:
            self._rung.add(key)
            if self._near is None or self._near.done():
                self._near = self._spawn(self._look_near())
        self.runner.wake(key)

    async def drain(self) -> None:
        """No new claims; what is under way ends and is settled; what was not begun goes back; the worker leaves."""
        self._office.draining = True
        self.runner.drain()
        for run in self._runs.values():
            run.stop()
        self._office.memory.refuse()  # suspects too
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._office.settler.drain()
        await self._office.shares.drain()
        await self._office.lease.leave()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, Unavailable):
            log.warning("work was broken off; the sweep goes on with it", error=error.public)
        else:
            log.error("work failed; the sweep goes on with it", exc_info=error)

    # ---- look and sweep

    async def _look(self, keys: frozenset[str] | None) -> bool:
        office = self._office
        if office.draining or not office.lease.alive:
            return False
        if keys is None:
            await self._sweep()
        await asyncio.sleep(max(0.0, self._next_look - time.monotonic()))
        began = time.monotonic()
        async with office.store.worker() as db:
            due = await due_lanes(db)
            busy = [site for site, count in self._alone.items() if count >= MAX_ALONE]
            suspect = await peek_suspect(db, busy)
        now = time.monotonic()
        took = now - began
        self._next_look = now + max(self._spacing, min(MAX_SPACING, 10 * took), took)
        oldest = min((lane.due_at.timestamp() for lane in due), default=math.inf)
        QUEUE_AGE.labels("outbound").set(max(0.0, time.time() - oldest))
        self._remember(due)
        left, unleased = self._give_known(due, began)
        if unleased:
            await self._lease_and_give(unleased, began)
        if left:
            self.wake()
        if suspect and (self._suspects is None or self._suspects.done()):
            self._suspects = self._spawn(self._work_on_suspects())
        return False

    async def _look_near(self) -> None:
        """At what bells have named; the look at all follows when it is time for that."""
        office = self._office
        while self._rung and not office.draining and office.lease.alive:
            rung, self._rung = self._rung, set()
            lanes = [lane for site in rung for lane in self._lately.get(site, ())]
            began = time.monotonic()
            async with office.store.worker() as db:
                due = await due_lanes(db, lanes)
            _, unleased = self._give_known(due, began)
            if unleased:
                self._spawn(self._lease_and_give(unleased, began))  # the next ring does not wait for it
            await asyncio.sleep(NEAR_SPACING)

    def _remember(self, due: Iterable[DueLane]) -> None:
        for lane in due:
            site = str(lane.site_id)
            lanes = self._lately[site] = self._lately.pop(site, {})  # the latest last
            lanes.pop(lane.lane_id, None)
            lanes[lane.lane_id] = None
            if len(lanes) > NEAR_LANES:
                del lanes[next(iter(lanes))]
        while len(self._lately) > NEAR_SITES:
            del self._lately[next(iter(self._lately))]

    async def _sweep(self) -> None:
        office = self._office
        # the fault test turns this off, to show that it can see a loss
        if not failpoint.armed("leases_off"):
            await door.sweep(office.store, SERVICE, self._lease_seconds)
        async with office.store.worker() as db:
            strays = await leases.strays(db, office.lease.id, office.held, older_than=self._lease_seconds)
            QUEUE_DEPTH.labels("outbound").set(await depth(db))
        if strays:
            log.warning("rows leased to us that we do not hold were given back", rows=strays)

    def _give_known(self, due: Iterable[DueLane], asked: float) -> tuple[bool, list[DueLane]]:
        """In this order; `asked`: not after the database was. Returns whether sites were left for the next look, and lanes of sites
        that we have no share of."""
        left = False
        beginning: set[int] = set()
        unleased: list[DueLane] = []
        for lane in due:
            way = self._routes.known(lane)
            if isinstance(way, Way):
                site = way.site.id
                has = self._office.shares.has(site)
                if site not in beginning and (site, way.order) not in self._runs and self._may_begin(site):
                    if len(beginning) == BEGINNINGS:
                        left = True
                        continue
                    beginning.add(site)
                if not has:
                    unleased.append(lane)
                    continue
            self._give(lane, asked)
        return left, unleased

    async def _lease_and_give(self, lanes: Sequence[DueLane], asked: float) -> None:
        """Our share of each site first, in one transaction. Mail is due only at sites that are open: one that we believe closed was
        opened since the last heartbeat."""
        await self._office.shares.lease({lane.site_id for lane in lanes})
        for lane in lanes:
            self._give(lane, asked)

    def _may_begin(self, site: int) -> bool:
        """Not where others have all its connections: a heartbeat brings ours."""
        share = self._office.shares.get(site)
        return share is None or bool(share.connections)

    def _give(self, lane: DueLane, asked: float) -> None:
        way = self._routes.known(lane)
        if way is None:
            if lane.domain not in self._finding and len(self._finding) < MAX_FINDING + NEXT_FINDING:  # its end wakes us
                self._finding.add(lane.domain)
                self._spawn(self._find(lane))
        elif isinstance(way, NoWay):
            if lane.lane_id not in self._refusing and len(self._refusing) < MAX_REFUSING:  # its end wakes us
                self._refusing.add(lane.lane_id)
                self._spawn(self._refuse(lane, way))
        else:
            key = (way.site.id, way.order)
            run = self._runs.get(key)
            if run is not None and run.falling:
                return  # its end wakes us
            if run is not None and run.offer(lane):
                return
            share = self._office.shares.get(way.site.id)
            if share is None or not share.connections:
                return  # others have them all: a heartbeat brings ours and wakes us
            if share.rested_at > asked:
                self.wake()  # it was due before the site went to rest: the next look knows
                return
            run = self._runs[key] = SiteRun(self._office, way, share, lane.failures)
            run.offer(lane)
            self._spawn(self._run(key, run))

    async def _run(self, key: tuple[int, str], run: SiteRun) -> None:
        try:
            await run.run()
        finally:
            if self._runs.get(key) is run:
                del self._runs[key]
            if run.claimed:
                self.wake()  # looks once more: rows may have come since the last claim

    # ---- domains

    async def _find(self, lane: DueLane) -> None:
        try:
            async with self._slots:
                await self._routes.of(lane)
        except MailError as error:
            # for the whole lane: its mails are not attempted one by one
            await self._rest(lane, error)
        finally:
            self._finding.discard(lane.domain)
            self.wake()  # others wait in line, and this one's lanes may be at work

    async def _rest(self, lane: DueLane, error: MailError) -> None:
        async with self._resting:
            seconds = await self._routes.rest(lane, error.public, first=REST_FIRST, longest=REST_LONGEST)
        if lane.taken is not None:
            self.wake()  # another of its ways may be free
        log.warning(
            "a domain rests: where its mail goes is not known",
            domain=lane.domain,
            reply=error.public,
            seconds=round(seconds),
        )

    async def _refuse(self, lane: DueLane, way: NoWay) -> None:
        """The domain takes no mail: all due rows of the lane get that outcome."""
        office = self._office
        try:
            while not office.draining:
                wanted = Quantum(lane.lane_id, REFUSED)
                rows = (await office.claims.ask([wanted]))[wanted]
                for row in rows:
                    office.held.add(row.key)
                    self._settle(row, way.outcome, lane)
                if len(rows) < REFUSED:
                    return
        finally:
            self._refusing.discard(lane.lane_id)
            self.wake()

    def _settle(self, row: Leased, outcome: Outcome, lane: DueLane) -> None:
        """Without having asked a peer."""
        office = self._office
        outcome = door.suppression(row) or outcome
        office.settler.add(office.retries.attempt(row, outcome, None, lane.class_, None, time.time()))

    # ---- suspects

    async def _work_on_suspects(self) -> None:
        """Each alone, in turns: the next is claimed when the one before may send its final dot, or is done."""
        office = self._office
        full: list[int] = []
        while not office.draining and office.lease.alive:
            async with office.store.worker() as db:
                busy = full + [site for site, count in self._alone.items() if count >= MAX_ALONE]
                lane = await peek_suspect(db, busy)
            if lane is None:
                return
            way = self._routes.known(lane)
            if way is None:
                try:
                    way = await self._routes.of(lane)
                except MailError as error:
                    await self._rest(lane, error)
                    continue
            share = await self._share_of(way)
            if isinstance(way, Way) and share is None:
                full.append(way.site.id)
                continue
            async with office.store.worker() as db:
                row = await deliveries.claim_suspect(
                    db, lane.lane_id, office.lease.id, schedule=office.retries.schedule
                )
            if row is None:
                return  # another process has it
            office.held.add(row.key)
            log.info("a suspect goes alone", email_id=str(row.email_id), n=row.n, attempt=row.attempt)
            if isinstance(way, NoWay):
                self._settle(row, way.outcome, lane)
                continue
            failpoint.hit("f5")
            assert share is not None
            await self._turn(SiteRun(office, way, share), row, lane)

    async def _share_of(self, way: Way | NoWay) -> SiteShare | None:
        """None: the other processes have all of the site's connections."""
        if isinstance(way, NoWay):
            return None
        shares, site = self._office.shares, way.site.id
        if shares.get(site) is None:
            await shares.lease([site])
        share = shares.get(site)
        return share if share is not None and share.connections else None

    async def _turn(self, run: SiteRun, row: Leased, lane: DueLane) -> None:
        over = asyncio.Event()
        self._office.gate.watch(row.key, over)
        task = self._spawn(self._deliver_suspect(run, row, lane))
        task.add_done_callback(lambda _: over.set())
        try:
            async with asyncio.timeout(SUSPECT_SECONDS):
                await over.wait()
        except TimeoutError:
            pass
        self._office.gate.forget(row.key)

    async def _deliver_suspect(self, run: SiteRun, row: Leased, lane: DueLane) -> None:
        site = run.way.site.id
        self._alone[site] += 1
        try:
            await run.deliver([row], lane)
        finally:
            self._alone[site] -= 1
            if not self._alone[site]:
                del self._alone[site]
            if self._suspects is None or self._suspects.done():
                self.wake()  # others may have waited for a place
