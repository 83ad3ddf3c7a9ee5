from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from fakes import scanner_daemons
from fakes.scanner_daemons import Daemon
from inbound_smtp.router import Router
from mailcore import blob
from mailcore.blob.base import BlobStore
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Receives
from mailcore.flow.route import Routes
from mailcore.flow.scan import Scans
from mailcore.queue.bell import Ringer
from mailcore.scanners import wire
from mailcore.scanners.base import Scanner
from mailcore.scanners.registry import Configured
from mailcore.store.session import Store
from peers import free_port
from stack import traversable

from .harness import Desk, MakeDesk


def _running(make: Callable[[Path, int], Daemon], folder: Path) -> Iterator[Daemon]:
    traversable(folder)
    daemon = make(folder, free_port())
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.kill()


@pytest.fixture(scope="session")
def spamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from _running(scanner_daemons.spamd, tmp_path_factory.mktemp("spamd"))


@pytest.fixture(scope="session")
def rspamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from _running(scanner_daemons.rspamd, tmp_path_factory.mktemp("rspamd"))


@pytest.fixture(scope="session")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from _running(scanner_daemons.clamd, tmp_path_factory.mktemp("clamd"))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return blob.open(f"file://{tmp_path}/blobs")


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is not a scanner that is away."""
    monkeypatch.setattr(wire, "CONNECT_SECONDS", 60.0)


@pytest.fixture
async def make_desk(
    admin: asyncpg.Connection, org: UUID, domain: UUID, store: Store, ringer: Ringer, blobs: BlobStore
) -> MakeDesk:
    """A switchboard whose mail these scanners look at; those in `opens` fail open."""
    lease = WorkerLease(store, "inbound_smtp")
    await lease.enrol()

    def make(*scanners: Scanner, opens: tuple[Scanner, ...] = (), at_once: int = 20, again: float = 60.0) -> Desk:
        on = [Configured(one, one in opens) for one in scanners]
        scans = Scans(store, on, at_once=at_once, again_seconds=again)
        routes = Routes(store, ringer, blobs, scans=scans)
        return Desk(admin, org, Receives(store, ringer, blobs), Router(store, lease, routes, batch=50), scans)

    return make
