"""R11: slow hosts: a greeting octet by octet, nine minutes until the reply to the final dot, a 250 that drips.

Wanted: the others do not wait for them; a reply at nine minutes is a delivery and is not repeated. Timers are scaled by settings:
here ten minutes are six seconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import asyncpg

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer, Step, Talk
from integration.outbound.harness import Tenant, until
from peers import free_port

MINUTE = 6.0 / 10
SLOW, QUICK = 10, 300
TIMEOUTS = {"greeting": 5 * MINUTE, "mail": 5 * MINUTE, "rcpt": 5 * MINUTE, "dot": 10 * MINUTE, "patience": 0.1}


def _after(seconds: float, text: str) -> Step:
    wait = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, wait.set)
    return Step(text, wait=wait)


async def test_r11_slow_hosts(tenant: Tenant, outbound: Any, admin: asyncpg.Connection) -> None:
    port = free_port()
    hold = asyncio.Event()
    scripts: dict[str, dict[str, Any]] = {
        "banner": {"greeting": lambda _: Step("220 hello", drip=MINUTE / 4)},  # ten octets in two and a half minutes
        "drip": {phase: lambda _: Step("250 2.0.0 ok", drip=MINUTE / 20) for phase in ("mail", "rcpt", "dot")},
        "nine": {"dot": lambda _: _after(9 * MINUTE, "250 2.0.0 at last")},
        "never": {"dot": lambda _: Step("250 2.0.0 too late", wait=hold)},
    }
    zones: dict[str, dict[str, list[str]]] = {"quick.example": {"A": ["127.78.0.1"]}}
    async with AsyncExitStack() as stack:
        quick = await stack.enter_async_context(SmtpServer(host="127.78.0.1", port=port))
        slow: dict[str, SmtpServer] = {}
        for number, (name, script) in enumerate(scripts.items(), 1):
            ip = f"127.78.0.{number + 1}"
            slow[name] = await stack.enter_async_context(SmtpServer(script, host=ip, port=port))
            # a site each, or one slow host would be one slow site
            for n in range(SLOW):
                zones[f"{name}{n}.example"] = {"MX": [f"10 mx.{name}{n}.example."]}
                zones[f"mx.{name}{n}.example"] = {"A": [ip]}
        dns = await stack.enter_async_context(DnsServer(zones))
        await stack.enter_async_context(
            outbound(
                route="mx",
                mx_port=port,
                dns={"nameservers": [dns.address]},
                network={"allow": {"mx": ["127.0.0.0/8"]}},
                timeouts=TIMEOUTS,
                retry_schedule=[3600],
            )
        )
        slow_to = [f"a@{name}{n}.example" for name in scripts for n in range(SLOW)]
        await tenant.send_each([[each] for each in slow_to])
        await until(lambda: _are_held(slow), "the slow hosts have their mail")
        began = asyncio.get_running_loop().time()
        await tenant.send_each([[f"u{n}@quick.example"] for n in range(QUICK)])
        await until(lambda: _count(admin, "quick.example", "delivered", QUICK), "the others are delivered")
        took = asyncio.get_running_loop().time() - began
        waiting = await admin.fetchval(
            "SELECT count(*) FROM deliveries WHERE state = 'queued' AND recipient LIKE 'a@nine%'"
        )
        assert waiting == SLOW or took > 9 * MINUTE, "the others came first"
        for name in ("banner", "drip", "nine"):
            await until(lambda name=name: _count(admin, f"{name}%", "delivered", SLOW), f"{name}: delivered late")
        # eleven minutes: nobody knows, and it is not sent again before its time
        unsure = "SELECT count(*) = $1 FROM attempts WHERE rule = 'reply-lost'"
        await until(lambda: admin.fetchval(unsure, SLOW), "never: given up")
        hold.set()
        copies = Counter(r for server in (quick, *slow.values()) for r in server.recipients)
    assert len(copies) == QUICK + len(slow_to)
    assert set(copies.values()) == {1}, "nothing twice"
    rows = await admin.fetch("SELECT outcome, rule FROM attempts")
    assert Counter((row["outcome"], row["rule"]) for row in rows) == {
        ("delivered", None): QUICK + 3 * SLOW,
        ("deferred", "reply-lost"): SLOW,
    }


async def _are_held(slow: dict[str, SmtpServer]) -> bool:
    return len(slow["nine"].caught) == SLOW and len(slow["never"].caught) == SLOW


async def _count(admin: asyncpg.Connection, domain: str, state: str, wanted: int) -> bool:
    return bool(
        await admin.fetchval(
            "SELECT count(*) = $3 FROM deliveries WHERE state = $2 AND recipient LIKE '%@' || $1", domain, state, wanted
        )
    )


async def test_r11_mail_behind_a_slow_dot_goes_another_way(tenant: Tenant, outbound: Any) -> None:
    """One site: a mail that its host ponders for nine minutes keeps nobody else waiting."""

    def dot(talk: Talk) -> Step | None:
        return _after(9 * MINUTE, "250 2.0.0 at last") if talk.recipient.startswith("slow") else None

    async with SmtpServer({"dot": dot}) as server, outbound(server, timeouts=TIMEOUTS, retry_schedule=[3600]):
        slow = await tenant.send("slow@one.example")
        ids = await tenant.send_each([[f"u{n}@one.example"] for n in range(50)])
        for email_id in ids:
            await tenant.state(email_id, "delivered")
        assert (await tenant.delivery(slow))["state"] == "queued"
        await tenant.state(slow, "delivered")
    assert set(Counter(server.recipients).values()) == {1}
