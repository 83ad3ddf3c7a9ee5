"""A domain that refuses spam and malware, at the MX: the reply to the dot says so, and what is taken is not scanned twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from inbound_smtp.checks.scanning import ScansBeforeReply
from inbound_smtp.router import Router
from mailcore.blob.base import BlobStore
from mailcore.flow.lease import WorkerLease
from mailcore.flow.parse import Reader
from mailcore.flow.route import Routes
from mailcore.flow.scan import Scans
from mailcore.queue.bell import Ringer
from mailcore.scanners.base import Finding, Kind, Verdict
from mailcore.scanners.null import NullScanner
from mailcore.scanners.registry import Configured
from mailcore.store.session import Store

from .harness import Server

MAIL = b"From: a@sender.example\r\nSubject: %s\r\n\r\nHello\r\n"
TO = "bob@postroom.test"


@pytest.fixture
async def clamd() -> NullScanner:
    found = {b"worm": Finding("clamd", Verdict.INFECTED, tags=("Worm\r\n250 Ok",))}
    return NullScanner(found, name="clamd", kind=Kind.MALWARE)


@pytest.fixture
async def scanning(server: Server, store: Store, clamd: NullScanner, domain: UUID) -> AsyncIterator[Scans]:
    scans = Scans(store, [Configured(clamd, False)])
    server.mx.scans = ScansBeforeReply(scans, Reader())
    yield scans


async def test_d23_malware_is_refused_before_the_reply(
    server: Server, scanning: Scans, clamd: NullScanner, admin: asyncpg.Connection
) -> None:
    assert (await server.deliver(MAIL % b"worm one", TO))[0] == 250  # nobody refuses
    assert clamd.scanned == []
    await admin.execute("UPDATE domains SET malware_action = 'reject'")
    scanning.policies._of._known.clear()
    code, text = await server.deliver(MAIL % b"worm two", TO)
    assert (code, text) == (550, "5.7.1 The mail holds malware: Worm  250 Ok.")
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 1
    large = MAIL % b"worm three" + b"x" * 70 + b"\r\n" + b"y" * 600_000 + b"\r\n"
    assert (await server.deliver(large, TO))[0] == 550


async def test_what_the_session_scanned_is_not_scanned_again(
    server: Server,
    scanning: Scans,
    clamd: NullScanner,
    admin: asyncpg.Connection,
    store: Store,
    ringer: Ringer,
    blobs: BlobStore,
    lease: WorkerLease,
) -> None:
    await admin.execute("UPDATE domains SET malware_action = 'reject'")
    assert (await server.deliver(MAIL % b"hello", TO))[0] == 250
    (facts,) = clamd.scanned
    assert (facts.client_ip, facts.rcpt_to, facts.hostname) == ("127.0.0.1", (TO,), "mx.postroom.test")
    router = Router(store, lease, Routes(store, ringer, blobs, scans=scanning), batch=50)
    while await router.work(None):
        pass
    row = await admin.fetchrow("SELECT * FROM arrivals")
    assert (row["state"], [one["verdict"] for one in row["findings"]]) == ("routed", ["clean"])
    assert [one["decision"] for one in row["decisions"] if one["step"] == "scan"] == ["clean"]
    assert len(clamd.scanned) == 1


async def test_each_domain_is_asked_for_its_own_points(
    server: Server,
    store: Store,
    org: UUID,
    domain: UUID,
    make_org: Callable[[], Awaitable[UUID]],
    make_domain: Callable[[UUID, str], Awaitable[UUID]],
    admin: asyncpg.Connection,
) -> None:
    """One mail to two organizations: neither sees the other's domains, and both are honoured."""
    other = await make_org()
    await make_domain(other, "other.test")
    await admin.execute("UPDATE domains SET spam_score = 20, unsure_score = 15, spam_action = 'reject'")
    spamd = NullScanner({b"offer": Finding("spamd", Verdict.SPAM, 13.0)}, name="spamd")
    scans = ScansBeforeReply(Scans(store, [Configured(spamd, False)]), Reader())
    scanned = await scans.ask(
        MAIL % b"offer",
        source="192.0.2.7",
        mail_from="a@sender.example",
        facts={},
        auth=None,
        tenants={org: [TO], other: ["eve@other.test"]},
    )
    assert scanned.refused is None
    assert [one["decision"] for one in scanned.decisions] == ["clean"]  # 13 points of 20


async def test_c6_a_client_does_not_wait_for_its_turn_for_ever(
    server: Server, scanning: Scans, clamd: NullScanner, admin: asyncpg.Connection
) -> None:
    await admin.execute("UPDATE domains SET malware_action = 'reject'")
    server.mx.scans = ScansBeforeReply(scanning, Reader(), seconds=0.2)
    clamd.takes = clamd.seconds = 600.0
    async with asyncio.timeout(60):
        assert (await server.deliver(MAIL % b"worm", TO))[0] == 250
    assert await admin.fetchval("SELECT findings IS NULL AND state = 'received' FROM arrivals")


async def test_c6_a_scanner_that_is_away_refuses_nothing(
    server: Server, scanning: Scans, clamd: NullScanner, admin: asyncpg.Connection
) -> None:
    await admin.execute("UPDATE domains SET malware_action = 'reject'")
    clamd.away = True
    assert (await server.deliver(MAIL % b"worm", TO))[0] == 250
    assert await admin.fetchval("SELECT state FROM arrivals") == "received"
