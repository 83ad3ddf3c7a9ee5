"""Mail that arrives in tests of the flow: taken by the door, routed in this process, with the DNS as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.blob.base import BlobStore
from mailcore.dns.resolver import Resolver
from mailcore.dsn.verp import Verp
from mailcore.flow.authenticate import Authenticator
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Arrival, Receives
from mailcore.flow.returned import Returned
from mailcore.flow.route import Routes
from mailcore.queue.bell import Ringer
from mailcore.smtp.envelope import Envelope
from mailcore.store import arrivals
from mailcore.store.session import Store

HOSTNAME = "mx.postroom.test"


@dataclass
class Desk:
    admin: asyncpg.Connection
    org_id: UUID
    store: Store
    receives: Receives
    routes: Routes
    lease: WorkerLease

    async def take(
        self,
        raw: bytes,
        *to: str,
        mail_from: str = "x@sender.example",
        peer_ip: str = "192.0.2.1",
        helo: str = "mx.sender.example",
        auth: dict[str, Any] | None = None,
    ) -> UUID:
        recipients = to or ("someone@postroom.test",)
        envelope = Envelope(mail_from, recipients)
        facts = {"peer_ip": peer_ip, "helo": helo}
        arrival = Arrival(raw, envelope, facts, peer_ip, None, "smtp", {self.org_id: list(recipients)}, auth=auth)
        return (await self.receives.receive(arrival)).ids[self.org_id]

    async def route(self) -> int:
        """What is due, one batch."""
        async with self.store.worker() as db:
            claimed = await arrivals.claim(db, self.lease.id, 50)
        return await self.routes.route(self.lease.id, claimed)

    async def arrive(self, raw: bytes, *to: str, **more: Any) -> asyncpg.Record:
        """Taken and routed: its row."""
        id_ = await self.take(raw, *to, **more)
        await self.route()
        await self.routes.settled()
        return await self.row(id_)

    async def row(self, id_: UUID) -> asyncpg.Record:
        row = await self.admin.fetchrow("SELECT * FROM arrivals WHERE id = $1", id_)
        assert row is not None
        return row


async def desk(
    admin: asyncpg.Connection,
    org_id: UUID,
    store: Store,
    ringer: Ringer,
    blobs: BlobStore,
    resolver: Resolver,
    verp: Verp | None = None,
    patience: float = 60.0,
    dns_seconds: float = 60.0,
) -> Desk:
    """A busy machine reads no mail slowly, and no DNS is away for it, unless a test says so."""
    lease = WorkerLease(store, "inbound_smtp")
    await lease.enrol()
    routes = Routes(
        store,
        ringer,
        blobs,
        authenticator=Authenticator(resolver, HOSTNAME, seconds=dns_seconds),
        returned=Returned(store, ringer, verp) if verp is not None else None,
        patience=patience,
    )
    return Desk(admin, org_id, store, Receives(store, ringer, blobs), routes, lease)


def told(row: asyncpg.Record, step: str) -> list[str]:
    """What a step decided, in order."""
    return [each["decision"] for each in row["decisions"] if each["step"] == step]
