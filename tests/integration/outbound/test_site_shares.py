"""Several processes and one site: what they were granted never sums up to more than its limit, and neither do their connections."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from fakes.smtp_server import SmtpServer, Step, Talk
from integration.outbound.harness import Tenant, until
from mailcore.flow.lease import WorkerLease
from mailcore.flow.shaping import Shaping
from mailcore.kit.errors import Unavailable
from mailcore.store import sites, workers
from mailcore.store.session import Store
from outbound.site_share import SiteShare
from outbound.site_shares import SiteShares


class Party:
    """A process as far as shares go: it opens all that it may."""

    def __init__(self, store: Store, **paces: float) -> None:
        self.lease = WorkerLease(store, "outbound")
        self.open = 0
        self.shares = SiteShares(
            store, self.lease, Shaping.load(), mails_per_connection=100, open_at=lambda _: self.open, **paces
        )
        self.share: SiteShare | None = None

    async def join(self, site: int) -> Party:
        await self.lease.enrol()
        await self.shares.lease([site])
        self.share = self.shares.get(site)
        return self

    async def beat(self, site: int) -> None:
        """With a mail to send: what it no longer may have it closes, what it may it opens."""
        assert self.shares.get(site) is not None
        await self.shares.beat()
        assert self.share is not None
        self.open = self.share.connections


async def _site(store: Store, connections: int) -> int:
    async with store.worker() as db:
        return (await sites.ensure(db, "mx:mx.test", connections)).id


async def _granted(admin: asyncpg.Connection) -> list[int]:
    rows = await admin.fetch("SELECT connections FROM site_shares ORDER BY worker")
    return [row["connections"] for row in rows]


async def test_who_is_alone_leaves_one_to_each_other_and_then_they_are_even(
    store: Store, admin: asyncpg.Connection
) -> None:
    site = await _site(store, 20)
    first, second, third = Party(store), Party(store), Party(store)
    await second.lease.enrol()
    await third.lease.enrol()
    await first.join(site)
    assert first.share is not None
    assert first.share.connections == 18
    await first.beat(site)
    await second.shares.lease([site])
    second.share = second.shares.get(site)
    assert second.share is not None
    assert second.share.connections == 2  # at once; there is no need to wait for the first
    for _ in range(3):
        await first.beat(site)
        await second.beat(site)
    assert (first.share.connections, second.share.connections) == (10, 10)
    await third.join(site)
    for _ in range(3):
        for party in (first, second, third):
            await party.beat(site)
    assert sorted(await _granted(admin)) == [6, 7, 7]


async def test_the_sum_never_exceeds_the_limit_whoever_comes_goes_and_dies(
    store: Store, admin: asyncpg.Connection
) -> None:
    """Beats at the same time, in random order; connections that a process may have are open, and close only when it is told."""
    dice = random.Random(20)
    site = await _site(store, 7)
    parties: list[Party] = []
    seen = set()
    for _ in range(40):
        deed = dice.random()
        if deed < 0.25 and len(parties) < 9:
            parties.append(await Party(store).join(site))
        elif deed < 0.35 and parties:
            gone = parties.pop(dice.randrange(len(parties)))
            async with store.worker() as db:  # as a burial does it: its connections are gone by then
                await workers.leave(db, gone.lease.id)
        beating = dice.sample(parties, dice.randint(0, len(parties)))
        await asyncio.gather(*(party.beat(site) for party in beating))
        granted = await _granted(admin)
        assert sum(granted) <= 7, granted
        assert sum(party.open for party in parties) <= 7
        seen.add(len(granted))
    assert max(seen) > 4, "the dice made too little happen"
    for _ in range(4):
        for party in parties:
            await party.beat(site)
    assert sum(await _granted(admin)) == min(7, 7 if parties else 0)


@pytest.mark.parametrize("processes", [1, 2, 3])
async def test_a_site_that_has_failed_is_asked_by_two_connections_of_all_processes(
    store: Store, admin: asyncpg.Connection, processes: int
) -> None:
    """Also by those that had many, that come later, and that know nothing of it yet but by their heartbeat."""
    site = await _site(store, 20)
    parties = [Party(store) for _ in range(processes)]
    for party in parties:
        await party.join(site)
    for _ in range(3):
        for party in parties:
            await party.beat(site)
    assert sum(party.open for party in parties) == 20
    async with store.worker() as db:
        await sites.suspend(db, site, "421 later", first=3600, longest=3600)
    for party in parties:
        await party.beat(site)
        assert party.share is not None and party.share.closed and party.open == 0
    await admin.execute("UPDATE sites SET suspended_until = now()")  # its rest is over, and two find out
    for _ in range(2):
        for party in parties:
            await party.beat(site)
            assert party.share is not None and party.share.failing
            assert sum(each.open for each in parties) <= 2
    assert sum(party.open for party in parties) == 2
    late = await Party(store).join(site)
    await late.beat(site)
    assert sum(each.open for each in (*parties, late)) <= 2
    async with store.worker() as db:
        await sites.clear(db, site)
    for _ in range(3):
        for party in (*parties, late):
            await party.beat(site)
    assert sum(each.open for each in (*parties, late)) == 20


async def test_a_process_that_was_buried_begins_anew(store: Store, admin: asyncpg.Connection) -> None:
    site = await _site(store, 4)
    party = await Party(store).join(site)
    async with store.worker() as db:
        await workers.leave(db, party.lease.id)
    assert await _granted(admin) == []
    await party.lease.enrol()
    assert party.shares.get(site) is None, "the share went with the worker that it belonged to"
    await party.shares.lease([site])
    assert await _granted(admin) == [4]


async def test_the_share_of_a_dead_process_is_counted_until_its_burial(store: Store, admin: asyncpg.Connection) -> None:
    site = await _site(store, 10)
    dead, alive = await Party(store).join(site), Party(store)
    await dead.beat(site)  # ten connections, and then nobody hears of it any more
    await alive.join(site)
    for _ in range(3):
        await alive.beat(site)
    assert alive.open == 0
    assert await _granted(admin) == [10, 0]
    await admin.execute("UPDATE workers SET heartbeat_at = now() - interval '1 minute' WHERE id = $1", dead.lease.id)
    async with store.worker() as db:
        assert await workers.bury(db, "outbound", 20) == [dead.lease.id]
    await alive.beat(site)
    assert alive.open == 10
    assert await _granted(admin) == [10]
    with pytest.raises(Unavailable, match="declared dead"):
        await dead.shares.beat()


async def test_an_operators_limit_arrives_with_the_heartbeat(store: Store, admin: asyncpg.Connection) -> None:
    site = await _site(store, 20)
    party = await Party(store).join(site)
    await party.beat(site)
    assert party.open == 20
    await admin.execute("UPDATE sites SET limits = $2 WHERE id = $1", site, {"connections": 3, "per_minute": 60})
    await party.beat(site)
    await party.beat(site)
    assert party.open == 3
    assert await _granted(admin) == [3]
    assert party.share is not None
    assert party.share.pace.rates == ((60, 60.0),)


async def test_what_is_not_used_goes_back(store: Store, admin: asyncpg.Connection) -> None:
    site = await _site(store, 4)
    party = await Party(store, linger_seconds=0.0).join(site)
    party.open = 1
    await party.shares.beat()
    assert await _granted(admin) == [4], "a connection is open still"
    party.open = 0
    await party.shares.beat()
    assert await _granted(admin) == []
    assert party.shares.get(site) is None


async def test_two_processes_drain_one_site_together_within_its_limit(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection
) -> None:
    """Counted where it matters, at the MX; and both have worked."""
    async with SmtpServer({"dot": _slowly}) as sink, AsyncExitStack() as processes:
        for name in ("one.test", "two.test"):
            await processes.enter_async_context(
                outbound(sink, max_connections=6, mails_per_connection=10, idle_seconds=0.5, ehlo_name=name)
            )
        await until(lambda: admin.fetchval("SELECT count(*) = 2 FROM workers WHERE service = 'outbound'"), "both here")
        await tenant.send_each([[f"u{n}@{'abcd'[n % 4]}.example"] for n in range(1_200)])
        await until(lambda: admin.fetchval("SELECT NOT EXISTS (SELECT FROM queue)"), "all delivered", seconds=60)
        most = sink.most_open
    assert len(sink.caught) == 1_200
    assert most <= 6
    worked = Counter(talk.commands[0] for talk in sink.talks if talk.commands)
    assert set(worked) == {"EHLO one.test", "EHLO two.test"}
    print(f"most connections {most} of 6; sessions {dict(worked)}")


def _slowly(talk: Talk) -> Step | None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, event.set)
    return Step("250 2.0.0 kept", wait=event)


async def test_a_stop_asks_for_no_share_of_a_worker_that_leaves(store: Store, admin: asyncpg.Connection) -> None:
    """A heartbeat, and a look at what is due, that are under way when the process is told to stop."""
    site = await _site(store, 4)
    party = await Party(store).join(site)
    beats = [asyncio.create_task(party.shares.beat()) for _ in range(3)]
    await asyncio.sleep(0)
    looks = [asyncio.create_task(party.shares.lease([site + 1 + n])) for n in range(3)]
    await party.shares.drain()
    await party.lease.leave()
    await asyncio.gather(*beats, *looks)  # each ends without a word
    await party.shares.beat()
    await party.shares.lease([site])
    assert await _granted(admin) == []


async def test_rules_of_one_site_that_nobody_can_read_cost_no_other_its_share(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection
) -> None:
    """As a newer version may have written them, or a hand."""
    async with outbound(sink):
        await tenant.state(await tenant.send("a@example.com"), "delivered")
    await admin.execute('UPDATE sites SET rules = \'[{"match": "x", "do": "sing", "for": "1m"}]\'')
    async with outbound(sink):
        await tenant.state(await tenant.send("b@example.com"), "delivered")
