from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from inbound_smtp.recipients import Recipients
from mailcore import blob
from mailcore.blob.base import BlobStore
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Receives
from mailcore.flow.route import Routes
from mailcore.queue.bell import Ringer
from mailcore.store.session import Store

from .harness import Server, serving
from .submitting import Submitting, make_key, submitting


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return blob.open(f"file://{tmp_path}/blobs")


@pytest.fixture
async def receives(store: Store, ringer: Ringer, blobs: BlobStore) -> Receives:
    return Receives(store, ringer, blobs)


@pytest.fixture
async def server(domain: UUID, store: Store, receives: Receives) -> AsyncIterator[Server]:
    """An MX for postroom.test."""
    async with serving(Recipients(store), receives) as server:
        yield server


@pytest.fixture
async def routes(store: Store, ringer: Ringer, blobs: BlobStore) -> Routes:
    return Routes(store, ringer, blobs)


@pytest.fixture
async def lease(store: Store) -> WorkerLease:
    lease = WorkerLease(store, "inbound_smtp")
    await lease.enrol()
    return lease


@pytest.fixture
async def submission(
    domain: UUID, store: Store, ringer: Ringer, blobs: BlobStore, certificates: Path
) -> AsyncIterator[Submitting]:
    """Submission for an organization with the verified domain postroom.test."""
    async with submitting(store, ringer, blobs, certificates) as running:
        yield running


@pytest.fixture
async def token(org: UUID, admin: asyncpg.Connection) -> str:
    return await make_key(admin, org)
