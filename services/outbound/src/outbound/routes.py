"""From a recipient domain to a site and its next hops.

catch, smarthost   every domain rolls up to one site, `catch:host:port` or `smarthost:host:port`
mx                 MX hosts in order (mailcore.dns.mx); domains with one set of hosts are one site, `mx:<hosts>`

What is found is written to `recipient_domains`, where claims read it, and kept in memory for the answers' TTL. A domain that takes
no mail (null MX, NXDOMAIN, only private addresses, ourselves without a mailbox) is Refused: its mail bounces. A DNS that does not
answer is Unavailable: its site rests.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from uuid import UUID

from mailcore.dns.mx import NextHop, addresses_of, next_hops, site_key
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.flow.ourselves import Ourselves, without_ourselves
from mailcore.kit import addresses
from mailcore.kit.errors import MailError, Refused, Unavailable
from mailcore.kit.log import logger
from mailcore.kit.together import Together
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import sites
from mailcore.store.due import DueLane
from mailcore.store.session import Store
from mailcore.store.sites import Site
from mailcore.transport import Credentials, Hop, TlsPolicy, Transport
from outbound.asks import Place, places
from outbound.security import Securing, fingerprint

log = logger(__name__)

FRESH_SECONDS, STALE_SECONDS = 300.0, 5.0
"""How long an answer is used at most, and at least, before the DNS is asked again: between them its TTL counts."""
REFUSED_SECONDS = 60.0
"""The same for a domain that takes no mail."""
MAX_ADDRESSES, MAX_ADDRESSES_OF_HOST = 12, 4
"""That are tried for one mail: each that does not answer costs Timeouts.connect."""
MOST = 50_000

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Way:
    site: Site
    order: str
    """Domains of one site may rank its hosts differently: those with one order share a run."""
    hops: tuple[Hop, ...]
    tls: TlsPolicy
    bind_tls: bool
    """The policy is the route's own: a sending domain cannot ask for another."""
    credentials: Credentials | None = None
    transport: Transport | None = None
    """None: the process's own."""
    lmtp: bool = False


class NoWay(Exception):
    """The domain takes no mail; `outcome` is what each of its mails gets."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome.reply))
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Found:
    key: str
    """Of the site."""
    hops: tuple[Hop, ...]
    order: str = ""
    transport: Transport | None = None
    """None: the process's own."""
    ttl: float = FRESH_SECONDS
    """Seconds."""


class Finder(Protocol):
    """The part of a route that knows where a domain's mail goes."""

    async def find(self, domain: str) -> Found:
        """Raises Refused (no mail ever) and Unavailable (ask later)."""
        ...


class OneHost:
    """catch and smarthost: one host for all, named by the operator and so exempt from checks of its addresses."""

    def __init__(self, kind: str, host: str, port: int, resolver: Resolver) -> None:
        self.key = f"{kind}:{host}:{port}"
        self._host = host
        self._port = port
        self._resolver = resolver

    async def find(self, domain: str) -> Found:
        return Found(self.key, (Hop(self._host, await self._addresses(), self._port),))

    async def _addresses(self) -> tuple[str, ...]:
        try:
            return (str(ipaddress.ip_address(self._host)),)
        except ValueError:
            pass
        try:
            found = (await addresses_of(self._host, self._resolver)).values
        except Refused:
            found = ()
        if not found:
            # names of the operator's own network (compose, a cluster) may be known to the system only
            try:
                infos = await asyncio.get_running_loop().getaddrinfo(self._host, self._port)
            except OSError as error:
                raise Unavailable(f"The host {self._host} is not known: {error.strerror}.") from error
            found = tuple(dict.fromkeys(str(info[4][0]) for info in infos))
        return found


class ByMX:
    """`versions`: of IP, in the order to try; `ourselves` None finds no loops."""

    def __init__(
        self,
        resolver: Resolver,
        port: int,
        allow: Sequence[Network],
        *,
        versions: Sequence[int] = (4, 6),
        ourselves: Ourselves | None = None,
        securing: Securing | None = None,
    ) -> None:
        self._resolver = resolver
        self._port = port
        self._allow = tuple(allow)
        self._versions = tuple(versions)
        self._ourselves = ourselves
        self._securing = securing

    async def find(self, domain: str) -> Found:
        mx = await next_hops(domain, self._resolver)
        answers = await asyncio.gather(
            *(addresses_of(hop.host, self._resolver, self._versions) for hop in mx.values), return_exceptions=True
        )
        ranked = list(zip(mx.values, answers, strict=True))
        if self._ourselves:
            ranked = await without_ourselves(domain, ranked, self._ourselves)
        hops: list[Hop] = []
        ttl, left = float(mx.ttl), MAX_ADDRESSES
        temporary: MailError | None = None
        private = False
        for hop, answer in ranked:
            if isinstance(answer, TemporaryDNSError):
                temporary = answer
            elif isinstance(answer, NoSuchDomain):
                continue
            elif isinstance(answer, BaseException):
                raise answer
            else:
                allowed = [ip for ip in answer.values if self._permitted(ip)]
                private = private or len(allowed) < len(answer.values)
                ips = tuple(allowed[: min(MAX_ADDRESSES_OF_HOST, left)])
                if ips:
                    vouched = mx.secure or hop.host == domain  # no MX record: the name is the recipient's own
                    hops.append(Hop(hop.host, ips, self._port, hop.preference, vouched=vouched))
                    left -= len(ips)
                    ttl = min(ttl, answer.ttl)
        if hops:
            # of all hosts, also those without an address now: a site must not change with the answer to one question
            key, ranks = site_key(hop.host for hop in mx.values), order(mx.values)
            secured = tuple(hops)
            if self._securing:
                secured = await self._securing.secured(domain, hops, signed=mx.secure)
                ranks += fingerprint(secured)
            return Found(key, secured, ranks, ttl=ttl)
        if temporary:
            raise temporary
        if private:
            raise Refused(
                f"The mail hosts of {domain} have private addresses only.", name="private-address", enhanced="5.4.4"
            )
        raise Refused(f"The mail hosts of {domain} have no addresses.", name="no-address", enhanced="5.4.4")

    def _permitted(self, ip: str) -> bool:
        return addresses.refusal(addresses.parse_address(ip), self._allow) is None


def order(ranked: Sequence[NextHop]) -> str:
    """`a,b;c`: equal preferences side by side, whatever order they were drawn in."""
    groups = itertools.groupby(ranked, key=lambda hop: hop.preference)
    return ";".join(",".join(sorted(hop.host for hop in group)) for _, group in groups)


class ByRoute(Protocol):
    """Ways out that routes name: `outbound.ways`."""

    def seen(self, lane: DueLane) -> None: ...

    def known(self, way_id: UUID, domain: str) -> Way | None: ...

    async def find(self, way_id: UUID, domain: str) -> Way: ...

    async def rest(self, site_id: int, reply: str, *, first: float, longest: float) -> float: ...


class Routes:
    def __init__(
        self,
        store: Store,
        finder: Finder,
        *,
        tls: TlsPolicy,
        bind_tls: bool,
        credentials: Credentials | None,
        max_connections: int,
        fresh_seconds: float = FRESH_SECONDS,
    ) -> None:
        self._store = store
        self._finder = finder
        self._tls = tls
        self._bind_tls = bind_tls
        self._credentials = credentials
        self._max_connections = max_connections
        self._fresh_seconds = fresh_seconds
        self._places = Together(partial(places, store, max_connections), at_a_time=1)
        self._known: dict[str, tuple[float, Way | NoWay]] = {}
        self.ways: ByRoute | None = None
        """For lanes with a route."""

    def known(self, lane: DueLane) -> Way | NoWay | None:
        """What is known of the lane's domain and not too old; None asks for `find`."""
        if self.ways is not None:
            self.ways.seen(lane)
            if (way_id := _way_id(lane)) is not None:
                by_route = self.ways.known(way_id, lane.domain)
                return by_route if by_route is not None and by_route.site.id == lane.site_id else None
        found = self._known.get(lane.domain)
        if found is None or found[0] <= time.monotonic():
            return None
        way = found[1]
        # the pointer is read at claim: where another process (or another setting) moved it, it is set again
        return way if isinstance(way, NoWay) or way.site.id == lane.site_id else None

    async def of(self, lane: DueLane) -> Way | NoWay:
        """Where its mail goes. Raises Unavailable when that cannot be found out just now."""
        if self.ways is not None and (way_id := _way_id(lane)) is not None:
            return await self.ways.find(way_id, lane.domain)
        return await self.find(lane.domain, lane.site_id)

    async def find(self, domain: str, site_id: int | None) -> Way | NoWay:
        """Asks the DNS, writes the site and the domain's pointer to it (`site_id` is where it points now).

        Raises Unavailable when the DNS or the database does not answer and nothing older is known.
        """
        before = self._known.get(domain)
        found: Way | NoWay
        seconds = self._fresh_seconds
        try:
            there = await self._finder.find(domain)
        except Unavailable:
            if before is None or isinstance(before[1], NoWay) or before[1].site.id != site_id:
                raise
            found = before[1]  # hosts that worked are better than none
        except Refused as error:
            found = NoWay(refusal(error))
            seconds = min(seconds, REFUSED_SECONDS)
        else:
            seconds = min(seconds, max(STALE_SECONDS, there.ttl))
            place = Place(domain, there.key, site_id)
            site = (await self._places.ask([place]))[place]
            found = Way(
                *(site, there.order, there.hops, self._tls, self._bind_tls, self._credentials),
                transport=there.transport,
            )
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[domain] = (time.monotonic() + seconds, found)
        return found

    async def rest(self, lane: DueLane, reply: str, *, first: float, longest: float) -> float:
        """Nobody could tell where its mail goes: the way rests, or the domain, on a site of its own. Returns the seconds."""
        if self.ways is not None and _way_id(lane) is not None:
            return await self.ways.rest(lane.site_id, reply, first=first, longest=longest)
        domain, site_id = lane.domain, lane.site_id
        async with self._store.worker() as db:
            site = await sites.ensure(db, f"domain:{domain}", self._max_connections)
            if site.id != site_id:
                await sites.point(db, {domain: site.id})
            return await sites.suspend(db, site.id, reply, first=first, longest=longest)


def _way_id(lane: DueLane) -> UUID | None:
    return None if lane.taken is None else lane.taken.way_id


_RULES = {"5.1.10": "null-mx", "5.1.2": "no-such-domain", "5.4.4": "no-mail-host", "5.4.6": "mail-loop"}


def refusal(error: Refused) -> Outcome:
    """RFC 7505 §4.2, RFC 3463: the domain takes no mail, and nobody's server said so."""
    rule = error.name or _RULES.get(error.enhanced, "no-route")
    return Outcome(Result.BOUNCED, Reply(error.code, error.public, error.enhanced), rule=rule)
