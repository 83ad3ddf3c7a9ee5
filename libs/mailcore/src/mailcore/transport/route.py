"""The way of one call to its hops: which addresses are in use, which have failed, and when there is none left.

RFC 5321 §5.1: hosts of one preference share the load in random order; the next is tried when one cannot be reached or refuses to
talk. Never after a final dot: that is the exchange's doing, which does not hand such a mail back.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mailcore.smtp.outcome import Line, Outcome, TlsSession
from mailcore.smtp.reply import Reply
from mailcore.transport.base import Destination, Hop, Timeouts
from mailcore.transport.outcomes import TLS_OFF, unsent
from mailcore.transport.session import Session, Target
from mailcore.transport.tls import Demand, FailureType, Insecure, Kind, demand, policy_name, rule_of
from mailcore.transport.wire import CLOSING, Broken

STRIKES = 3
"""Sessions in a row that ended without a decision about any mail before an address is given up for this call …"""
CLOSED = 10
"""… and when it is the last there is and says 421 each time (RFC 5321 §3.8): who takes half of what it is asked is not given up."""
MARKED_SECONDS = 3600.0
"""How long an address is spared what it has failed at: BDAT, a policy that is being tested."""
CLEAR_SECONDS = 600.0
"""The same for STARTTLS under the opportunistic policy: to ask costs a connection, not to ask may cost more."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an address was given up."""

    target: Target
    broken: Broken
    source_ip: str | None
    tls: str | None
    conversation: tuple[Line, ...]
    tls_policy: str | None = None
    sessions: tuple[TlsSession, ...] = ()

    def outcome(self, conversation: tuple[Line, ...] | None = None) -> Outcome:
        return unsent(
            self.broken,
            mx_host=self.target.host,
            mx_ip=self.target.ip,
            source_ip=self.source_ip,
            tls=self.tls,
            conversation=self.conversation if conversation is None else conversation,
            tls_policy=self.tls_policy,
            sessions=self.sessions,
        )


class Marked:
    """Addresses that have failed at something which we can do without, for so many seconds."""

    def __init__(self, seconds: float = MARKED_SECONDS) -> None:
        self._seconds = seconds
        self._until: dict[Target, float] = {}

    def add(self, target: Target, now: float) -> None:
        self._until = {known: until for known, until in self._until.items() if until > now}
        self._until[target] = now + self._seconds

    def end(self, target: Target) -> None:
        self._until.pop(target, None)

    def has(self, target: Target, now: float) -> bool:
        return self._until.get(target, 0.0) > now


class Quirks:
    """What a pool has learned of addresses."""

    def __init__(self) -> None:
        self.clear_text = Marked(CLEAR_SECONDS)
        self.untrusted = Marked()
        """Of hosts whose MTA-STS policy is being tested: the certificate that the policy asks for was not there."""
        self.no_chunking = Marked()


class Route:
    def __init__(
        self, destination: Destination, helo: str, timeouts: Timeouts, quirks: Quirks, *, chunking: bool
    ) -> None:
        self._destination = destination
        self._unvouched: Broken | None = None
        if destination.requiretls:
            hops = tuple(hop for hop in destination.hops if hop.vouched)
            self._unvouched = _unvouched(destination.hops)
            self._destination = destination = replace(destination, hops=hops)
        self._helo = destination.helo or helo
        self._timeouts = timeouts
        self._quirks = quirks
        self._chunking = chunking
        self._tiers = _tiers(destination)
        """Targets to try, best first; those of one tier in turns. Never an empty tier."""
        self._targets = frozenset(target for tier in self._tiers for target in tier)
        self._turn = 0
        self._strikes: Counter[Target] = Counter()
        self._reached: set[Target] = set()
        """Sessions were opened there in this call."""
        self._useful: set[Target] = set()
        """And they have decided about mail."""
        self._last: Failure | None = None
        self._insecure: tuple[TlsSession, ...] = ()
        """Connections of this call that came to nothing for want of TLS."""

    @property
    def current(self) -> Target | None:
        """Where the next connection goes."""
        if not self._tiers:
            return None
        tier = self._tiers[0]
        return tier[self._turn % len(tier)]

    def in_doubt(self, target: Target) -> bool:
        """Whether a session's success there would be news."""
        return target not in self._useful or self._strikes[target] > 0

    def reach(self, target: Target) -> None:
        """A session is there."""
        self._reached.add(target)

    def reached(self, target: Target) -> bool:
        """It has taken connections of this call, and has not been given up since."""
        return target in self._reached and any(target in tier for tier in self._tiers)

    def leads_to(self, target: Target) -> bool:
        return target in self._targets

    def last_outcome(self, conversation: tuple[Line, ...] | None = None) -> Outcome:
        """What a mail gets that no hop was left for."""
        if self._last:
            return self._last.outcome(conversation)
        broken = self._unvouched or Broken("connect-failed", "no address to connect to")
        return unsent(broken, mx_host=None, mx_ip=None, source_ip=self._destination.source_ip)

    async def open(self, target: Target) -> Session | Failure:
        """A session with that address, under what its side and the destination ask of TLS."""
        self._turn += 1
        now = asyncio.get_running_loop().time()
        demand = self._demand(target, now)
        session = Session(target, self._timeouts)
        insecure = self._known_insecure(target, demand)
        try:
            while True:
                try:
                    if demand is Demand.CLOSED and insecure:
                        raise insecure
                    await session.open(self._destination, self._helo, demand=demand)
                    break
                except Insecure as error:
                    insecure = insecure or error
                    demand = self._less(target, demand, error, now)
                before, session = session.lines, Session(target, self._timeouts)
                session.lines = before
        except Exception as error:
            broken = error if isinstance(error, Broken) else _unforeseen(target, error)
            sessions = (self._counted(session, insecure),) if isinstance(broken, Insecure) else ()
            self._insecure += sessions
            policy = policy_name(target.security, demand)
            return Failure(
                *(target, broken, session.source_ip, session.tls, tuple(session.lines)), policy, self._insecure
            )
        if demand is not Demand.NONE and session.tls is None and insecure is None:
            insecure = Insecure("tls-not-offered", "the peer offers no STARTTLS", FailureType.STARTTLS)
        # RFC 8460 §3: a report's own session is not reported
        if (demand is not Demand.NONE or insecure) and self._destination.tls != "not-required":
            session.sessions = (*self._insecure, self._counted(session, insecure))
        if not self._chunking or self._quirks.no_chunking.has(target, now):
            session.capabilities = replace(session.capabilities, chunking=False)
        self.reach(target)
        return session

    def _demand(self, target: Target, now: float) -> Demand:
        """What is tried first. What has failed lately, and may be done without, is not."""
        asked = demand(target.security, self._destination.tls, requiretls=self._destination.requiretls)
        testing = target.security.kind is Kind.STS_TESTING and self._destination.tls == "opportunistic"
        if testing and asked is Demand.MAY and not target.security.why and not self._quirks.untrusted.has(target, now):
            return Demand.PUBLIC
        if asked is Demand.MAY and self._quirks.clear_text.has(target, now):
            return Demand.NONE
        return asked

    def _known_insecure(self, target: Target, demand: Demand) -> Insecure | None:
        """What is wrong with the hop before anything is said to it."""
        security = target.security
        if security.failure is not None and (demand is Demand.CLOSED or security.kind is Kind.STS_TESTING):
            return Insecure(rule_of(security, "tls-failed"), security.why, security.failure)
        if security.kind is Kind.STS_TESTING and demand in (Demand.MAY, Demand.NONE):
            words = "its certificate was not what the policy asks for, less than an hour ago"
            return Insecure("mta-sts-failed", words, FailureType.UNTRUSTED)
        if demand is Demand.NONE and self._destination.tls == "opportunistic":
            return Insecure("tls-failed", "TLS failed there less than ten minutes ago", FailureType.OTHER)
        return None

    def _less(self, target: Target, demanded: Demand, error: Insecure, now: float) -> Demand:
        """What is tried next, where nobody asked for more. Raises the error where somebody did."""
        asked = demand(target.security, self._destination.tls, requiretls=self._destination.requiretls)
        if asked is not Demand.MAY:
            raise error
        if demanded is Demand.PUBLIC:  # RFC 8461 §5: a policy that is being tested keeps no mail back
            failed, less = self._quirks.untrusted, Demand.MAY
        elif demanded is Demand.MAY:  # RFC 7435 §3: better in clear than not at all
            failed, less = self._quirks.clear_text, Demand.NONE
        else:
            raise error
        if not error.passing:
            failed.add(target, now)
        return less

    def _counted(self, session: Session, insecure: Insecure | None) -> TlsSession:
        target = session.target
        return TlsSession(
            target.security.report_type,
            target.host,
            target.ip,
            session.source_ip,
            insecure.failure.value if insecure else None,
            insecure.text if insecure else "",
        )

    def failed(self, failure: Failure) -> None:
        """Give that address up for this call."""
        if self._last is None or failure.broken.rule != "requiretls-not-offered":
            self._last = failure  # what may pass is the better reason: the mail is tried again
        for tier in self._tiers:
            if failure.target in tier:
                tier.remove(failure.target)
        self._tiers = [tier for tier in self._tiers if tier]

    def ended(self, session: Session) -> None:
        """A session has ended, or served a while: was it of any use?"""
        target, broken = session.target, session.wire.broken
        if session.no_chunking:
            self._quirks.no_chunking.add(target, asyncio.get_running_loop().time())
        if session.tls_demanded:
            self._quirks.clear_text.end(target)
            broken = Broken("tls-demanded", "the peer takes mail under TLS only")
            if session.tls_off:  # the next connection would hear the same
                self.failed(self._failure(session, Broken("tls-off", TLS_OFF)))
                return
        if session.useful:
            self._useful.add(target)
            self._strikes[target] = 0
        elif broken and broken.rule != "closed":
            self._strikes[target] += 1
            # a cut on the very first mail is reason enough for the next address; 421 may be about that one mail
            last = self._is_last(target)
            patient = target in self._useful or broken.reply is not None or session.tls_demanded or last
            most = CLOSED if last and broken.reply is not None else STRIKES if patient else 1
            if self._strikes[target] >= most:
                self.failed(self._failure(session, _discreet(broken)))

    @staticmethod
    def _failure(session: Session, broken: Broken) -> Failure:
        facts = (session.target, broken, session.source_ip, session.tls, ())
        return Failure(*facts, session.tls_policy, session.sessions)

    def _is_last(self, target: Target) -> bool:
        return self._tiers == [[target]]


def _unforeseen(target: Target, error: Exception) -> Broken:
    """Nobody's fault but ours, and told as such: the mail has its attempt, another address may do better."""
    asyncio.get_running_loop().call_exception_handler(
        {"message": f"opening a connection to {target.host} failed", "exception": error}
    )
    return Broken("internal-error", f"this process failed ({type(error).__name__})")


def _unvouched(hops: Sequence[Hop]) -> Broken | None:
    """RFC 8689 §4.2.1: what an unsigned MX record names may be anybody's, with a certificate as good as any."""
    if not hops or any(hop.vouched for hop in hops):
        return None
    if any(hop.vouched is None for hop in hops):
        return Broken(
            "mta-sts-failed", "REQUIRETLS: the MTA-STS policy that may name the mail hosts cannot be had just now"
        )
    words = "REQUIRETLS support required; the domain has neither signed MX records nor an MTA-STS policy that names its mail hosts"
    return Broken("requiretls-not-offered", "", Reply(550, words, "5.7.30"))


def _tiers(destination: Destination) -> list[list[Target]]:
    """The hops' addresses of the family that we can send from; hosts of one preference together, in random order."""
    families = destination.source_ips
    tiers: list[list[Target]] = []
    numbered = ((n if hop.preference is None else None, hop.preference, hop) for n, hop in enumerate(destination.hops))
    for _, group in itertools.groupby(numbered, key=lambda each: each[:2]):
        hosts = [
            [
                Target(hop.host, ip, hop.port, hop.security)
                for ip in hop.ips
                if not families or ipaddress.ip_address(ip).version in families
            ]
            for *_, hop in group
        ]
        random.shuffle(hosts)
        # each host's best address first: the second best of one is no better than the best of another
        tiers += [[target for target in turn if target] for turn in itertools.zip_longest(*hosts)]
    return tiers


def _discreet(broken: Broken) -> Broken:
    """Without the peer's words: they may name the recipient of the mail under way, and others will read this."""
    if broken.reply is None:
        return Broken(
            broken.rule,
            broken.text if broken.rule in ("connection-lost", "tls-demanded") else "the peer broke the session off",
        )
    return Broken(broken.rule, broken.text, Reply(CLOSING, "the peer closes its connections", broken.reply.enhanced))
