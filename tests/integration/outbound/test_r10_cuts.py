"""R10: the network is cut at each phase of SMTP, by FIN and by RST.

Wanted: nothing is lost; the next host is tried before the final dot and not after it; second copies only where the cut came after
the dot, as many as cuts, every one marked. A small mail leaves in one write with its dot: a cut within it may be after the dot, and
counts as such. POSTROOM_TEST_EACH=200 for the plan's number.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer, Step, Talk
from integration.outbound.harness import Tenant, until
from integration.transport.harness import deliver, mail, to
from mailcore.smtp.outcome import Result
from peers import free_port

EACH = int(os.environ.get("POSTROOM_TEST_EACH", "25"))
BEFORE = ("connect", "greeting", "ehlo", "mail", "rcpt", "data", "content")
CUTS = (Step(cut=True), Step(cut=True, reset=True))
WAYS = {"DATA": ("PIPELINING", "SIZE"), "BDAT": ("PIPELINING", "SIZE", "CHUNKING"), "lock-step": ("SIZE",)}


def cutting(phase: str, step: Step, extensions: tuple[str, ...] = WAYS["DATA"], **where: Any) -> SmtpServer:
    """A host that cuts every connection at that phase."""
    return SmtpServer({"greeting" if phase == "connect" else phase: step}, extensions=extensions, **where)


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("phase", BEFORE)
async def test_r10_before_the_dot_the_next_host_gets_it(phase: str, way: str) -> None:
    if phase == "data" and way == "BDAT":
        phase = "bdat"
    # a mail that goes in one write may be whole at a host that cuts within its content: only in a large one that is before the dot
    large = phase in ("content", "bdat")
    content = b"Subject: x\r\n\r\n" + (b"x" * 78 + b"\r\n") * (100_000 if large else 1)  # more than sockets hold
    each = EACH // (25 if large else 5) or 1
    for step in CUTS:
        async with cutting(phase, step, WAYS[way]) as bad, SmtpServer(extensions=WAYS[way]) as good:
            for n in range(each):
                run = await deliver(to(bad, good), [mail(f"m{n}", content)])
                assert (run[f"m{n}"].result, run[f"m{n}"].mx_host) == (Result.DELIVERED, "mx1.test")
            assert bad.caught == []
            assert len(good.caught) == each


@pytest.mark.parametrize("way", list(WAYS))
async def test_r10_after_the_dot_no_other_host_gets_it(way: str) -> None:
    each = EACH // 5 or 1
    for step in CUTS:
        async with cutting("dot", step, WAYS[way]) as bad, SmtpServer(extensions=WAYS[way]) as good:
            for n in range(each):
                outcome = (await deliver(to(bad, good), [mail(f"m{n}")]))[f"m{n}"]
                assert (outcome.result, outcome.rule, outcome.dot_sent) == (Result.DEFERRED, "reply-lost", True)
            assert len(bad.caught) == each
            assert good.talks == []


class Once:
    """Cuts half of the mails, each the first time that it comes so far."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self.cut: set[str] = set()

    def __call__(self, talk: Talk) -> Step | None:
        name = talk.recipient
        if name in self.cut or int(name[1 : name.index("@")]) % 2:
            return None
        self.cut.add(name)
        return self._step


async def test_r10_counts(tenant: Tenant, outbound: Any, admin: asyncpg.Connection) -> None:
    """The whole way, with rows and retries: each phase a domain with two hosts, the better one cuts; after the dot both."""
    before, unsure = BEFORE[:-1], ("content", "dot")
    port = free_port()
    zones: dict[str, dict[str, list[str]]] = {}
    once = {phase: Once(CUTS[n]) for n, phase in enumerate(unsure)}
    async with AsyncExitStack() as stack:
        servers: dict[str, SmtpServer] = {}
        for number, phase in enumerate((*before, *unsure), 1):
            first, second = f"127.77.{number}.1", f"127.77.{number}.2"
            zones[f"{phase}.example"] = {"MX": [f"10 a.{phase}.example.", f"20 b.{phase}.example."]}
            zones[f"a.{phase}.example"] = {"A": [first]}
            zones[f"b.{phase}.example"] = {"A": [second]}
            servers[second] = SmtpServer({phase: once[phase]} if phase in once else {}, host=second, port=port)
            if phase in once:
                servers[first] = SmtpServer({phase: once[phase]}, host=first, port=port)
            elif phase != "connect":  # there nobody listens: the kernel answers with RST
                servers[first] = cutting(phase, CUTS[number % 2], host=first, port=port)
        for server in servers.values():
            await stack.enter_async_context(server)
        dns = await stack.enter_async_context(DnsServer(zones))
        await stack.enter_async_context(
            outbound(
                route="mx",
                mx_port=port,
                dns={"nameservers": [dns.address]},
                network={"allow": {"mx": ["127.0.0.0/8"]}},
                retry_schedule=[0.3] * 2000,
            )
        )
        recipients = [f"u{n}@{phase}.example" for phase in (*before, *unsure) for n in range(EACH)]
        await tenant.send_each([[each] for each in recipients])
        await until(
            lambda: admin.fetchval("SELECT NOT EXISTS (SELECT FROM queue)"), "everything is settled", 60 + 2 * EACH
        )
        kept = Counter(name for server in servers.values() for name in server.recipients)
    states = await admin.fetch("SELECT recipient, state, possible_duplicate FROM deliveries")
    assert Counter(row["state"] for row in states) == {"delivered": len(recipients)}
    assert set(kept) == set(recipients), "lost"
    assert all(len(each.cut) == (EACH + 1) // 2 for each in once.values())
    assert {name for name, copies in kept.items() if copies > 1} == once["dot"].cut, (
        "second copies: one a cut after the dot"
    )
    assert max(kept.values()) == 2
    marked = {row["recipient"] for row in states if row["possible_duplicate"]}
    assert marked == once["dot"].cut | once["content"].cut, "each is marked, and so is what may have been one"
    attempts = await admin.fetch("SELECT mx_host, outcome, rule FROM attempts")
    lost = Counter(row["mx_host"].partition(".")[2] for row in attempts if row["rule"] == "reply-lost")
    assert lost == {f"{phase}.example": len(once[phase].cut) for phase in unsure}, "one attempt each, at one host"
    delivered = Counter(row["mx_host"] for row in attempts if row["outcome"] == "delivered")
    assert {host: count for host, count in delivered.items() if host.partition(".")[2].partition(".")[0] in before} == {
        f"b.{phase}.example": EACH for phase in before
    }


async def test_r10_this_test_can_fail() -> None:
    """A host that keeps the mail before it cuts at an earlier phase would be seen."""
    seen = asyncio.Event()

    def keeps(talk: Talk) -> Step:
        seen.set()
        return Step(cut=True)

    async with SmtpServer({"dot": keeps}) as bad, SmtpServer() as good:
        run = await deliver(to(bad, good), [mail("a")])
        assert seen.is_set()
        assert run["a"].result is not Result.DELIVERED
        assert (bad.recipients, good.recipients) == (["a@peer.test"], [])
