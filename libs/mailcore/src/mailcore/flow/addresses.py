"""From which addresses mail leaves, as receivers see them: those of the pools that carry it, else the one that the settings name.

The health checks look at all of them, flow.verify at those that carry a domain's mail. Paused ones send nothing and are left out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mailcore.store import health
from mailcore.store.session import Connection

MOST = 100
"""Addresses that are looked at."""


@dataclass(frozen=True, slots=True)
class Source:
    """An address that mail leaves from, and how we greet from it."""

    ip: str
    """As the world sees it; empty: whichever the machine takes."""
    ehlo: str
    pool: str = ""
    """Its name; empty: of mail that no pool carries."""
    bound: str = ""
    """What the machine binds, where that is another address."""
    usable: bool | None = None
    """Whether a machine that sends can bind it; None: none has tried lately, or it is of no pool."""
    error: str = ""

    @property
    def public(self) -> bool:
        """Receivers see this address itself. One of loopback counts: in a laboratory its name server speaks for these."""
        ip = ipaddress.ip_address(self.ip) if self.ip else None
        return ip is not None and (ip.is_global or ip.is_loopback)

    def __str__(self) -> str:
        return f"{self.ip} (pool {self.pool})" if self.pool else self.ip


@dataclass(frozen=True, slots=True)
class Addresses:
    sources: tuple[Source, ...]
    pools: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Sending domain, empty for every one, and class of mail → the pool that carries it."""

    def of(self, domain: str, sources: Sequence[Source] | None = None) -> list[Source]:
        """Those that mail of that domain may leave from."""
        carriers = {self.pools.get((domain, class_)) or self.pools.get(("", class_)) or "" for class_ in (0, 1)}
        return [source for source in (self.sources if sources is None else sources) if source.pool in carriers]


async def addresses(db: Connection, own_ip: str | None, ehlo: str) -> Addresses:
    """`own_ip` and `ehlo`: of mail that no pool carries. Role worker."""
    pools = await health.carried(db)
    found = [Source(**row) for row in await health.sources(db, MOST)]
    if not {("", 0), ("", 1)} <= set(pools):
        found.insert(0, Source(own_ip or "", ehlo))
    return Addresses(tuple(found), pools)
