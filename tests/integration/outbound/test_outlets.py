"""Several kinds of connections to one site, against a real server: they divide what there is, or take turns when it is too few."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID

import pytest

from fakes.smtp_server import SmtpServer, Step, Talk
from mailcore.flow.shaping import Shaping
from mailcore.smtp.outcome import Outcome, Result
from mailcore.store.site_shares import Grant, Standing
from mailcore.transport import Destination, Hop, Mail, Pool
from outbound.outlets import TURN_SECONDS, Outlets
from outbound.site_share import SiteShare

CONTENT = b"Subject: x\r\n\r\nhello\r\n"


def _share(connections: int, **limits: int) -> SiteShare:
    standing = Standing(
        1, "mx:mx.test", connections, limits, [], closed=False, held=frozenset(), slow_seconds=0, failing=False
    )
    shape = Shaping.load().shape(standing.key, connections=connections, mails_per_connection=100, limits=limits)
    share = SiteShare(1, shape)
    share.take(standing, shape, Grant(1, connections, connections))
    return share


async def _leave(_: Mail) -> bool:
    return True


class Run:
    def __init__(
        self, share: SiteShare, pool: Pool, server: SmtpServer, sources: int, turn_seconds: float = TURN_SECONDS
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.outlets = Outlets(
            pool, share, _leave, lambda _, outcome: self.outcomes.append(outcome), turn_seconds=turn_seconds
        )
        share.listeners.add(self)
        self.kinds = [
            Destination("mx:mx.test", (Hop("127.0.0.1", ("127.0.0.1",), server.port),), f"127.0.0.{n + 2}")
            for n in range(sources)
        ]

    def changed(self) -> None:
        self.outlets.changed()

    async def send(self, mails: int) -> None:
        for n in range(mails):
            self.outlets.put(
                self.kinds[n % len(self.kinds)], Mail("a@b.test", f"u{n}@x.test", CONTENT, (UUID(int=n), 0))
            )
        while len(self.outcomes) < mails:
            await asyncio.sleep(0.01)
        self.outlets.close()
        await self.outlets.end()


def _slowly(_: Talk) -> Step:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0.005, event.set)
    return Step("250 2.0.0 kept", wait=event)


@pytest.mark.parametrize(("kinds", "connections"), [(1, 3), (2, 5), (3, 2), (4, 1)])
async def test_kinds_never_have_more_connections_together_than_there_are(kinds: int, connections: int) -> None:
    most: list[int] = []
    async with SmtpServer({"dot": _slowly}) as server:
        pool = Pool("us.test", idle=5)
        run = Run(_share(connections), pool, server, kinds, turn_seconds=0.05)

        async def watch() -> None:
            while True:
                # sessions that are saying QUIT take no mail any more
                most.append(sum(1 for talk in server.talks if not talk.over and talk.mail_from is not None))
                await asyncio.sleep(0.001)

        watching = asyncio.ensure_future(watch())
        await asyncio.wait_for(run.send(120), 30)
        watching.cancel()
        await pool.close()
    assert [outcome.result for outcome in run.outcomes] == [Result.DELIVERED] * 120
    assert Counter(outcome.source_ip for outcome in run.outcomes) == {
        f"127.0.0.{n + 2}": 120 // kinds for n in range(kinds)
    }
    assert max(most) <= connections
    assert not run.outlets.share.kinds


async def test_a_kind_without_mail_leaves_its_part_to_the_others() -> None:
    async with SmtpServer({"dot": _slowly}) as server:
        pool = Pool("us.test", idle=0.05)
        share = _share(6)
        run = Run(share, pool, server, 2, turn_seconds=0.02)
        for n in (0, 1):
            run.outlets.put(run.kinds[n], Mail("a@b.test", f"u{n}@x.test", CONTENT))
        while len(run.outcomes) < 2:
            await asyncio.sleep(0.005)
        assert share.of_kind(run.kinds[0].pool_key) == 3
        await asyncio.sleep(0.05)
        for n in range(200):
            run.outlets.put(run.kinds[0], Mail("a@b.test", f"v{n}@x.test", CONTENT))
        while len(run.outcomes) < 202:
            await asyncio.sleep(0.005)
        assert share.of_kind(run.kinds[0].pool_key) == 6
        run.outlets.close()
        await run.outlets.end()
        await pool.close()


async def test_mails_that_wait_for_their_rate_can_be_taken_back() -> None:
    async with SmtpServer() as server:
        pool = Pool("us.test")
        run = Run(_share(2, per_hour=1), pool, server, 1)
        for n in range(5):
            run.outlets.put(run.kinds[0], Mail("a@b.test", f"u{n}@x.test", CONTENT))
        while not run.outcomes:
            await asyncio.sleep(0.005)
        assert run.outlets.waiting == 4
        assert [mail.rcpt_to for mail in run.outlets.take_all(lambda mail: mail.rcpt_to == "u2@x.test")] == [
            "u2@x.test"
        ]
        assert len(run.outlets.take_all()) == 3
        assert run.outlets.waiting == 0
        run.outlets.close()
        await run.outlets.end()
        await pool.close()
    assert len(server.caught) == 1


async def test_connections_of_a_kind_that_has_gone_are_closed_at_once() -> None:
    async with SmtpServer() as server:
        pool = Pool("us.test", idle=60)
        share = _share(2)
        share.kinds["another"] += 1
        run = Run(share, pool, server, 1)
        await run.send(1)
        assert list(share.kinds) == ["another"]
        async with asyncio.timeout(10):
            while pool.open_at("mx:mx.test"):
                await asyncio.sleep(0.005)
        alone = Run(_share(2), pool, server, 1)
        await alone.send(1)
        assert pool.open_at("mx:mx.test") == 1, "nobody else wants its place: it stays warm"
        await pool.close()
