"""outbound dies once at each named place (reliability.md, failpoints f5 to f12), and another one goes on with its work."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from faults.harness import ROOT, fsync_sink
from integration.conftest import free_port
from mailcore.blob.local import LocalBlobs
from mailcore.flow.submit import NewEmail, Submits
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import Address
from mailcore.store.session import Store

N = 12
CONNECTIONS = 4
# f5 after the lease, f6 after connect, f7 after RCPT, f8 before the content, f9 dot_sent written and the dot not sent, f10 dot sent
# and no reply read, f11 250 read and not committed, f12 committed and webhooks not rung
BEFORE_THE_DOT = ("f5", "f6", "f7", "f8")
MARKED_WITHOUT_NEED = ("f9",)
MAY_REPEAT = ("f10", "f11")


class Outbound:
    def __init__(self, env: dict[str, str], log: Path) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("POSTROOM_")}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "outbound"], env={**inherited, **env}, cwd=ROOT, stdout=output, stderr=output
            )

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(90)


@pytest.mark.parametrize("place", ["f5", "f6", "f7", "f8", "f9", "f10", "f11", "f12"])
async def test_a_death_there_loses_nothing(
    place: str, tmp_path: Path, store: Store, admin: asyncpg.Connection, ringer: Ringer, org: UUID, domain: UUID,
    database_url: str, redis_url: str,
) -> None:  # fmt: skip
    submits = Submits(store, ringer, LocalBlobs(tmp_path / "blobs"))
    recipients = [Address(f"r{n}", "example.org") for n in range(N)]
    emails = [
        NewEmail("us@postroom.test", "postroom.test", [str(to)], [to], "Hello", text="x", headers={"X-Seq": str(n)})
        for n, to in enumerate(recipients)
    ]
    ids = (await submits.submit(org, emails, door="test")).ids
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
        "POSTROOM_OUTBOUND__MAX_CONNECTIONS": str(CONNECTIONS),
        "POSTROOM_QUEUE__LEASE_SECONDS": "60",
        "POSTROOM_QUEUE__SWEEP_SECONDS": "0.3",
    }
    with fsync_sink(tmp_path, port, 0.1) as log:
        dying = Outbound({**env, "POSTROOM_FAILPOINT": place}, tmp_path / "outbound.log")
        assert dying.process.wait(60) == 137, (tmp_path / "outbound.log").read_text()[-2000:]
        after_death = await admin.fetch("SELECT worker, dot_sent FROM queue")
        # a lease so short that it ended by itself would end for who is only slow, too
        await admin.execute("UPDATE workers SET heartbeat_at = now() - interval '1 hour'")
        heir = Outbound(env, tmp_path / "outbound.log")
        try:
            await _until_empty(admin)
        finally:
            assert heir.stop() == 0, (tmp_path / "outbound.log").read_text()[-2000:]
        copies = Counter(int(json.loads(line)["seq"]) for line in log.read_text().splitlines())
    assert set(copies) == set(range(N)), "loss"
    rows = {row["email_id"]: row for row in await admin.fetch("SELECT * FROM deliveries")}
    assert {row["state"] for row in rows.values()} == {"delivered"}
    marked = {n for n, id_ in enumerate(ids) if rows[id_]["possible_duplicate"]}
    repeated = {n for n, count in copies.items() if count > 1}
    print(
        f"{place}: repeated {len(repeated)}, marked {len(marked)}, leased at the death {sum(1 for r in after_death if r['worker'])}"
    )
    assert repeated <= marked, "a silent repeat"
    assert max(copies.values()) <= 2
    if place in BEFORE_THE_DOT:
        assert any(row["worker"] for row in after_death)
        if place in ("f5", "f6"):
            assert marked == set()
    elif place in MARKED_WITHOUT_NEED or place in MAY_REPEAT:
        assert marked
    if place in MAY_REPEAT:
        assert repeated
    if place == "f12":
        assert len(after_death) < N, "nothing was committed before the death"
    finals = await admin.fetch("SELECT object_id, count(*) AS n FROM events WHERE type = 'email.delivered' GROUP BY 1")
    assert {row["object_id"]: row["n"] for row in finals} == dict.fromkeys(ids, 1)


async def _until_empty(admin: asyncpg.Connection) -> None:
    async with asyncio.timeout(60):
        while await admin.fetchval("SELECT EXISTS (SELECT FROM queue)"):
            await asyncio.sleep(0.05)
