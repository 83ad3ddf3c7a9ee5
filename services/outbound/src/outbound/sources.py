"""From which address a mail leaves: pools, warm-up caps, overflow. Without pools it is the one that the settings name, at no cost.

1. `run`     every few seconds: what was sent is told; what the operator says, and what is left of today's caps, is read
2. `place`   a source for each mail of a chunk; what finds no room today is put off, event-free, until there is some
3. `done`    an outcome: counted, or given back where nothing was sent

Which pool: that of the sending domain, else that of the class of mail, else none. Which source of it: one in warm-up first, for
mail that its readers want (transactional, or to somebody who opened or clicked lately, or where nobody looks), on its first
attempt; else a warm one; what neither takes waits. A sending domain in warm-up has a cap of its own besides.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from mailcore.flow import waiting, warmup
from mailcore.flow.warmup import AS_SHIPPED
from mailcore.kit.clock import Clock
from mailcore.kit.errors import MailError
from mailcore.kit.log import logger
from mailcore.kit.metrics import WARMUP_CAP, WARMUP_PAUSED, WARMUP_USED
from mailcore.kit.settings import WarmUp
from mailcore.smtp.outcome import Outcome
from mailcore.store import sources as store_sources
from mailcore.store.contents import Content
from mailcore.store.deliveries import Key, Leased
from mailcore.store.session import Store
from mailcore.store.sources import BROADCAST, Known, KnownPool, KnownSource, KnownWarmup
from mailcore.store.waiting import OTHERS_TURN, READERS_TURN, TRANSACTIONAL_TURN, UNREACHED_TURN, YIELDED_TURN, Wait
from outbound.bars import Bars
from outbound.binding import Binding
from outbound.placement import Asking, Order, Placed, Placement, Source, Work
from outbound.routes import Way
from outbound.shares import ServerClock, Shares
from outbound.simulator import Simulator

log = logger(__name__)

TICK_SECONDS = 5.0
"""Between two looks at pools and warm-ups."""
COMPLAINTS_SECONDS = 60.0
YIELD_SECONDS = 900.0
"""So long a broadcast to somebody who does not read leaves the room of a warm-up to those who do."""
UNUSABLE_SECONDS = 900.0
"""Mail of a pool none of whose sources can be used for the site, or from this host, is looked at again after so long."""
BARRED_SECONDS = 1800.0
"""A site that refuses a source before any mail because of a list gets mail from others for so long."""
_NAMED = re.compile(r"[a-z]+:[0-9a-f]{8}-[0-9a-f-]{27}")


class Sources:
    def __init__(
        self,
        store: Store,
        own: Source,
        *,
        limits: WarmUp = AS_SHIPPED,
        clock: Clock | None = None,
        host: str | None = None,
        provider: Callable[[str], str | None] = lambda _: None,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        """`own`: of mail that no pool carries; `provider`: of the site with that key."""
        self._store = store
        self._limits = limits
        self._tick_seconds = tick_seconds
        self._clock = clock or ServerClock(store)
        self._binding = Binding(store, host or socket.gethostname())
        self._shares = Shares(store, self._clock, limits)
        self._known: Known | None = None
        self._pools: dict[tuple[UUID | None, int], KnownPool] = {}
        self._domains: dict[UUID, KnownWarmup] = {}
        self._sent: Counter[UUID] = Counter()
        """Mails given to each source by this process: the next goes to the one that had fewest."""
        self._sources: dict[UUID, Source] = {}
        """As they are used from this host, by id."""
        self.bars = Bars(store, provider)
        self._complaints_at = float("-inf")
        self.own = own
        self.known: list[KnownSource] = []
        """Of all pools, as last read."""
        self.on_room: Callable[[], object] = lambda: None
        """Called when mail that waited is due again."""

    @property
    def idle(self) -> bool:
        """No pool and no warm-up: every mail leaves from the process's own source."""
        return self._known is not None and not self._pools and not self._domains

    # ---- 1. run

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.tick()
            except MailError as error:
                log.warning("pools and warm-ups wait: the database is away", error=error.public)
            except Exception as error:
                log.error("pools and warm-ups could not be looked at", exc_info=error)
            await asyncio.sleep(self._tick_seconds)

    async def tick(self) -> None:
        """Raises Unavailable; what was not told then is told the next time."""
        await self._shares.report()
        now = self._clock.now()
        if self._known is not None and not self.idle:
            if time.monotonic() - self._complaints_at > COMPLAINTS_SECONDS:
                await warmup.count_complaints(self._store, now)
                self._complaints_at = time.monotonic()
            await warmup.turn(self._store, now, self._limits)
        known = await self._read()
        _show(known)
        if not self.idle and await warmup.call_waiting(self._store, known, now):
            self.on_room()

    async def drain(self) -> None:
        """What is leased and not used goes back. To be called after the last outcome."""
        await self.bars.drain()
        try:
            await self._shares.report(all_back=True)
        except MailError as error:
            log.warning("the last counts of warm-ups are lost: the database is away", error=error.public)

    async def _read(self) -> Known:
        if isinstance(self._clock, ServerClock) and not self.idle:
            await self._clock.set()
        async with self._store.worker() as db:
            known = await store_sources.read(db, self._shares.today)
        pools: dict[tuple[UUID | None, int], KnownPool] = {}
        for pool in known.pools:
            if pool.sources:  # one without is not in use yet
                pools.update({(None, class_): pool for class_ in pool.serves_all})
                pools.update(dict.fromkeys(pool.serves, pool))
        self.known = sources = [source for pool in known.pools for source in pool.sources]
        if not self._sent.keys() >= {source.id for source in sources}:
            # a new one must not have all mail until it has caught up
            self._sent = Counter({source.id: 0 for source in sources})
        self._known, self._pools, self._domains = known, pools, dict(known.domains)
        self.bars.read(known.bars)
        await self._binding.look(sources)
        self._sources.clear()
        return known

    # ---- 2. place

    async def place(self, way: Way, work: Sequence[Work]) -> Placed:
        """Raises Unavailable; then no row is placed and none is put off."""
        if self._known is None:
            await self._read()
        plain = Placement(self.own, self._shares.today)
        placed = {row.key: plain for _, _, rows in work for row in rows}
        if self.idle or isinstance(way.transport, Simulator):
            return Placed(placed, [])
        left = await self._asking(way, work)
        for ask in left:
            del placed[ask.row.key]
        try:
            # what may not use the whole day's cap yet comes last
            for broadcast in (False, True):
                left = await self._fill(left, placed, broadcast)
            waits = await self._overflow(left)
            if waits:
                await waiting.put_off(self._store, [self._wait(ask) for ask in waits])
        except BaseException:
            for placement in placed.values():
                self.done(placement, None)
            raise
        return Placed(placed, [ask.row for ask in left])

    async def _overflow(self, asking: list[Asking]) -> list[Asking]:
        """What may takes its pool's way out; returns the others, which wait."""
        by_route: dict[int, list[Asking]] = {}
        for ask in asking:
            if ask.pool is None or ask.pool.overflow is None or ask.stays:
                continue
            if not self._waits_for_domain(ask):
                by_route.setdefault(ask.pool.overflow, []).append(ask)
        gone: set[Key] = set()
        for route, asks in by_route.items():
            gone |= await warmup.overflow(self._store, [ask.row for ask in asks], route)
        if gone:
            self.on_room()
        return [ask for ask in asking if ask.row.key not in gone]

    async def _asking(self, way: Way, work: Sequence[Work]) -> list[Asking]:
        """Those that a pool or a warm-up is concerned with, in the order of their turns."""
        # by a provider or somebody's smart host mail leaves from their addresses, not ours; keys of such sites: api.ways
        own = way.transport is None and _NAMED.fullmatch(way.site.key) is None
        chosen = []
        for content, class_, rows in work:
            pool = self._pool_of(content.domain_id, class_) if own else None
            domain = self._domains.get(content.domain_id)
            if pool is not None or domain is not None:
                chosen.append((content, class_, rows, pool, domain))
        silent = await self._silent(
            row
            for content, class_, rows, pool, domain in chosen
            if class_ == BROADCAST and (content.track_opens or content.track_clicks) and _warms(pool, domain)
            for row in rows
        )
        orders: dict[UUID, Order] = {}
        asking = []
        for content, class_, rows, pool, domain in chosen:
            order = orders.get(pool.id) if pool else None
            if pool and order is None:
                order = orders[pool.id] = self._order(way, pool)
            for row in rows:
                turn = READERS_TURN if class_ == BROADCAST else TRANSACTIONAL_TURN
                turn = OTHERS_TURN if row.key in silent else turn
                ask = self._ask(content, row, turn, order, domain)
                asking.append(replace(ask, stays=True) if content.requiretls else ask)
        return sorted(asking, key=lambda ask: ask.turn)

    async def _silent(self, rows: Iterable[Leased]) -> set[Key]:
        """Those whose recipient is not known to read."""
        rows = list(rows)
        if not rows:
            return set()
        return {row.key for row in rows} - await warmup.readers(self._store, rows, self._clock.now())

    def _pool_of(self, domain_id: UUID, class_: int) -> KnownPool | None:
        return self._pools.get((domain_id, class_)) or self._pools.get((None, class_))

    def _order(self, way: Way, pool: KnownPool) -> Order:
        active = [source for source in pool.sources if not source.paused and source.warmup.state != "paused"]
        usable = [source for source in active if self._usable(source, way)]
        usable.sort(key=lambda source: self._sent[source.id])
        warming = tuple(source for source in usable if source.warmup.state == "warming")
        warm = tuple(source for source in usable if source.warmup.state == "warm")
        return Order(pool, warming, warm, bool(active) and not usable, len(usable) < len(active))

    def _ask(self, content: Content, row: Leased, turn: int, order: Order | None, domain: KnownWarmup | None) -> Asking:
        if order is None:
            return Asking(row, turn, None, (), domain)
        if order.stuck:
            return Asking(row, turn, order.pool, (), domain, unreached=True)
        if turn != OTHERS_TURN and row.attempt == 1:
            return Asking(row, turn, order.pool, (*order.warming, *order.warm), domain, partly=order.partly)
        yields = 0.0
        if turn == OTHERS_TURN and not order.warm:
            since = content.scheduled_at or content.created_at
            yields = YIELD_SECONDS - (self._clock.now() - since).total_seconds()
        return Asking(
            row, turn, order.pool, (*order.warm, *order.warming), domain, max(0.0, yields), partly=order.partly
        )

    def _usable(self, source: KnownSource, way: Way) -> bool:
        """For this way, from this host."""
        ip4, ip6 = self._binding.addresses(source)
        if self.bars.barred(source.id, way.site.key):
            return False
        return any((ip6 if ":" in ip else ip4) is not None for hop in way.hops for ip in hop.ips)

    async def _fill(self, asking: list[Asking], placed: dict[Key, Placement], broadcast: bool) -> list[Asking]:
        """Places what finds room, leasing more where that is short; returns what is left."""
        left = self._place_each(asking, placed)
        while wants := Counter(id_ for ask in left if ask.broadcast is broadcast for id_ in self._lacks(ask)):
            await self._shares.fill(wants, self._caps(), broadcast=broadcast)
            left = self._place_each(left, placed)
        return left

    def _place_each(self, asking: list[Asking], placed: dict[Key, Placement]) -> list[Asking]:
        left = []
        for ask in asking:
            placement = self._try(ask)
            if placement is None:
                left.append(ask)
            else:
                placed[ask.row.key] = placement
        return left

    def _try(self, ask: Asking) -> Placement | None:
        """None: not yet, or not today; `_lacks` says what would help."""
        domain = ask.domain
        found = next((source for source in ask.order if self._may_have_room(source.warmup, ask)), None)
        if ask.yields or (found is None and ask.pool is not None):
            return None
        if not all(self._has_room(each) for each in (found.warmup if found else None, domain) if each is not None):
            return None
        warmups = [each for each in (found.warmup if found else None, domain) if each is not None]
        capped = tuple(each.id for each in warmups if each.state == "warming")
        self._shares.take(capped)
        if found is None:
            source = self.own
        else:
            self._sent[found.id] += 1
            source = self._source_of(found)
        counted = tuple(each.id for each in warmups)
        return Placement(source, self._shares.today, capped, counted, domain.id if domain else None)

    def _source_of(self, known: KnownSource) -> Source:
        source = self._sources.get(known.id)
        if source is None:
            source = self._sources[known.id] = Source(*self._binding.addresses(known), known.ehlo, known.id)
        return source

    def _has_room(self, each: KnownWarmup) -> bool:
        return each.state == "warm" or (each.state == "warming" and self._shares.has(each.id))

    def _may_have_room(self, each: KnownWarmup, ask: Asking) -> bool:
        """It has, or nobody has asked for more lately."""
        dry = each.state != "warm" and self._shares.is_dry(each.id, broadcast=ask.broadcast)
        return self._has_room(each) or (each.state == "warming" and not dry)

    def _lacks(self, ask: Asking) -> list[UUID]:
        """Caps of which more is to be leased before it can be placed; none: nothing will help."""
        found = next((source.warmup for source in ask.order if self._may_have_room(source.warmup, ask)), None)
        if ask.yields or (ask.domain is not None and not self._may_have_room(ask.domain, ask)):
            return []
        if found is None and ask.pool is not None:
            return []
        return [each.id for each in (found, ask.domain) if each is not None and not self._has_room(each)]

    def _caps(self) -> dict[UUID, int]:
        known = [source.warmup for pool in self._pools.values() for source in pool.sources]
        return {each.id: each.cap or 0 for each in (*known, *self._domains.values())}

    def _waits_for_domain(self, ask: Asking) -> bool:
        return ask.domain is not None and (ask.pool is None or not self._may_have_room(ask.domain, ask))

    def _wait(self, ask: Asking) -> Wait:
        """For the domain's room where that is what it lacks: no source helps then, nor another way."""
        for_domain = self._waits_for_domain(ask) and not ask.unreached
        lacking = ask.domain if for_domain else ask.pool
        assert lacking is not None
        waits_for = lacking.id
        if ask.unreached or (
            ask.partly and not for_domain
        ):  # there may be room, of a source that cannot bring it there
            return Wait(ask.row, waits_for, UNREACHED_TURN, UNUSABLE_SECONDS)
        if ask.yields and not for_domain:
            return Wait(ask.row, waits_for, YIELDED_TURN, ask.yields)
        return Wait(ask.row, waits_for, ask.turn, waiting.a_day(ask.row))

    # ---- 3. done

    def done(self, placement: Placement, outcome: Outcome | None) -> None:
        """What became of a mail that was placed; None: it was not tried. To be called once."""
        if placement.counted:
            self._shares.done(placement, outcome)

    def bar(self, placement: Placement, way: Way, outcome: Outcome) -> bool | None:
        """The site took no mail from this source, because of its address: others go on, and it is left out for a while. False: it
        was known. None: it is not about the source, or there is no other, and then it is the site that takes nothing."""
        source = placement.source
        if source.id is None:
            return None
        if self.bars.barred(source.id, way.site.key):
            return False
        others = [
            each for pool in self._pools.values() for each in pool.sources if each.id != source.id and not each.paused
        ]
        others = [each for each in others if each.warmup.state != "paused" and self._usable(each, way)]
        if warmup.signal(outcome) != "blocked" or not others:
            return None
        self.bars.place(source.id, way.site.key, BARRED_SECONDS, f"{outcome.rule}: {outcome.reply}")
        return True


def _warms(pool: KnownPool | None, domain: KnownWarmup | None) -> bool:
    """Whether it matters who reads."""
    warmups = [source.warmup for source in pool.sources] if pool else []
    return any(each.state == "warming" for each in (*warmups, *([domain] if domain else [])))


def _show(known: Known) -> None:
    """As metrics, of today, by address or sending domain; what is warm has no cap and is not shown."""
    for gauge in (WARMUP_CAP, WARMUP_USED, WARMUP_PAUSED):
        gauge.clear()
    sources = [(source.warmup, source.paused) for pool in known.pools for source in pool.sources]
    for each, by_operator in (*sources, *((each, False) for _, each in known.domains)):
        if each.state == "warm" and not by_operator:
            continue
        WARMUP_PAUSED.labels(each.subject).set(by_operator or each.state == "paused")
        WARMUP_USED.labels(each.subject).set(each.used)
        if each.cap is not None:
            WARMUP_CAP.labels(each.subject).set(each.cap)
