"""What all sites of a process share."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from mailcore.blob.base import BlobStore
from mailcore.dsn.verp import Verp
from mailcore.flow.lease import WorkerLease
from mailcore.kit.together import Together
from mailcore.store.deliveries import Key, Leased
from mailcore.store.session import Store
from mailcore.transport import Transport
from outbound.asks import Light, Quantum
from outbound.gate import Gate
from outbound.memory import Memory
from outbound.rest import Rests
from outbound.retry import Retries
from outbound.settler import Settler
from outbound.signer import Signer
from outbound.signers import Signers
from outbound.site_shares import SiteShares
from outbound.sources import Sources
from outbound.tls_results import TlsResults
from outbound.tracking import Tracker


@dataclass(slots=True)
class Office:
    store: Store
    blobs: BlobStore
    transport: Transport
    lease: WorkerLease
    gate: Gate
    settler: Settler
    signer: Signer
    tracker: Tracker
    signers: Signers
    claims: Together[Quantum, list[Leased]]
    contents: Together[UUID, Light | int]
    verp: Verp
    memory: Memory
    retries: Retries
    shares: SiteShares
    rests: Rests
    sources: Sources
    tls_results: TlsResults = field(default_factory=TlsResults)
    held: set[Key] = field(default_factory=set)
    """Leased by this process and not yet settled or given back."""
    draining: bool = False
