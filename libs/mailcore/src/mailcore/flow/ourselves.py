"""Which mail hosts are this installation: mail for others that goes there would come back (RFC 5321 §5.1)."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from mailcore.dns.mx import MailLoop, NextHop, addresses_of
from mailcore.dns.resolver import NoSuchDomain, Records, Resolver
from mailcore.store.session import Store
from mailcore.store.sources import KnownSource

OWN_SECONDS = 60.0
"""How often our own addresses are asked for."""

Ranked = list[tuple[NextHop, Records[str] | BaseException]]


class Ourselves:
    """By name, by an address of those names, or by one that mail is sent from: of pools also as the world sees it, behind a NAT.

    `sources` are those of pools, whose EHLO names are ours too, `source_ip` is that of mail which leaves from no pool. `receives`
    says whether we take mail of a domain as its final destination: mail to it that comes by MX to us is no loop.
    """

    def __init__(
        self,
        names: Iterable[str],
        resolver: Resolver,
        receives: Callable[[str], Awaitable[bool]],
        *,
        sources: Callable[[], Sequence[KnownSource]] = tuple,
        source_ip: str | None = None,
        wait_seconds: float = 2.0,
        own_seconds: float = OWN_SECONDS,
    ) -> None:
        self._fixed = tuple(names)
        self._sources = sources
        self._source_ips = {str(ipaddress.ip_address(source_ip))} if source_ip else set()
        self._resolver = resolver
        self.receives = receives
        self._own: dict[str, tuple[str, ...]] = {}
        """Addresses by name, as last known."""
        self._asking: asyncio.Task[None] | None = None
        self._ask_at = 0.0
        self._wait_seconds = wait_seconds
        self._own_seconds = own_seconds

    @property
    def _names(self) -> frozenset[str]:
        names = (*self._fixed, *(source.ehlo for source in self._sources()))
        return frozenset(name.lower().removesuffix(".") for name in names)

    async def are(self, hosts: Sequence[tuple[str, Records[str] | BaseException]]) -> frozenset[str]:
        """Those of the hosts, given with their addresses, that are ourselves."""
        await self._look()
        own = {ip for ips in self._own.values() for ip in ips}
        own |= {ip for source in self._sources() for ip in (source.ip4, source.ip6, *source.outside) if ip}
        own |= self._source_ips
        # everything on one machine, tried out there, says nothing
        own = {ip for ip in own if not ipaddress.ip_address(ip).is_loopback}
        names = self._names
        return frozenset(
            host
            for host, answer in hosts
            if host in names or (isinstance(answer, Records) and not own.isdisjoint(answer.values))
        )

    async def _look(self) -> None:
        """Asks for our addresses once a minute. A DNS that is slow to answer about us holds nobody up for long."""
        now = time.monotonic()
        if self._asking is None or (self._asking.done() and now >= self._ask_at):
            self._ask_at = now + self._own_seconds
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        if not self._asking.done():
            await asyncio.wait([self._asking], timeout=self._wait_seconds)

    async def _ask(self) -> None:
        names = sorted(self._names)
        answers = await asyncio.gather(*(addresses_of(name, self._resolver) for name in names), return_exceptions=True)
        found = {name: self._own.get(name, ()) for name in names}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, Records):
                found[name] = answer.values
            elif isinstance(answer, NoSuchDomain):
                found[name] = ()
        self._own = found


async def without_ourselves(domain: str, ranked: Ranked, ourselves: Ourselves) -> Ranked:
    """RFC 5321 §5.1: ourselves, and every host that is no better, are not tried: mail would only come back to us.

    Unless nobody is better and we receive for that domain: then it is delivered to us, as anybody would. Raises MailLoop.
    """
    own = await ourselves.are([(hop.host, answer) for hop, answer in ranked])
    if not own:
        return ranked
    at = min(hop.preference for hop, _ in ranked if hop.host in own)
    better = [each for each in ranked if each[0].preference < at]
    if better:
        return better
    if await ourselves.receives(domain):
        return [each for each in ranked if each[0].host in own]
    raise MailLoop(
        f"Mail for {domain} would come back to us: its best mail host is this installation, which has no such domain."
    )


async def receives(store: Store, domain: str) -> bool:
    """Whether mail of that domain ends here. Raises Unavailable."""
    return bool(await store.lookup("SELECT FROM lookup_receiving_domain($1)", domain))
