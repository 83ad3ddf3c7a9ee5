"""Processes that send under a day's cap die again and again: the cap is never passed, and no mail is lost."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from uuid import UUID

import asyncpg

from faults.harness import fsync_sink
from faults.test_failpoints import Outbound
from integration.conftest import free_port
from mailcore.blob.local import LocalBlobs
from mailcore.flow import sources as flow
from mailcore.flow.submit import NewEmail, Submits
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import Address
from mailcore.store import sources
from mailcore.store.session import Store

N, CAP, KILLS = 300, 120, 6
ENROLLED = "SELECT EXISTS (SELECT FROM workers WHERE pid = $1)"


async def test_kills_never_pass_the_cap(
    tmp_path: Path, store: Store, admin: asyncpg.Connection, ringer: Ringer, org: UUID, domain: UUID,
    database_url: str, redis_url: str,
) -> None:  # fmt: skip
    async with store.worker() as db:
        pool = await sources.add_pool(db, "all", [("", 0), ("", 1)], None)
    of = {"pool_id": pool, "ipv4": "127.0.0.2", "ehlo_name": "out2.test"}
    await flow.add_source(store, of, schedule=[CAP, 10 * CAP], warm=False)
    submits = Submits(store, ringer, LocalBlobs(tmp_path / "blobs"))
    recipients = [Address(f"r{n}", f"d{n % 5}.example") for n in range(N)]
    emails = [
        NewEmail("us@postroom.test", "postroom.test", [str(to)], [to], "Hello", text="x", headers={"X-Seq": str(n)})
        for n, to in enumerate(recipients)
    ]
    port = free_port()
    env = {
        "POSTROOM_ENCRYPTION_KEY": bytes(range(32)).hex(),
        "POSTROOM_DATABASE__URL": database_url,
        "POSTROOM_REDIS__URL": redis_url,
        "POSTROOM_BLOB__URL": f"file://{tmp_path / 'blobs'}",
        "POSTROOM_OPS__PORT": "0",
        "POSTROOM_OUTBOUND__ROUTE": "catch",
        "POSTROOM_OUTBOUND__CATCH_HOST": f"127.0.0.1:{port}",
        "POSTROOM_OUTBOUND__EHLO_NAME": "outbound.test",
        "POSTROOM_OUTBOUND__MAX_CONNECTIONS": "4",
        "POSTROOM_QUEUE__LEASE_SECONDS": "1",
        "POSTROOM_QUEUE__SWEEP_SECONDS": "0.3",
    }
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    with fsync_sink(tmp_path, port, 0.05) as log:
        ids = [
            id_ for at in range(0, N, 50) for id_ in (await submits.submit(org, emails[at : at + 50], door="test")).ids
        ]
        for _ in range(KILLS):
            victim = Outbound(env, tmp_path / "outbound.log")
            await _until(admin, ENROLLED, victim.process.pid)
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            victim.process.kill()
            victim.process.wait(10)
        last = Outbound(env, tmp_path / "outbound.log")
        try:
            await _until(admin, ENROLLED, last.process.pid)
            await _until(admin, "SELECT count(*) FILTER (WHERE waits_for IS NULL) = 0 FROM queue")
        finally:
            assert last.stop() == 0, (tmp_path / "outbound.log").read_text()[-2000:]
        seqs = [int(json.loads(line)["seq"]) for line in log.read_text().splitlines()]
    copies = Counter(seqs)
    day = await admin.fetchrow("SELECT cap, leased, attempts FROM warmup_days")
    waiting = await admin.fetchval("SELECT count(*) FROM queue")
    print(f"seed {seed}: {len(seqs)} copies of {len(copies)} mails under a cap of {CAP}; {waiting} wait; {dict(day)}")
    assert len(seqs) <= CAP, "the cap was passed"
    assert day["leased"] <= CAP
    assert len(copies) + waiting >= N, "a loss"
    # what left and was not settled before its process died is not known as delivered: it waits, and is marked
    states = Counter(row["state"] for row in await admin.fetch("SELECT state FROM deliveries"))
    assert states == {"delivered": N - waiting, "queued": waiting} and len(ids) == N
    unsure = await admin.fetchval("SELECT count(*) FROM queue WHERE possible_duplicate")
    assert len(copies) - states["delivered"] <= unsure


async def _until(admin: asyncpg.Connection, sql: str, *args: object) -> None:
    async with asyncio.timeout(60):
        while not await admin.fetchval(sql, *args):
            await asyncio.sleep(0.1)
