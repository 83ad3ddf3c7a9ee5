"""Where mail for a domain goes next (RFC 5321 §5.1, RFC 7505)."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from mailcore.dns.names import is_host
from mailcore.dns.resolver import NoSuchDomain, Records, Resolver, TemporaryDNSError
from mailcore.kit.errors import Refused

MAX_NEXT_HOPS = 20
"""Hosts that are tried; more is no mail system but an attack on the queue."""
MAX_KEY = 400
"""Characters of a site's; of larger sets of hosts it has the first ones and a digest of all."""


class NullMX(Refused):
    """The domain says that it takes no mail (RFC 7505 §4.2)."""

    code = 556
    enhanced = "5.1.10"


class NoMailHost(Refused):
    """The domain exists, with neither MX nor address records, or with unusable ones (RFC 3463 §3.5: X.4.4, unable to route)."""

    enhanced = "5.4.4"


class MailLoop(Refused):
    """The best mail host of the domain is ourselves, who do not receive for it (RFC 5321 §5.1, RFC 3463 §3.5: X.4.6)."""

    enhanced = "5.4.6"


@dataclass(frozen=True, slots=True)
class NextHop:
    preference: int
    host: str


async def next_hops(domain: str, resolver: Resolver, *, rng: random.Random | None = None) -> Records[NextHop]:
    """The hosts to try, best first, never empty; equal preferences in random order.

    `domain` in normal form. Without MX the domain itself, when it has an address. Permanent errors: NoSuchDomain, NullMX,
    NoMailHost; temporary: TemporaryDNSError.
    """
    answer = await resolver.mx(domain)
    if not answer.values:
        # RFC 5321 §5.1: an empty list of MX is one implicit MX of preference 0, the domain itself
        addresses = await addresses_of(domain, resolver)
        if not addresses.values:
            raise NoMailHost(f"The domain {domain} takes no mail: it has neither MX nor address records.")
        ttl, secure = min(answer.ttl, addresses.ttl), answer.secure and addresses.secure
        return Records((NextHop(0, domain),), ttl, secure, answer.canonical)
    # RFC 5321 §2.3.5: a host's name is letters, digits and hyphens; any other octets would stand in keys and be asked for in TLS
    named = {NextHop(record.preference, record.host) for record in answer.values if is_host(record.host)}
    if not named:
        if any(not record.host for record in answer.values):
            raise NullMX(f"The domain {domain} does not accept mail.")
        # RFC 5321 §5.1: "MX records are present, but none of them are usable" is an error, and the domain's address is not tried;
        # for good, as Postfix has it: what the DNS says is known, and only its owner can mend it
        raise NoMailHost(f"The domain {domain} takes no mail: none of its MX records names a host.")
    hops = sorted(named, key=lambda hop: (hop.preference, hop.host))[:MAX_NEXT_HOPS]  # the same ones each time
    # RFC 5321 §5.1: "the sender-SMTP MUST randomize them" within one preference; sorting keeps that order
    (rng or random.SystemRandom()).shuffle(hops)
    hops.sort(key=lambda hop: hop.preference)
    return Records(tuple(hops), answer.ttl, answer.secure, answer.canonical)


async def addresses_of(host: str, resolver: Resolver, versions: Sequence[int] = (4, 6)) -> Records[str]:
    """A host's addresses, of these IP versions in turns, each in random order; empty when it exists without any.

    One version's failure is hidden by the other's addresses; with nothing to try it is raised, because nobody knows.
    Raises NoSuchDomain and TemporaryDNSError.
    """
    ask: dict[int, Callable[[str], Awaitable[Records[str]]]] = {4: resolver.a, 6: resolver.aaaa}
    answers = await asyncio.gather(*(ask[version](host) for version in versions), return_exceptions=True)
    found = [answer for answer in answers if isinstance(answer, Records)]
    if any(answer.values for answer in found) or len(found) == len(answers):
        # the load is spread here, too: a cached answer has one order for its whole time
        shuffled: list[list[str]] = [random.sample(answer.values, len(answer.values)) for answer in found]
        values = [value for turn in itertools.zip_longest(*shuffled) for value in turn if value]
        return Records(
            tuple(dict.fromkeys(values)),
            min((answer.ttl for answer in found), default=0),
            all(answer.secure for answer in found),
            next((answer.canonical for answer in found), ""),
        )
    raise _worst([answer for answer in answers if isinstance(answer, BaseException)])


def site_key(hosts: Iterable[str]) -> str:
    """Of the site that a set of mail hosts is: `mx:a,b` whatever the order; `mx:a,b#digest` where it would be too long."""
    names = sorted(set(hosts))
    key = "mx:" + ",".join(names)
    if len(key) <= MAX_KEY:
        return key
    # a cut list alone would be the key of others, who have just those hosts; no host's name has a #
    digest = "#" + hashlib.sha256(key.encode()).hexdigest()[:32]
    return key[: MAX_KEY - len(digest)].rpartition(",")[0] + digest


def _worst(errors: Sequence[BaseException]) -> BaseException:
    """What is unknown (temporary) before what is known not to be."""
    for kind in (TemporaryDNSError, NoSuchDomain, BaseException):
        for error in errors:
            if isinstance(error, kind):
                return error
    raise AssertionError("no error to raise")
