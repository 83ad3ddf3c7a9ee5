"""Values of choosing a source: what asks for one, in which order sources are tried, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from mailcore.store.contents import Content
from mailcore.store.deliveries import Key, Leased
from mailcore.store.sources import KnownPool, KnownSource, KnownWarmup
from mailcore.store.waiting import TRANSACTIONAL_TURN


@dataclass(frozen=True, slots=True)
class Source:
    ip4: str | None = None
    """Local address to bind towards IPv4 hosts …"""
    ip6: str | None = None
    """… and IPv6 ones. Neither: the system chooses."""
    ehlo: str | None = None
    """None: the process's own name."""
    id: UUID | None = None
    """None: of no pool."""

    @classmethod
    def of(cls, ip: str | None) -> Source:
        """That address of either family, or whatever the system chooses."""
        return cls(ip6=ip) if ip is not None and ":" in ip else cls(ip)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    source: Source
    day: date
    capped: tuple[UUID, ...] = ()
    """Warm-ups of whose shares it took one …"""
    counted: tuple[UUID, ...] = ()
    """… and those that are told what became of it …"""
    domain: UUID | None = None
    """… of which this is the sending domain's."""


Work = tuple[Content, int, Sequence[Leased]]
"""An email, its class, and those of its deliveries that are leased."""


@dataclass(frozen=True, slots=True)
class Placed:
    placements: dict[Key, Placement]
    waiting: list[Leased]
    """Put off: they are not leased any more."""


@dataclass(frozen=True, slots=True)
class Order:
    """Of a pool, what can be used for one way, those that had the fewest mails first."""

    pool: KnownPool
    warming: tuple[KnownSource, ...]
    warm: tuple[KnownSource, ...]
    stuck: bool
    """None can, though not all are paused: of another family, on another host, refused by the site. Room would not help …"""
    partly: bool
    """… or some cannot."""


@dataclass(frozen=True, slots=True)
class Asking:
    row: Leased
    turn: int
    pool: KnownPool | None
    order: tuple[KnownSource, ...]
    """To be tried one after another."""
    domain: KnownWarmup | None
    yields: float = 0.0
    """Seconds in which room is left to others …"""
    unreached: bool = False
    """… or of no use to it: no source of the pool can bring it to the site."""
    partly: bool = False
    """Some source of the pool cannot bring it there, whatever room it has."""
    stays: bool = False
    """It takes no other way out than ours: a provider's API promises no TLS from there on (RFC 8689)."""

    @property
    def broadcast(self) -> bool:
        return self.turn != TRANSACTIONAL_TURN
