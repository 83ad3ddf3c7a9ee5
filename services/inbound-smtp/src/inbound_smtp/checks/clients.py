"""Who connects: whether blocklists name his address (RFC 5782), and whether it has a name that leads back to it (RFC 8601 §2.7.3).

Asked for when he connects, waited for at his first recipient. What cannot be found out counts for him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.dns import blocklist
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.kit.addresses import parse_address
from mailcore.kit.log import logger
from mailcore.kit.remember import Remembered
from mailcore.smtp.reply import Reply

log = logger(__name__)

SECONDS = 5.0
"""For all questions about one address."""
REMEMBERED_SECONDS = 300.0
MAX_NAMES = 5
"""Of an address, that are looked at: who runs a network can give it any number."""


@dataclass(frozen=True, slots=True)
class Client:
    name: str | None = None
    """Which leads back to the address; None: it has none."""
    listed: tuple[str, ...] = ()
    """The lists that name it."""
    refused: Reply | None = None


class Clients:
    """One a process."""

    def __init__(self, resolver: Resolver, *, lists: Sequence[str], refuse_listed: bool, rdns: str) -> None:
        """`rdns`: off, tag, reject."""
        self._resolver = resolver
        self._lists = lists
        self._refuse_listed = refuse_listed
        self._rdns = rdns
        self._known: Remembered[str, Client] = Remembered(self._look, seconds=REMEMBERED_SECONDS, maximum=20_000)

    async def look(self, ip: str) -> Client:
        return await self._known.get(ip) or Client()

    async def _look(self, ip: str) -> Client | None:
        try:
            parse_address(ip)
        except ValueError:
            return None
        try:
            async with asyncio.timeout(SECONDS):
                listing = asyncio.gather(*(blocklist.look_up(ip, zone, self._resolver) for zone in self._lists))
                name, listings = await asyncio.gather(self._name(ip), listing)
        except TimeoutError:
            log.warning("nothing is known of a client in time", peer=ip)
            return None
        listed = tuple(zone for zone, one in zip(self._lists, listings, strict=True) if one.listed)
        refused = None
        if listed and self._refuse_listed:
            why = next(one.text for one in listings if one.listed)
            refused = Reply(550, f"Your address {ip} is listed by {listed[0]}: {why}", "5.7.1")
        elif name == "" and self._rdns == "reject":
            refused = Reply(550, f"Your address {ip} has no name that leads back to it", "5.7.25")  # RFC 7372 §3
        return Client(name or None, listed, refused)

    async def _name(self, ip: str) -> str | None:
        """Empty: there is none. None: not known."""
        if self._rdns == "off":
            return None
        try:
            names = (await self._resolver.ptr(ip)).values
        except NoSuchDomain:
            return ""
        except TemporaryDNSError:
            return None
        unknown = False
        for name in names[:MAX_NAMES]:
            try:
                found = (await (self._resolver.aaaa if ":" in ip else self._resolver.a)(name)).values
            except NoSuchDomain:
                continue
            except TemporaryDNSError:
                unknown = True
                continue
            if any(parse_address(each) == parse_address(ip) for each in found):
                return name.rstrip(".").lower()
        return None if unknown else ""
