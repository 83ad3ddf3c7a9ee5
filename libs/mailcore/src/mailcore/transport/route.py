"""The way of one call to its hops: which address is in use, which have failed, and when there is none left.

RFC 5321 §5.1: the next host is tried when one cannot be reached or refuses to talk. Never after a final dot: that is the
exchange's doing, which does not hand such a mail back.
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass

from mailcore.smtp.outcome import Line, Outcome
from mailcore.smtp.reply import Reply
from mailcore.transport.base import Destination, Timeouts, TlsPolicy
from mailcore.transport.outcomes import unsent
from mailcore.transport.session import Session, Target
from mailcore.transport.wire import CLOSING, Broken

STRIKES = 3
"""Sessions in a row that ended without a decision about any mail before an address is given up for this call."""
CLEAR_TEXT_SECONDS = 3600.0
"""How long an address whose TLS handshake failed is spoken to in clear text at once (opportunistic policy only)."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an address was given up."""

    target: Target
    broken: Broken
    source_ip: str | None
    tls: str | None
    conversation: tuple[Line, ...]

    def outcome(self, conversation: tuple[Line, ...] | None = None) -> Outcome:
        return unsent(
            self.broken,
            mx_host=self.target.host,
            mx_ip=self.target.ip,
            source_ip=self.source_ip,
            tls=self.tls,
            conversation=self.conversation if conversation is None else conversation,
        )


class ClearText:
    """Addresses whose TLS is broken: the opportunistic policy speaks clear text to them for an hour."""

    def __init__(self) -> None:
        self._until: dict[Target, float] = {}

    def add(self, target: Target, now: float) -> None:
        self._until = {known: until for known, until in self._until.items() if until > now}
        self._until[target] = now + CLEAR_TEXT_SECONDS

    def has(self, target: Target, now: float) -> bool:
        return self._until.get(target, 0.0) > now


class Route:
    def __init__(self, destination: Destination, helo: str, timeouts: Timeouts, clear_text: ClearText) -> None:
        self._destination = destination
        self._helo = helo
        self._timeouts = timeouts
        self._clear_text = clear_text
        family = ipaddress.ip_address(destination.source_ip).version if destination.source_ip else None
        self._targets = tuple(
            Target(hop.host, ip, hop.port)
            for hop in destination.hops
            for ip in hop.ips
            if family in (None, ipaddress.ip_address(ip).version)
        )
        self._at = 0
        self._strikes = 0
        self._useful = False
        self._last: Failure | None = None

    @property
    def current(self) -> Target | None:
        return self._targets[self._at] if self._at < len(self._targets) else None

    @property
    def in_doubt(self) -> bool:
        """Whether a session's success would be news."""
        return self._strikes > 0 or not self._useful

    def leads_to(self, target: Target) -> bool:
        return target in self._targets

    def last_outcome(self, conversation: tuple[Line, ...] | None = None) -> Outcome:
        """What a mail gets that no hop was left for."""
        if self._last:
            return self._last.outcome(conversation)
        broken = Broken("connect-failed", "no address to connect to")
        return unsent(broken, mx_host=None, mx_ip=None, source_ip=self._destination.source_ip)

    async def open(self, target: Target) -> Session | Failure:
        """A session with that address, under the destination's TLS policy."""
        now = asyncio.get_running_loop().time()
        tls = self._destination.tls
        if tls is TlsPolicy.OPPORTUNISTIC and self._clear_text.has(target, now):
            tls = TlsPolicy.NONE
        session = Session(target, self._timeouts)
        try:
            try:
                await session.open(self._destination, self._helo, tls=tls)
            except Broken as broken:
                if broken.rule != "tls-failed" or tls is not TlsPolicy.OPPORTUNISTIC:
                    raise
                # RFC 7435 §3: better in clear than not at all, where nobody asked for more
                self._clear_text.add(target, now)
                before, session = session.lines, Session(target, self._timeouts)
                session.lines = before
                await session.open(self._destination, self._helo, tls=TlsPolicy.NONE)
        except Broken as broken:
            return Failure(target, broken, session.source_ip, session.tls, tuple(session.lines))
        return session

    def failed(self, failure: Failure) -> None:
        """Give that address up for this call."""
        self._last = failure
        if failure.target == self.current:
            self._at += 1
            self._strikes = 0
            self._useful = False

    def ended(self, session: Session) -> None:
        """A session has ended, or served a while: was it of any use?"""
        if session.target != self.current:
            return
        broken = session.wire.broken
        if session.useful:
            self._useful = True
            self._strikes = 0
        elif broken and broken.rule != "closed":
            self._strikes += 1
            # a cut on the very first mail is reason enough for the next address; 421 may be about that one mail
            patient = self._useful or broken.reply is not None or self._at == len(self._targets) - 1
            if self._strikes >= (STRIKES if patient else 1):
                self.failed(Failure(session.target, _discreet(broken), session.source_ip, session.tls, ()))


def _discreet(broken: Broken) -> Broken:
    """Without the peer's words: they may name the recipient of the mail under way, and others will read this."""
    if broken.reply is None:
        return Broken(
            broken.rule, broken.text if broken.rule == "connection-lost" else "the peer broke the session off"
        )
    return Broken(broken.rule, broken.text, Reply(CLOSING, "the peer closes its connections", broken.reply.enhanced))
