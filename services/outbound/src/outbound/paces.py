"""Times by which the service does what nobody asks it for. They are no settings: a test gives others, that it need not wait."""

from __future__ import annotations

from dataclasses import dataclass

from outbound import rest, runner, signer, signers, site_shares, sources, tls_chores


@dataclass(frozen=True, slots=True)
class Paces:
    """In seconds; each is what the constant says that it is by default."""

    spacing: float = runner.SPACING
    beat: float = site_shares.BEAT_SECONDS
    busy_first: float = rest.BUSY_FIRST
    busy_longest: float = rest.BUSY_LONGEST
    sources_tick: float = sources.TICK_SECONDS
    tls_flush: float = tls_chores.FLUSH_SECONDS
    keys_ttl: float = signer.TTL_SECONDS
    signers_again: float = signers.AGAIN_SECONDS


AS_SHIPPED = Paces()
