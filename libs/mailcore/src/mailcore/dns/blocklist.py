"""DNS blocklists: whether an address or a domain stands on one (RFC 5782).

An address is asked for as `4.3.2.1.<list>`, a domain as `example.com.<list>`; an A record in 127.0.0.0/8 says that it is listed,
its TXT says why. Some lists answer resolvers that they do not serve with 127.255.255.0/24: that is no listing, and no all-clear
either.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError

LISTINGS = ipaddress.IPv4Network("127.0.0.0/8")
REFUSALS = ipaddress.IPv4Network("127.255.255.0/24")
"""Spamhaus and others: asked through a public resolver, too often, or under a wrong name."""
MAX_REASON = 200
MAX_NAME = 250
"""Characters of a domain and a list together (RFC 1035 §3.1)."""


@dataclass(frozen=True, slots=True)
class Listing:
    listed: bool | None
    """None: the list did not tell."""
    text: str
    """The list's own reason; of None why nothing is known."""


async def look_up(ip: str, zone: str, resolver: Resolver) -> Listing:
    """Raises nothing of its own; the caller sets a deadline."""
    return await _look_up(_reversed(ip), zone, resolver)


async def look_up_domain(domain: str, zone: str, resolver: Resolver) -> Listing:
    """The same of a list of domains (RFC 5782 §2.3). `domain` in normal form."""
    if len(domain) + len(zone) > MAX_NAME:
        return Listing(False, "")  # no list can name it
    return await _look_up(domain, zone, resolver)


async def _look_up(what: str, zone: str, resolver: Resolver) -> Listing:
    name = f"{what}.{zone.strip('.').lower()}"
    try:
        answers = (await resolver.a(name)).values
    except NoSuchDomain:
        return Listing(False, "")
    except TemporaryDNSError as error:
        return Listing(None, error.public)
    if not answers:
        return Listing(False, "")
    codes = [ipaddress.IPv4Address(answer) for answer in answers]
    if not all(code in LISTINGS for code in codes):
        # RFC 5782 §2.1: whatever is there instead (a parked domain that answers for all names) is no list
        return Listing(None, f"{zone} answers {answers[0]}, as no blocklist does. It may exist no more.")
    if any(code in REFUSALS for code in codes):
        return Listing(None, f"{zone} refuses to answer this name server ({answers[0]}).")
    return Listing(True, await _reason(name, resolver) or f"code {', '.join(answers)}")


async def _reason(name: str, resolver: Resolver) -> str:
    try:
        texts = (await resolver.txt(name)).values
    except (NoSuchDomain, TemporaryDNSError):
        return ""
    return " ".join(" ".join(texts).split())[:MAX_REASON]


def _reversed(ip: str) -> str:
    """RFC 5782 §2.1, §2.4: octets of IPv4, nibbles of IPv6, last first."""
    pointer = ipaddress.ip_address(ip).reverse_pointer
    return pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
