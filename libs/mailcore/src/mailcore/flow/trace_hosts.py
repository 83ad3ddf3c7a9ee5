"""Where a mail would go: MX hosts, their addresses and what TLS with them must come to, as steps of flow.trace. The DNS is asked;
of the database only what is kept of MTA-STS policies."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mailcore.dns.mta_sts import RECORD_PREFIX, StsPolicy, read_record
from mailcore.dns.mx import MailLoop, addresses_of, next_hops, site_key
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.dns.tlsa import tlsa_of, usable
from mailcore.flow.ourselves import Ourselves, Ranked, receives, without_ourselves
from mailcore.kit import addresses
from mailcore.kit.errors import Refused
from mailcore.store import mta_sts
from mailcore.store.mta_sts import Kept
from mailcore.store.session import Store
from mailcore.store.sources import Known, KnownSource

OK, STOP, WAIT, UNKNOWN = "ok", "stop", "wait", "unknown"
SECONDS = 20.0
MOST_HOSTS = 10
"""Whose TLS is looked at."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Step:
    step: str
    verdict: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leaving:
    """How this installation's mail leaves, of outbound's settings."""

    route: str
    mx_port: int
    host: str | None
    """host:port of the smart host or the catcher, where all goes to one."""
    test_domains: frozenset[str]
    source_ip: str | None
    ehlo: str
    allow: tuple[Network, ...]
    mails_per_connection: int = 100
    versions: tuple[int, ...] = (4, 6)
    """Of IP, in the order to try."""
    names: tuple[str, ...] = ()
    """Of this installation: mail hosts of these names are ourselves."""


@dataclass(slots=True)
class Found:
    """What later steps go by."""

    domain: str
    sender: Any = None
    """Row of domains."""
    hosts: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """Mail hosts with the addresses that may be connected to."""
    signed: bool = False
    """The MX answer was validated by DNSSEC."""
    simulated: bool = False
    by_mx: bool = False
    route: int = 0
    """Of several ways out, as lanes name it; 0: none."""
    way_site: int | None = None
    """Site of the way that takes the mail; None: the domain's own."""
    places: tuple[str, ...] = ()
    """Key of the site, and the name of its provider: from there sources may be barred."""
    site_key: str | None = None
    """Of the domain's own site, as its mail hosts or the settings say it is."""


class Hosts:
    def __init__(self, store: Store, resolver: Resolver, leaving: Leaving) -> None:
        self._store = store
        self._resolver = resolver
        self._leaving = leaving
        self._sources: tuple[KnownSource, ...] = ()
        """Of pools, as last read: mail hosts of their addresses and names are ourselves, too."""
        self._ourselves = Ourselves(
            *(leaving.names, resolver, partial(receives, store)),
            sources=lambda: self._sources,
            source_ip=leaving.source_ip,
        )

    async def steps(self, found: Found, known: Known) -> list[Step]:
        """mx and addresses, where it goes by MX, and tls. Within SECONDS: a name server that drips holds up nobody."""
        self._sources = tuple(source for pool in known.pools for source in pool.sources)
        steps: list[Step] = []
        try:
            async with asyncio.timeout(SECONDS):
                if found.by_mx:
                    steps += await self._mx(found)
                return [*steps, await self._tls(found)]
        except TimeoutError:
            late = Step("tls" if steps else "mx", UNKNOWN, f"The DNS has not told all of it within {SECONDS:.0f} s.")
            return [*steps, late]

    async def _mx(self, found: Found) -> list[Step]:
        domain = found.domain
        try:
            mx = await next_hops(domain, self._resolver)
        except Refused as error:
            facts = {"code": error.code, "enhanced_code": error.enhanced}
            return [Step("mx", STOP, f"{error.public} Its mail bounces at the first attempt.", facts)]
        except TemporaryDNSError as error:
            return [Step("mx", WAIT, f"{error.public} Mail waits, and is tried again by the schedule.")]
        hops, found.signed = mx.values, mx.secure
        found.site_key = site_key(hop.host for hop in hops)
        versions = self._leaving.versions
        answers = await asyncio.gather(
            *(addresses_of(hop.host, self._resolver, versions) for hop in hops), return_exceptions=True
        )
        try:
            tried = await without_ourselves(domain, list(zip(hops, answers, strict=True)), self._ourselves)
        except MailLoop as error:
            facts = {
                "code": error.code,
                "enhanced_code": error.enhanced,
                "hosts": [{"host": hop.host, "preference": hop.preference} for hop in hops],
            }
            return [Step("mx", STOP, f"{error.public} Its mail bounces at the first attempt.", facts)]
        left = {hop.host for hop, _ in tried}
        facts = {"hosts": [{"host": hop.host, "preference": hop.preference, "tried": hop.host in left} for hop in hops]}
        implicit = len(hops) == 1 and hops[0].host == domain and hops[0].preference == 0
        text = f"{domain} has no MX: it is its own mail host." if implicit else f"Mail hosts, best first: {len(hops)}."
        if len(left) < len(hops):
            text += f" {len(hops) - len(left)} of them are not tried: this installation is among them (RFC 5321 §5.1)."
        return [Step("mx", OK, text, facts), self._addresses(found, tried)]

    def _addresses(self, found: Found, tried: Ranked) -> Step:
        shown: list[dict[str, Any]] = []
        failed = 0
        for hop, answer in tried:
            host = hop.host
            if isinstance(answer, NoSuchDomain):
                shown.append({"host": host, "error": "does not exist"})
            elif isinstance(answer, TemporaryDNSError):
                failed += 1
                shown.append({"host": host, "error": answer.public})
            elif isinstance(answer, BaseException):
                raise answer
            else:
                why = {ip: addresses.refusal(addresses.parse_address(ip), self._leaving.allow) for ip in answer.values}
                shown += [
                    {"host": host, "ip": ip, "allowed": no is None, **({} if no is None else {"reason": no})}
                    for ip, no in why.items()
                ]
                allowed = tuple(ip for ip, no in why.items() if no is None)
                if allowed:
                    found.hosts.append((host, allowed))
        facts = {"addresses": shown}
        if found.hosts:
            count = sum(len(ips) for _, ips in found.hosts)
            return Step("addresses", OK, f"Addresses that may be connected to: {count}.", facts)
        if failed:
            return Step("addresses", WAIT, "The DNS does not tell an address just now: mail waits.", facts)
        if any("ip" in each for each in shown):
            text = "All addresses are private ones. POSTROOM_NETWORK__ALLOW__MX opens networks. Its mail bounces."
            return Step("addresses", STOP, text, facts)
        return Step("addresses", STOP, "The mail hosts have no addresses. Its mail bounces.", facts)

    async def _tls(self, found: Found) -> Step:
        if found.simulated:
            return Step("tls", OK, "Nothing is sent.", {"policy": "none"})
        if not found.by_mx:
            return Step("tls", OK, "As the settings of this way out say.", {"policy": "by route"})
        kept, announced = await self._sts(found.domain)
        hosts = [
            {"host": host, "policy": await self._tls_of(host, found, kept)} for host, _ in found.hosts[:MOST_HOSTS]
        ]
        own = "required" if found.sender is not None and found.sender["tls"] == "enforced" else "opportunistic"
        facts: dict[str, Any] = {"of_sender": own, "hosts": hosts, "mta_sts": None}
        if kept is not None or announced is not None:
            mode = kept.mode if kept is not None and kept.alive else None
            facts["mta_sts"] = {"announced": announced, "mode": mode, "failure": kept.failure if kept else None}
        policies = {each["policy"] for each in hosts}
        if hosts and policies <= {"closed"}:
            why = "The recipient's side asks for TLS that none of its hosts can have by now: mail waits."
            return Step("tls", WAIT, why, facts)
        if own == "required":
            text = f"{found.sender['name']} asks for TLS with a verified certificate: mail waits where a host has none."
        elif policies & {"dane", "dane-unusable", "mta-sts"}:
            text = (
                "The recipient's side asks for TLS (DANE, MTA-STS): mail waits where a handshake does not come to that."
            )
        else:
            text = "TLS where the host offers it; clear text where it does not (RFC 7435)."
            if announced is not None and kept is None:
                text += " An MTA-STS policy is announced, and is fetched with the first mail."
        return Step("tls", OK, text, facts)

    async def _sts(self, domain: str) -> tuple[Kept | None, str | None]:
        """The policy that was fetched last, and the id that is announced now."""
        async with self._store.worker() as db:
            kept = await mta_sts.kept(db, domain)
        try:
            found = await self._resolver.txt(RECORD_PREFIX + domain)
        except (NoSuchDomain, TemporaryDNSError):
            return kept, None
        return kept, read_record(found.values)

    async def _tls_of(self, host: str, found: Found, kept: Kept | None) -> str:
        """As outbound decides (RFC 7672, RFC 8461): dane, dane-unusable, mta-sts, closed, opportunistic."""
        if found.signed:
            try:
                tlsa = await tlsa_of(host, self._leaving.mx_port, self._resolver)
            except TemporaryDNSError:
                return "closed"
            if tlsa is not None:
                return "dane" if usable(tlsa.records) else "dane-unusable"
        if kept is None or not kept.alive or kept.mode != "enforce":
            return "opportunistic"
        return "mta-sts" if StsPolicy("enforce", kept.mx, kept.max_age).covers(host) else "closed"
