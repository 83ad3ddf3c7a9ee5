"""What people report is really learned by SpamAssassin and by rspamd (F-24)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from fakes.scanner_daemons import Daemon
from mailcore.blob.base import BlobStore
from mailcore.flow import training
from mailcore.flow.training import Pupil, Trainings
from mailcore.mime.parse import Message
from mailcore.queue.bell import Ringer
from mailcore.scanners.base import Facts
from mailcore.scanners.registry import operators_client
from mailcore.scanners.rspamd import Rspamd
from mailcore.scanners.spamd import Spamd
from mailcore.scanners.wire import Address
from mailcore.store.session import Store
from peers import free_port, peer
from stack import traversable

from .harness import Desk, MakeDesk, mail

PILLS = b"Cheap wonder pills from our warehouse, order the golden pharmacy discount before midnight and never pay postage again %d"
MINUTES = b"Please find the minutes of the choir rehearsal, the tenors asked for another evening in the small chapel next week %d"


def _learning(folder: Path, server: str) -> tuple[Daemon, int]:
    """The controller of an rspamd that learns after a few mails, and the port of its scanner.

    What it learned lies in Redis, as where people run it: with files, two workers that start at once may both make one, and one is
    left without.
    """
    redis = urlsplit(server)
    traversable(folder)
    folder.chmod(0o777)
    port, controller = free_port(), free_port()
    (folder / "tld.dat").write_text("com\norg\ntest\nexample\n")
    (folder / "rspamd.conf").write_text(
        f'options {{ url_tld = "{folder}/tld.dat"; filters = "chartable"; disable_hyperscan = true; tempdir = "{folder}";\n'
        "  task_timeout = 60s;\n"
        '  dns { nameserver = ["127.0.0.1:9"]; timeout = 0.3s; retransmits = 1; } }\n'
        'logging { type = "console"; level = "notice"; }\n'
        "actions { reject = 15; add_header = 6; greylist = 4; }\n"
        f'worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}\n'
        f'worker "controller" {{ bind_socket = "127.0.0.1:{controller}"; count = 1; password = "q1"; secure_ip = "127.0.0.1"; }}\n'
        'classifier "bayes" { tokenizer { name = "osb"; } backend = "redis"; min_learns = 2; min_tokens = 1;\n'
        f'  servers = "{redis.hostname}:{redis.port}"; password = "{redis.password}"; db = "1"; cache {{ type = "redis"; }}\n'
        "  timeout = 30s;\n"
        '  statfile { symbol = "BAYES_HAM"; spam = false; }\n'
        '  statfile { symbol = "BAYES_SPAM"; spam = true; } }\n'
    )
    places = [f"--var={name}={folder}" for name in ("DBDIR", "RUNDIR", "LOGDIR")]
    account = ["-u", "nobody", "-g", "nogroup"] if os.getuid() == 0 else []
    argv = [peer("rspamd"), "-f", "-i", "-c", str(folder / "rspamd.conf"), *places, *account]
    return Daemon(argv, controller, folder / "rspamd.log", (port,)), port


@pytest.fixture
def learning(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[tuple[Daemon, int]]:
    daemon, port = _learning(tmp_path_factory.mktemp("learning"), redis_server)
    daemon.start()
    try:
        yield daemon, port
    finally:
        daemon.kill()


@pytest.fixture
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One whose Redis is away."""
    daemon, _ = _learning(tmp_path_factory.mktemp("forgetful"), f"redis://:ring@127.0.0.1:{free_port()}/0")
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.kill()


def facts(raw: bytes) -> Facts:
    return Facts(
        "1", "192.0.2.9", "x.example", "ann@sender.example", ("b@postroom.test",), len(raw), Message(raw).summary()
    )


async def reported(desk: Desk, store: Store, ringer: Ringer, text: bytes, *, spam: bool) -> tuple[UUID, bytes]:
    raw = mail(text)
    arrival = await desk.deliver(raw)
    message: UUID = await desk.admin.fetchval("SELECT id FROM messages WHERE arrival_id = $1", arrival)
    assert await training.report(store, ringer, desk.org, message, spam=spam, by=None) is not None
    return message, raw


async def test_spamassassin_learns_what_is_reported(
    make_desk: MakeDesk, store: Store, ringer: Ringer, blobs: BlobStore, spamd: Daemon
) -> None:
    desk, scanner = make_desk(), Spamd(Address("127.0.0.1", spamd.port), seconds=60)
    trainings = Trainings(store, blobs, [Pupil("spamd", scanner, scanner.max_bytes)])
    message, raw = await reported(desk, store, ringer, PILLS % 0, spam=True)
    await trainings.teach(str(message))
    row = await desk.admin.fetchrow("SELECT state, learned FROM trainings")
    assert (row["state"], row["learned"]) == ("done", [{"scanner": "spamd", "learned": True}])
    assert not await scanner.learn(raw, spam=True), "it knows"
    assert await scanner.learn(raw, spam=False), "as spam"


async def test_rspamd_learns_what_is_reported_and_says_so_of_the_next_mail(
    make_desk: MakeDesk, store: Store, ringer: Ringer, blobs: BlobStore, learning: tuple[Daemon, int]
) -> None:
    daemon, port = learning
    scanner = Rspamd(
        operators_client(), f"http://127.0.0.1:{port}", controller=f"http://127.0.0.1:{daemon.port}", seconds=60
    )
    desk = make_desk()
    trainings = Trainings(store, blobs, [Pupil("rspamd", scanner, scanner.max_bytes)])
    before = mail(PILLS % 100)
    assert not {"BAYES_SPAM", "BAYES_HAM"} & set((await scanner.scan(before, facts(before))).tags)
    for n in range(4):
        await reported(desk, store, ringer, PILLS % n, spam=True)
        await reported(desk, store, ringer, MINUTES % n, spam=False)
    assert await trainings.sweep() == 8
    rows = await desk.admin.fetch("SELECT state, reason, learned FROM trainings")
    assert {row["state"] for row in rows} == {"done"}, [dict(row) for row in rows]
    assert all(row["learned"] == [{"scanner": "rspamd", "learned": True}] for row in rows)
    for text, symbol in ((PILLS, "BAYES_SPAM"), (MINUTES, "BAYES_HAM")):
        after = mail(text % 100)
        assert symbol in (await scanner.scan(after, facts(after))).tags
    await desk.admin.execute("UPDATE trainings SET state = 'waiting', due_at = now(), learned = '[]'")
    await trainings.sweep()
    again = await desk.admin.fetch("SELECT state, learned FROM trainings")
    told = {"scanner": "rspamd", "learned": False, "note": "It knew already."}
    assert [(row["state"], row["learned"]) for row in again] == [("done", [told])] * 8
    await scanner.close()


async def test_a_report_waits_while_the_redis_of_rspamd_is_away(
    make_desk: MakeDesk, store: Store, ringer: Ringer, blobs: BlobStore, forgetful: Daemon
) -> None:
    """It then answers with a status that HTTP does not have."""
    desk, scanner = make_desk(), Rspamd(operators_client(), controller=f"http://127.0.0.1:{forgetful.port}")
    await reported(desk, store, ringer, PILLS % 0, spam=True)
    assert await Trainings(store, blobs, [Pupil("rspamd", scanner, scanner.max_bytes)]).sweep() == 1
    row = await desk.admin.fetchrow("SELECT state, reason, due_at > now() AS later FROM trainings")
    assert (row["state"], row["later"]) == ("waiting", True)
    assert row["reason"].startswith("rspamd: ")
    await scanner.close()
