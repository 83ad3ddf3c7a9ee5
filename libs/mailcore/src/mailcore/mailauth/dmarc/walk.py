"""The DNS tree walk: from a name up to the root, at most MAX_QUERIES questions (RFC 9989 §4.10).

It takes the place of a list of public suffixes: whoever publishes at `_dmarc.<name>` says where an organization begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.mailauth.dmarc.record import PREFIX, Record, only

MAX_QUERIES = 8


@dataclass(frozen=True, slots=True)
class Walk:
    domain: str
    """Where it began."""
    records: Mapping[str, Record]
    """Those that were found, by name, the longest first."""
    unsure: str = ""
    """Why the organization may lie higher than it seems: the DNS did not answer there. Empty: it did."""

    @property
    def organization(self) -> str:
        """The organizational domain (§4.10.2)."""
        last = self.domain
        for name, record in self.records.items():
            if record.psd == "n":
                return name
            if record.psd == "y" and name != self.domain:
                return _one_below(self.domain, name)
            last = name
        return last

    @property
    def policy(self) -> tuple[str, Record] | None:
        """The name and record that count for the domain: its own, its organization's, that of the public suffix above (§4.10.1)."""
        for name in (self.domain, self.organization):
            if name in self.records:
                return name, self.records[name]
        return next(((name, record) for name, record in self.records.items() if record.psd == "y"), None)


def steps(domain: str) -> list[str]:
    """The names that are asked about: the domain itself, then those above it, of a long one the last seven labels on."""
    labels = domain.split(".")
    first = 1 if len(labels) < MAX_QUERIES else len(labels) - (MAX_QUERIES - 1)
    return [domain, *(".".join(labels[n:]) for n in range(first, len(labels)))]


async def walk(domain: str, resolver: Resolver) -> Walk:
    """Raises TemporaryDNSError where nobody can tell whose policy counts. Above a record that was found, what does not answer makes
    the organization unsure; a top level domain that does not is as one without a record, as nearly all of them are."""
    found: dict[str, Record] = {}
    for name in steps(domain):
        try:
            record = await look_up(name, resolver)
        except TemporaryDNSError as error:
            if "." not in name:
                break
            if not found:
                raise
            return Walk(domain, found, error.public)
        if record is not None:
            found[name] = record
            if record.psd != "u":
                break
    return Walk(domain, found)


async def look_up(name: str, resolver: Resolver) -> Record | None:
    """What is published for exactly this name. Raises TemporaryDNSError."""
    try:
        return only((await resolver.txt(PREFIX + name)).values)
    except NoSuchDomain:
        return None


async def takes_reports(domain: str, host: str, resolver: Resolver) -> bool:
    """Whether `host`, of an address that `domain` names for reports, wants them (RFC 9990 §4): its own always do.

    Raises TemporaryDNSError.
    """
    if host == domain or (await walk(host, resolver)).organization == (await walk(domain, resolver)).organization:
        return True
    for name in (f"{domain}._report.{PREFIX}{host}", f"*._report.{PREFIX}{host}"):
        try:
            if only((await resolver.txt(name)).values) is not None:
                return True
        except NoSuchDomain:
            continue
    return False


def _one_below(domain: str, above: str) -> str:
    labels = domain.split(".")
    return ".".join(labels[-(above.count(".") + 2) :])
