"""From a recipient domain to a site and its next hops.

catch, smarthost   every domain rolls up to one site, `catch:host:port` or `smarthost:host:port`
mx                 MX hosts in order (mailcore.dns.mx); domains with one set of hosts are one site, `mx:<hosts>`

What is found is written to `recipient_domains`, where claims read it, and kept in memory for a while. A domain that takes no mail
(null MX, NXDOMAIN, only private addresses) is Refused: its mail bounces. A DNS that does not answer is Unavailable: its site rests.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mailcore.dns.mx import NextHop, addresses_of, next_hops
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.kit.errors import MailError, Refused, Unavailable
from mailcore.kit.log import logger
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import sites
from mailcore.store.deliveries import DueLane
from mailcore.store.session import Store
from mailcore.store.sites import Site
from mailcore.transport import Credentials, Hop, TlsPolicy, Transport

log = logger(__name__)

FRESH_SECONDS = 300.0
"""How long an answer is used before the DNS (with its own cache, by TTL) is asked again."""
MOST = 50_000
MAX_HOSTS_IN_KEY = 400
"""Characters; longer sets of hosts keep their first ones."""

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
            found = await addresses_of(self._host, self._resolver)
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
    def __init__(self, resolver: Resolver, port: int, allow: Sequence[Network]) -> None:
        self._resolver = resolver
        self._port = port
        self._allow = tuple(allow)

    async def find(self, domain: str) -> Found:
        ranked = await next_hops(domain, self._resolver)
        hosts = [hop.host for hop in ranked]
        answers = await asyncio.gather(*(addresses_of(host, self._resolver) for host in hosts), return_exceptions=True)
        hops: list[Hop] = []
        temporary: MailError | None = None
        private = False
        for host, answer in zip(hosts, answers, strict=True):
            if isinstance(answer, TemporaryDNSError):
                temporary = answer
            elif isinstance(answer, NoSuchDomain):
                continue
            elif isinstance(answer, BaseException):
                raise answer
            else:
                allowed = tuple(ip for ip in answer if self._permitted(ip))
                private = private or len(allowed) < len(answer)
                if allowed:
                    hops.append(Hop(host, allowed, self._port))
        if hops:
            return Found(site_key(hop.host for hop in hops), tuple(hops), order(ranked))
        if temporary:
            raise temporary
        if private:
            raise Refused(
                f"The mail hosts of {domain} have private addresses only.", name="private-address", enhanced="5.4.4"
            )
        raise Refused(f"The mail hosts of {domain} have no addresses.", name="no-address", enhanced="5.4.4")

    def _permitted(self, ip: str) -> bool:
        address = ipaddress.ip_address(ip)
        if any(address in network for network in self._allow if network.version == address.version):
            return True
        mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
        return address.is_global and not address.is_multicast and (mapped is None or self._permitted(str(mapped)))


def site_key(hosts: Iterable[str]) -> str:
    """`mx:a,b` whatever the order."""
    names = sorted(set(hosts))
    key = "mx:" + ",".join(names)
    return key if len(key) <= MAX_HOSTS_IN_KEY else key[:MAX_HOSTS_IN_KEY].rpartition(",")[0]


def order(ranked: Sequence[NextHop]) -> str:
    """`a,b;c`: equal preferences side by side, whatever order they were drawn in."""
    groups = itertools.groupby(ranked, key=lambda hop: hop.preference)
    return ";".join(",".join(sorted(hop.host for hop in group)) for _, group in groups)


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
        self._known: dict[str, tuple[float, Way | NoWay]] = {}

    def known(self, lane: DueLane) -> Way | NoWay | None:
        """What is known of the lane's domain and not too old; None asks for `find`."""
        found = self._known.get(lane.domain)
        if found is None or found[0] <= time.monotonic():
            return None
        way = found[1]
        # the pointer is read at claim: where another process (or another setting) moved it, it is set again
        return way if isinstance(way, NoWay) or way.site.id == lane.site_id else None

    async def find(self, domain: str, site_id: int | None) -> Way | NoWay:
        """Asks the DNS, writes the site and the domain's pointer to it (`site_id` is where it points now).

        Raises Unavailable when the DNS or the database does not answer and nothing older is known.
        """
        before = self._known.get(domain)
        found: Way | NoWay
        try:
            there = await self._finder.find(domain)
        except Unavailable:
            if before is None or isinstance(before[1], NoWay):
                raise
            found = before[1]  # hosts that worked are better than none
        except Refused as error:
            found = NoWay(refusal(error))
        else:
            async with self._store.worker() as db:
                site = await sites.ensure(db, there.key, self._max_connections)
                if site.id != site_id:
                    await sites.point(db, [domain], site.id)
            found = Way(
                *(site, there.order, there.hops, self._tls, self._bind_tls, self._credentials),
                transport=there.transport,
            )
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[domain] = (time.monotonic() + self._fresh_seconds, found)
        return found

    async def rest(self, domain: str, site_id: int, reply: str, *, first: float, longest: float) -> float:
        """Nobody could tell where its mail goes: the domain rests, on a site of its own. Returns the seconds."""
        async with self._store.worker() as db:
            site = await sites.ensure(db, f"domain:{domain}", self._max_connections)
            if site.id != site_id:
                await sites.point(db, [domain], site.id)
            return await sites.suspend(db, site.id, reply, first=first, longest=longest)


def refusal(error: Refused) -> Outcome:
    """RFC 7505 §4.2, RFC 3463: the domain takes no mail, and nobody's server said so."""
    rule = error.name or {"5.1.10": "null-mx", "5.1.2": "no-such-domain", "5.4.4": "no-mail-host"}.get(
        error.enhanced, "no-route"
    )
    return Outcome(Result.BOUNCED, Reply(error.code, error.public, error.enhanced), rule=rule)
