"""DNS blocklists: whether a list names the address that handed a mail over, or the domain that it says it is from.

The door asks lists of addresses when somebody connects, and can refuse him then; here they are asked for mail that was taken, also
by other doors, and lists of domains with them. Answers come out of the resolver's cache where they are known.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence

from mailcore.dns import blocklist
from mailcore.dns.blocklist import Listing
from mailcore.dns.names import normalize_domain
from mailcore.dns.resolver import Resolver
from mailcore.kit.addresses import parse_address
from mailcore.kit.errors import Invalid, Unavailable
from mailcore.scanners.base import Facts, Finding, Kind, Verdict


class Dnsbl:
    kind = Kind.SENDER
    max_bytes = 0

    def __init__(
        self,
        resolver: Resolver,
        *,
        addresses: Sequence[str] = (),
        domains: Sequence[str] = (),
        seconds: float = 5.0,
        name: str = "dnsbl",
    ) -> None:
        """`addresses`: lists that name addresses (zen.spamhaus.org); `domains`: that name domains (dbl.spamhaus.org)."""
        self.name = name
        self.seconds = seconds
        self._resolver = resolver
        self._addresses = tuple(addresses)
        self._domains = tuple(domains)

    async def scan(self, raw: bytes, facts: Facts) -> Finding:
        """Listed where one list says so, whatever the others do. Raises Unavailable when none does and one did not answer."""
        ip = public_address(facts.client_ip)
        names = sender_domains(facts)
        asked = [(ip, zone, blocklist.look_up(ip, zone, self._resolver)) for zone in self._addresses if ip is not None]
        asked += [
            (name, zone, blocklist.look_up_domain(name, zone, self._resolver))
            for zone in self._domains
            for name in names
        ]
        if not asked:
            return Finding(self.name, Verdict.SKIPPED, detail="It has no public address and no domain to ask about.")
        answers = await asyncio.gather(*(each for _, _, each in asked))
        told = [(what, zone, one) for (what, zone, _), one in zip(asked, answers, strict=True)]
        listed = [(what, zone, one) for what, zone, one in told if one.listed]
        if listed:
            detail = "; ".join(f"{what} is listed by {zone}: {one.text}" for what, zone, one in listed)
            zones = dict.fromkeys(zone for _, zone, _ in listed)
            return Finding(self.name, Verdict.LISTED, tags=tuple(zones), detail=detail, reason="dnsbl")
        return self._unlisted([one for _, _, one in told])

    def _unlisted(self, answers: Sequence[Listing]) -> Finding:
        silent = next((one for one in answers if one.listed is None), None)
        if silent is not None:
            raise Unavailable(silent.text)
        return Finding(self.name, Verdict.CLEAN)

    async def close(self) -> None:
        """The resolver is others' too."""


NOBODYS = tuple(
    ipaddress.ip_network(network)
    for network in (
        *(
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
        ),
        *("224.0.0.0/3", "::/127", "fc00::/7", "fe80::/10", "ff00::/8"),
    )
)
"""Networks that mean something else everywhere: nobody outside knows anything about an address in them."""


def public_address(text: str | None) -> str | None:
    """In normal form; None: it is none that anybody else could have on a list."""
    try:
        ip = parse_address((text or "").partition("%")[0])
    except ValueError:
        return None
    return None if any(ip in network for network in NOBODYS) else str(ip)


def sender_domains(facts: Facts) -> list[str]:
    """Of the return path and of From, in normal form, each once: one of them is usually the spammer's own."""
    found: dict[str, None] = {}
    for address in (facts.mail_from, *(one.address for one in facts.summary.from_[:1])):
        try:
            found[normalize_domain(address.rpartition("@")[2])] = None
        except Invalid:
            continue
    return list(found)
