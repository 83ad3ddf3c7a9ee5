"""Where mail for a domain goes next (RFC 5321 §5.1, RFC 7505)."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from mailcore.dns.resolver import NoSuchDomain, Records, Resolver, TemporaryDNSError
from mailcore.kit.errors import Refused

MAX_NEXT_HOPS = 20
"""Hosts that are tried; more is no mail system but an attack on the queue."""


class NullMX(Refused):
    """The domain says that it takes no mail (RFC 7505 §4.2)."""

    code = 556
    enhanced = "5.1.10"


class NoMailHost(Refused):
    """The domain exists, with neither MX nor address records (RFC 3463 §3.5: X.4.4, unable to route)."""

    enhanced = "5.4.4"


@dataclass(frozen=True, slots=True)
class NextHop:
    preference: int
    host: str


async def next_hops(domain: str, resolver: Resolver, *, rng: random.Random | None = None) -> tuple[NextHop, ...]:
    """The hosts to try, best first, never empty; equal preferences in random order.

    `domain` in normal form. Without MX the domain itself, when it has an address. Permanent errors: NoSuchDomain, NullMX,
    NoMailHost; temporary: TemporaryDNSError.
    """
    records = (await resolver.mx(domain)).values
    if not records:
        # RFC 5321 §5.1: an empty list of MX is one implicit MX of preference 0, the domain itself
        if not await addresses_of(domain, resolver):
            raise NoMailHost(f"The domain {domain} takes no mail: it has neither MX nor address records.")
        return (NextHop(0, domain),)
    hops = [NextHop(record.preference, record.host) for record in records if record.host]
    if not hops:
        raise NullMX(f"The domain {domain} does not accept mail.")
    # RFC 5321 §5.1: "the sender-SMTP MUST randomize them" within one preference; sorting keeps that order
    (rng or random.SystemRandom()).shuffle(hops)
    hops.sort(key=lambda hop: hop.preference)
    return tuple(hops[:MAX_NEXT_HOPS])


async def addresses_of(host: str, resolver: Resolver) -> tuple[str, ...]:
    """A host's IPv4, then its IPv6 addresses; empty when it exists without any.

    One family's failure is hidden by the other's addresses; with nothing to try it is raised, because nobody knows.
    Raises NoSuchDomain and TemporaryDNSError.
    """
    answers = await asyncio.gather(resolver.a(host), resolver.aaaa(host), return_exceptions=True)
    found: list[str] = []
    errors: list[BaseException] = []
    for answer in answers:
        if isinstance(answer, Records):
            found.extend(answer.values)
        else:
            errors.append(answer)
    if found:
        return tuple(dict.fromkeys(found))
    for kind in (TemporaryDNSError, NoSuchDomain):
        for error in errors:
            if isinstance(error, kind):
                raise error
    for error in errors:
        raise error
    return ()
