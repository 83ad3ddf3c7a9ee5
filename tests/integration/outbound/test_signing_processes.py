"""Mail that is composed and signed in child processes, as it is by default; the other tests have threads for it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from typing import Any

import dkim
import pytest

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, until
from outbound.paces import Paces
from outbound.settings import OutboundGroup

KILLS = 12
CHANCE = random.Random(4)


def children() -> set[int]:
    """Processes of this one that sign."""
    listed = ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())]
    lines = subprocess.run(listed, capture_output=True, text=True, check=False).stdout.splitlines()
    return {int(line.split()[0]) for line in lines if "outbound.signing" in line}


def test_they_are_there_unless_told_otherwise() -> None:
    assert OutboundGroup().signing_processes == 2


async def test_mail_is_signed_and_they_end_with_the_service(tenant: Tenant, sink: SmtpServer, outbound: Any) -> None:
    before = children()
    async with outbound(sink, signing_processes=2):
        assert len(children() - before) == 2
        await tenant.state(await tenant.send("a@example.com"), "delivered")
        text = await tenant.admin.fetchval("SELECT public_txt FROM dkim_keys WHERE algorithm = 'rsa-sha256' LIMIT 1")
        (mail,) = sink.caught
        assert dkim.verify(mail.content, dnsfunc=lambda name, timeout=5: text.encode())
    assert children() <= before


async def test_they_are_killed_again_and_again_and_no_mail_is_lost(
    tenant: Tenant, sink: SmtpServer, outbound: Any
) -> None:
    """At worst a mail whose process was killed twice waits for its next attempt: here a tenth of a second."""
    killed = sent = 0
    async with outbound(sink, Paces(signers_again=0.0), signing_processes=2, retry_schedule=[0.1] * 10):

        async def kill() -> None:
            nonlocal killed
            while True:
                await asyncio.sleep(CHANCE.uniform(0.2, 1.5))  # some are hit as they start, some at work, some idle
                for pid in children():
                    os.kill(pid, signal.SIGKILL)
                    killed += 1

        killing = asyncio.create_task(kill())
        try:
            while killed < KILLS:
                await tenant.send_each([[f"r{n}@example.com"] for n in range(sent, sent + 50)])
                sent += 50
                await asyncio.sleep(0.1)
        finally:
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)

        async def all_delivered() -> bool:
            found = await tenant.admin.fetchval("SELECT count(*) FROM deliveries WHERE state = 'delivered'")
            return bool(found == sent)

        await until(all_delivered, "all are delivered")
    assert sorted(rcpt for mail in sink.caught for rcpt in mail.rcpt_to) == sorted(
        f"r{n}@example.com" for n in range(sent)
    )


@pytest.mark.parametrize("processes", [0, 1])
async def test_a_large_mail_beside_small_ones(tenant: Tenant, sink: SmtpServer, outbound: Any, processes: int) -> None:
    async with outbound(sink, signing_processes=processes):
        large = await tenant.send("large@example.com", html="<p>x</p>\n" * 300_000)
        small = await tenant.send("small@example.com")
        await tenant.state(large, "delivered")
        await tenant.state(small, "delivered")
