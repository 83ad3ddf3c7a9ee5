"""R12: a provider answers 421 to 95 % of what it is asked, then to half, until all is delivered.

Wanted: connections to it fall to two within a minute, other sites see nothing of it, everything is delivered in 1.5 times the
ideal, nothing bounces. The ideal is who knows when the storm ends and asks for each mail as often as the dice want: what lies above
it are asks in vain, attempts that were counted, and rests while half is taken. Those are counted; bench/fairness measures the time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import asyncpg

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer, Step, Talk
from integration.outbound.harness import Tenant, until
from outbound.paces import Paces
from peers import free_port

STORM, OTHERS = 400, 200
CALM = "127.80.0.2"
WANTED = 1.5


async def test_r12_a_storm_of_421(
    tenant: Tenant,
    outbound: Any,
    admin: asyncpg.Connection,
    postgres_server: Any,
    database: str,
) -> None:
    dice = random.Random(12)
    share = 0.95
    port = free_port()
    asked: Counter[tuple[float, bool]] = Counter()
    again: Counter[str] = Counter()

    def mail(talk: Talk) -> Step | None:
        refused = dice.random() < share
        asked[share, refused] += 1
        again["refused"] += refused and sum(said.upper().startswith("MAIL") for said in talk.commands) > 1
        # words that no rule of shaping.toml takes for a wish of fewer connections
        return Step("421 4.7.0 Too many messages, slow down\r\n", cut=True) if refused else None

    zones = {"storm.example": {"A": ["127.80.0.1"]}, "calm.example": {"A": [CALM]}}
    async with AsyncExitStack() as stack:
        storm = await stack.enter_async_context(SmtpServer({"mail": mail}, host="127.80.0.1", port=port))
        calm = await stack.enter_async_context(SmtpServer(host=CALM, port=port))
        dns = await stack.enter_async_context(DnsServer(zones))
        await stack.enter_async_context(
            outbound(
                paces=Paces(busy_first=0.5),
                route="mx",
                mx_port=port,
                max_connections=20,
                dns={"nameservers": [dns.address]},
                network={"allow": {"mx": ["127.0.0.0/8"]}},
            )
        )
        rests = await stack.enter_async_context(_Rests(postgres_server.admin_url(database)))
        await tenant.send_each([[f"u{n}@storm.example"] for n in range(STORM)])
        await until(lambda: _true(len(storm.talks) >= 5), "the storm has begun")
        most = _Most(storm)
        await until(most.stays_at_two, "two connections are left, and stay so", 60)
        await tenant.send_each([[f"o{n}@calm.example"] for n in range(OTHERS)])
        await until(lambda: _true(len(calm.caught) == OTHERS), "the others are delivered in the middle of it")
        assert calm.most_open > 1
        taken, rested = len(storm.caught), len(rests.seen)
        assert taken < STORM / 2, "the storm was over too early to show anything"
        # in it: a few in a row before the first rest, and after each that one lucky mail ended; otherwise two a rest
        assert asked[0.95, True] <= 20 + 2 * rested + 20 * (asked[0.95, False] + 1)
        share = 0.5
        await until(lambda: admin.fetchval("SELECT NOT EXISTS (SELECT FROM queue)"), "all is delivered", 60)
        in_vain = len(rests.seen) - rested
    states = await admin.fetch("SELECT state, possible_duplicate FROM deliveries")
    assert Counter((row["state"], row["possible_duplicate"]) for row in states) == {
        ("delivered", False): STORM + OTHERS
    }
    assert set(Counter(storm.recipients + calm.recipients).values()) == {1}, "nothing twice"
    attempts = await admin.fetch("SELECT d.recipient, a.* FROM attempts a JOIN deliveries d USING (email_id, n)")
    calm_attempts = [row["outcome"] for row in attempts if row["recipient"].endswith("@calm.example")]
    assert Counter(calm_attempts) == {"delivered": OTHERS}, "one attempt each"

    ideal = (STORM - taken) / 0.5
    assert asked[0.5, True] + asked[0.5, False] <= WANTED * ideal
    assert in_vain <= ideal / 100, "who takes half is asked on and on; probes may have no luck, and ten in a row"
    counted = [row for row in attempts if row["attempt"] and row["recipient"].endswith("@storm.example")]
    assert len(counted) <= 1.02 * STORM, "only a mail that is turned away ten times in a row pays for it"

    told = [row for row in attempts if not row["attempt"]]
    assert {(row["outcome"], row["rule"], row["code"], row["mx_ip"]) for row in told} == {
        ("deferred", "turned-away", 421, "127.80.0.1")
    }
    lines = [line for row in told for _, who, line in row["conversation"] if who == "said"]
    assert set(lines) == {"[turned away by storm.example [127.80.0.1]: not counted as an attempt]"}
    refused = asked[0.95, True] + asked[0.5, True]
    assert refused - again["refused"] <= len(lines) <= refused, (
        "each is told, but for sessions that had taken mail: those are asked again at once"
    )


class _Rests:
    """The ends of the site's rests, each once."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.seen: set[datetime] = set()

    async def __aenter__(self) -> _Rests:
        self._db = await asyncpg.connect(self._url)
        self._looking = asyncio.get_running_loop().create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        await self._db.close()

    async def _look(self) -> None:
        while True:
            until_ = await self._db.fetchval("SELECT suspended_until FROM sites WHERE key LIKE 'mx:%storm%'")
            if until_ is not None:
                self.seen.add(until_)
            await asyncio.sleep(0.05)


class _Most:
    """How many connections were open at a time, in the last two seconds of looking."""

    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        self._seen: list[tuple[float, int]] = []

    async def stays_at_two(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._seen = [(at, count) for at, count in self._seen if at > now - 2] + [(now, self._server.open)]
        return self._seen[0][0] < now - 1.8 and max(count for _, count in self._seen) <= 2


async def _true(value: bool) -> bool:
    return value
