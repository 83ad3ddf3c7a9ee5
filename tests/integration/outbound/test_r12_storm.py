"""R12: a provider answers 421 to 95 % of what it is asked, then to half, then to nothing.

Wanted: connections to it fall to two within a minute, other sites see nothing of it, everything is delivered, nothing bounces.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import asyncpg

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer, Step, Talk
from integration.outbound.harness import Tenant, until
from peers import free_port

STORM, OTHERS = 200, 200
CALM = "127.80.0.2"


async def test_r12_a_storm_of_421(tenant: Tenant, outbound: Any, admin: asyncpg.Connection) -> None:
    dice = random.Random(12)
    share = 0.95
    port = free_port()

    def asked(_: Talk) -> Step | None:
        refused = Step("421 4.7.0 Too many messages, slow down\r\n", cut=True)
        return refused if dice.random() < share else None

    zones = {"storm.example": {"A": ["127.80.0.1"]}, "calm.example": {"A": [CALM]}}
    async with AsyncExitStack() as stack:
        storm = await stack.enter_async_context(SmtpServer({"mail": asked}, host="127.80.0.1", port=port))
        calm = await stack.enter_async_context(SmtpServer(host=CALM, port=port))
        dns = await stack.enter_async_context(DnsServer(zones))
        await stack.enter_async_context(
            outbound(
                route="mx",
                mx_port=port,
                max_connections=20,
                dns={"nameservers": [dns.address], "timeout_seconds": 2},
                network={"allow": {"mx": ["127.0.0.0/8"]}},
                retry_schedule=[0.5] * 500,
            )
        )
        await tenant.send_each([[f"u{n}@storm.example"] for n in range(STORM)])
        await until(lambda: _true(len(storm.talks) >= 5), "the storm has begun")
        most = _Most(storm)
        await until(most.stays_at_two, "two connections are left, and stay so", 60)
        await tenant.send_each([[f"o{n}@calm.example"] for n in range(OTHERS)])
        await until(lambda: _true(len(calm.caught) == OTHERS), "the others are delivered in the middle of it")
        assert len(storm.caught) < STORM, "the storm was over too early to show anything"
        assert calm.most_open > 1
        share = 0.5
        await until(lambda: _true(len(storm.caught) > STORM // 10), "half is taken, and it goes on", 60)
        share = 0.0
        await until(lambda: admin.fetchval("SELECT NOT EXISTS (SELECT FROM queue)"), "all is delivered", 60)
    states = await admin.fetch("SELECT state, possible_duplicate FROM deliveries")
    assert Counter((row["state"], row["possible_duplicate"]) for row in states) == {
        ("delivered", False): STORM + OTHERS
    }
    assert set(Counter(storm.recipients + calm.recipients).values()) == {1}, "nothing twice"
    calm_attempts = await admin.fetch(
        "SELECT a.outcome FROM attempts a JOIN deliveries d USING (email_id, n) WHERE d.recipient LIKE '%@calm.example'"
    )
    assert Counter(row["outcome"] for row in calm_attempts) == {"delivered": OTHERS}, "one attempt each"


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
