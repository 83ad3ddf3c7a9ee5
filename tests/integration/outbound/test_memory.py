"""The process holds a bounded amount of mail, whatever waits, and gives all of it back."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from fakes.smtp_server import SmtpServer, Step, Talk
from integration.outbound.harness import Tenant, until
from mailcore.flow.submit import NewAttachment
from outbound.memory import Memory, weight

MIB = 1024 * 1024
BUDGET = 16 * MIB
LARGE = 2 * MIB
FIT = BUDGET // 2 // weight(LARGE)


class Memories(list[Memory]):
    """Those that the service makes."""

    def __call__(self, octets: int) -> Memory:
        self.append(Memory(octets))
        return self[-1]


@pytest.fixture
def memories() -> Memories:
    return Memories()


def _file(octets: int) -> NewAttachment:
    return NewAttachment(os.urandom(octets), "application/octet-stream", "large.bin")


def _holding_large(leave: asyncio.Event) -> Any:
    def dot(talk: Talk) -> Step | None:
        return Step("250 2.0.0 ok", wait=leave) if talk.recipient.startswith("large") else None

    return dot


async def _is_full(sink: SmtpServer, memories: Memories) -> bool:
    """One large mail waits for its reply, and no other fits in."""
    full = memories[0].heavy.held >= FIT * weight(LARGE)
    return full and any(talk.received >= LARGE for talk in sink.talks)


async def _large(tenant: Tenant, n: int) -> Any:
    return [await tenant.send(f"large{i}@example.com", attachments=[_file(LARGE)]) for i in range(n)]


async def test_large_mails_take_turns_and_small_ones_pass_them(
    tenant: Tenant, sink: SmtpServer, outbound: Any, memories: Memories, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    leave = asyncio.Event()
    sink.script["dot"] = _holding_large(leave)
    ids = await _large(tenant, 12)
    body = await tenant.send("body@example.com", html="<p>" + "large " * 600_000 + "</p>", text="")
    (lost,) = await _large(tenant, 1)
    key = await admin.fetchval("SELECT attachments->0->>'blob' FROM emails WHERE id = $1", lost)
    (tmp_path / "blobs" / key).unlink()
    async with outbound(sink, memory=memories, memory_bytes=BUDGET):
        await until(lambda: _is_full(sink, memories), "as many large mails as fit are held")
        (memory,) = memories
        huge = await tenant.send("a@huge.example", "b@huge.example", attachments=[_file(9 * MIB)])
        small = await tenant.send("small@example.com")
        await tenant.state(small, "delivered")
        assert FIT * weight(LARGE) <= memory.heavy.held <= memory.heavy.most
        assert (await tenant.delivery(ids[-1]))["state"] == "queued"
        leave.set()
        for id_ in (*ids, body, huge):
            await tenant.state(id_, "delivered")
        await tenant.state(huge, "delivered", 1)
        await until(lambda: tenant.attempts(lost), "the attempt without content")
    assert (await tenant.attempts(lost))[0]["rule"] == "content-unavailable"
    assert memory.heavy.held == memory.light.held == 0
    assert weight(9 * MIB) <= memory.heavy.peak <= weight(9 * MIB + 1024)  # alone, beside nothing else
    assert memory.light.peak <= memory.light.most
    # of every mail one copy a recipient, whole
    assert len(sink.caught) == 12 + 1 + 2 + 1


async def test_what_waits_for_memory_goes_back_when_the_process_drains(
    tenant: Tenant, sink: SmtpServer, outbound: Any, memories: Memories, admin: asyncpg.Connection
) -> None:
    leave = asyncio.Event()
    sink.script["dot"] = _holding_large(leave)
    await _large(tenant, 8)

    async def free() -> bool:
        count = await admin.fetchval("SELECT count(*) FROM queue WHERE worker IS NULL AND attempt = 0")
        return bool(count >= 8 - FIT)

    async with outbound(sink, memory=memories, memory_bytes=BUDGET) as drain:
        await until(lambda: _is_full(sink, memories), "as many large mails as fit are held")
        draining = asyncio.ensure_future(drain())
        await until(free, "the others are free, while those still wait")
        leave.set()
        await draining
    assert memories[0].heavy.held == memories[0].light.held == 0
    delivered = await admin.fetchval("SELECT count(*) FROM deliveries WHERE state = 'delivered'")
    assert 1 <= delivered == len(sink.caught) <= FIT
    left = await admin.fetch("SELECT worker, attempt FROM queue")
    assert [tuple(row) for row in left] == [(None, 0)] * (8 - delivered)


async def test_a_site_that_cannot_be_reached_keeps_no_memory(
    tenant: Tenant, sink: SmtpServer, outbound: Any, memories: Memories, admin: asyncpg.Connection
) -> None:
    sink.script["greeting"] = Step("554 5.3.2 no", cut=True)
    await _large(tenant, 6)
    async with outbound(sink, memory=memories, memory_bytes=BUDGET):

        async def rests() -> bool:
            held = await admin.fetchval("SELECT count(*) FROM queue WHERE worker IS NOT NULL")
            return bool(held == 0 and await admin.fetchval("SELECT bool_or(failures > 0) FROM sites"))

        await until(rests, "the site rests and all its rows are free")
        assert memories[0].heavy.held == memories[0].light.held == 0
        sink.script.clear()
        await admin.execute("UPDATE sites SET suspended_until = NULL; UPDATE queue SET due_at = now()")

        async def all_caught() -> bool:
            return len(sink.caught) == 6

        await until(all_caught, "all are delivered")
    assert memories[0].heavy.held == 0
