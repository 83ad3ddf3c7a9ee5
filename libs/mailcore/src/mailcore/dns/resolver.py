"""Questions to the DNS, with three kinds of answer: values, nothing (empty values), or one of two errors.

NoSuchDomain       the name does not exist (NXDOMAIN): permanent
TemporaryDNSError  nobody could tell (SERVFAIL, time-out, broken answers): temporary

`Resolver` is the seam; `DnsResolver` asks name servers through dnspython and keeps answers for their TTL (RFC 2308 for
negative ones); `StaticResolver` stands in for it in tests.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rdata
import dns.resolver
import dns.reversename

from mailcore.kit.errors import Invalid, Refused, Unavailable

T = TypeVar("T")

UDP_PAYLOAD = 1_232
"""Octets of an answer over UDP that pass every network unfragmented (DNS flag day 2020); larger ones come by TCP."""
MAX_NEGATIVE_TTL = 300
MAX_IN_FLIGHT = 200
_MAX_CNAMES = 16


class NoSuchDomain(Refused):
    """RFC 1035 §4.1.1, RCODE 3. RFC 3463 §3.2: X.1.2, bad destination system address."""

    enhanced = "5.1.2"


class TemporaryDNSError(Unavailable):
    """RFC 3463 §3.5: X.4.3, directory server failure."""

    enhanced = "4.4.3"


@dataclass(frozen=True, slots=True)
class Records(Generic[T]):
    values: tuple[T, ...]
    """Empty: the name exists and has no record of this type."""
    ttl: int
    """Seconds that the answer may be kept, as the server gave it."""
    secure: bool = False
    """Validated by DNSSEC (RFC 4035 §3.2.3), all of it, aliases and "there is none" too, by a resolver whose word we take."""
    canonical: str = ""
    """The name that CNAMEs led to; the name asked for where there were none. Empty: not known."""


@dataclass(frozen=True, slots=True)
class MX:
    preference: int
    host: str
    """Without the trailing dot; empty for the root: null MX (RFC 7505)."""


@dataclass(frozen=True, slots=True)
class TlsaRecord:
    """RFC 6698 §2.1."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex().upper()}"


@dataclass(frozen=True, slots=True)
class CAA:
    """RFC 8659 §4.1."""

    tag: str
    """`issue`, `issuewild`, `iodef` …, in lower case."""
    value: str


class Resolver(Protocol):
    """Names in normal form (mailcore.dns.names). CNAMEs are followed. Raises NoSuchDomain and TemporaryDNSError only."""

    async def mx(self, name: str) -> Records[MX]: ...
    async def a(self, name: str) -> Records[str]: ...
    async def aaaa(self, name: str) -> Records[str]: ...
    async def txt(self, name: str) -> Records[str]:
        """Each record's strings joined (RFC 7208 §3.3); octets that are no UTF-8 as U+FFFD."""
        ...

    async def cname(self, name: str) -> Records[str]:
        """The name's own alias, not followed."""
        ...

    async def caa(self, name: str) -> Records[CAA]: ...

    async def tlsa(self, name: str) -> Records[TlsaRecord]:
        """`name`: `_25._tcp.mx.example.com`."""
        ...

    async def ptr(self, address: str) -> Records[str]:
        """Host names of an IP address."""
        ...


@dataclass(frozen=True, slots=True)
class _Failure:
    error: type[NoSuchDomain] | type[TemporaryDNSError]
    public: str
    ttl: float


_Outcome = Records[Any] | _Failure


class DnsResolver:
    """dnspython's resolver behind a cache of our own.

    nameservers  `host`, `host:port` or `[v6]:port`; None takes those of the machine
    timeout      seconds for one name server's answer
    lifetime     seconds for a question in all; None: time for two name servers and a little more
    cache_size   answers kept; 0 keeps none, for whoever has just been told that a record has changed
    min_ttl      seconds that an answer is kept at least, max_ttl at most; negative ones MAX_NEGATIVE_TTL at most
    failure_ttl  seconds that a temporary failure is kept, so that a queue does not wait `lifetime` for each of its mails
    trust_ad     whether the name servers validate DNSSEC and nobody between them and us can say so for them; None: where all of
                 them are on this machine

    Of equal questions in flight only one is asked. Belongs to one event loop.
    """

    def __init__(
        self,
        nameservers: Sequence[str] | None = None,
        *,
        timeout: float = 5.0,
        lifetime: float | None = None,
        cache_size: int = 50_000,
        min_ttl: float = 5.0,
        max_ttl: float = 3_600.0,
        failure_ttl: float = 1.0,
        trust_ad: bool | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolver = dns.asyncresolver.Resolver(configure=nameservers is None)
        if nameservers is not None:
            self._resolver.nameservers = [_nameserver(text) for text in nameservers]
        self._resolver.use_edns(0, 0, UDP_PAYLOAD)
        # RFC 6840 §5.7: AD in a question asks to be told whether the answer was validated
        self._resolver.flags = dns.flags.RD | dns.flags.AD
        self.trusts_ad = _all_here(self._resolver.nameservers) if trust_ad is None else trust_ad
        self._resolver.timeout = timeout
        self._resolver.lifetime = 2.4 * timeout if lifetime is None else lifetime
        self._cache_size = cache_size
        self._min_ttl, self._max_ttl, self._failure_ttl = min_ttl, max_ttl, failure_ttl
        self._monotonic = monotonic
        self._cache: OrderedDict[tuple[str, str], tuple[float, _Outcome]] = OrderedDict()
        self._in_flight: dict[tuple[str, str], asyncio.Task[_Outcome]] = {}
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)

    async def mx(self, name: str) -> Records[MX]:
        return await self._ask(name, "MX", lambda r: MX(r.preference, _host(r.exchange)))

    async def a(self, name: str) -> Records[str]:
        return await self._ask(name, "A", lambda r: str(r.address))

    async def aaaa(self, name: str) -> Records[str]:
        return await self._ask(name, "AAAA", lambda r: str(r.address))

    async def txt(self, name: str) -> Records[str]:
        return await self._ask(name, "TXT", lambda r: b"".join(r.strings).decode("utf-8", "replace"))

    async def cname(self, name: str) -> Records[str]:
        return await self._ask(name, "CNAME", lambda r: _host(r.target))

    async def caa(self, name: str) -> Records[CAA]:
        return await self._ask(name, "CAA", lambda r: CAA(_text(r.tag).lower(), _text(r.value)))

    async def tlsa(self, name: str) -> Records[TlsaRecord]:
        return await self._ask(name, "TLSA", lambda r: TlsaRecord(r.usage, r.selector, r.mtype, bytes(r.cert)))

    async def ptr(self, address: str) -> Records[str]:
        return await self._ask(_reverse(address), "PTR", lambda r: _host(r.target))

    async def _ask(self, name: str, rdtype: str, value_of: Callable[[Any], T]) -> Records[T]:
        key = (name.lower().removesuffix("."), rdtype)
        outcome = self._kept(key)
        if outcome is None:
            asking = self._in_flight.get(key)
            if asking is None:
                asking = asyncio.create_task(self._query(key, value_of))
                self._in_flight[key] = asking
                asking.add_done_callback(lambda _: self._in_flight.pop(key, None))
            # one who gives up must not take the answer from the others
            outcome = await asyncio.shield(asking)
        if isinstance(outcome, _Failure):
            raise outcome.error(outcome.public)
        return outcome

    async def _query(self, key: tuple[str, str], value_of: Callable[[Any], T]) -> _Outcome:
        name, rdtype = key
        try:
            qname = dns.name.from_text(name.encode("ascii").decode() + ".") if name else None
        except (UnicodeError, dns.exception.DNSException):
            qname = None
        if qname is None:
            return _Failure(NoSuchDomain, f"{name[:260]!a} is not a domain name.", 0)
        outcome: _Outcome
        try:
            async with self._slots:
                answer = await self._resolver.resolve(qname, rdtype, raise_on_no_answer=False, search=False)
            values = () if answer.rrset is None else tuple(value_of(record) for record in answer.rrset)
            secure = self.trusts_ad and bool(answer.response.flags & dns.flags.AD)
            outcome = Records(values, answer.chaining_result.minimum_ttl, secure, _host(answer.canonical_name))
        except dns.resolver.NXDOMAIN as error:
            outcome = _Failure(NoSuchDomain, f"The domain {name} does not exist.", _negative_ttl(error, qname))
        except (dns.exception.DNSException, OSError) as error:
            words = f"The DNS did not answer for {name} ({rdtype}): {_reason(error)}."
            outcome = _Failure(TemporaryDNSError, words, self._failure_ttl)
        self._keep(key, outcome)
        return outcome

    def _kept(self, key: tuple[str, str]) -> _Outcome | None:
        found = self._cache.get(key)
        if found is None:
            return None
        expires, outcome = found
        if expires <= self._monotonic():
            del self._cache[key]
            return None
        self._cache.move_to_end(key)
        return outcome

    def _keep(self, key: tuple[str, str], outcome: _Outcome) -> None:
        if not self._cache_size:
            return
        if isinstance(outcome, _Failure) and outcome.error is TemporaryDNSError:
            ttl = outcome.ttl  # RFC 2308 §7: at most five minutes
        else:
            negative = isinstance(outcome, _Failure) or not outcome.values
            ttl = max(min(outcome.ttl, MAX_NEGATIVE_TTL if negative else self._max_ttl), self._min_ttl)
        if ttl <= 0:
            return
        self._cache[key] = (self._monotonic() + ttl, outcome)
        self._cache.move_to_end(key)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)


class StaticResolver:
    """Answers from a table, for tests: `{"example.org": {"MX": ["10 mx.example.org."], "TXT": ["v=spf1 -all"]}}`.

    Values are in the presentation form of zone files, TXT without quotes. Names in `failing` answer SERVFAIL; answers about names
    in `signed` and below them are validated. `asked` holds every question, `(name, type)`.
    """

    def __init__(
        self,
        zones: Mapping[str, Mapping[str, Sequence[str]]],
        *,
        failing: Collection[str] = (),
        signed: Collection[str] = (),
        ttl: int = 60,
    ) -> None:
        self.zones = zones
        self.failing = failing
        self.signed = signed
        self.ttl = ttl
        self.asked: list[tuple[str, str]] = []

    async def mx(self, name: str) -> Records[MX]:
        return self._answer(name, "MX", _mx_from_text)

    async def a(self, name: str) -> Records[str]:
        return self._answer(name, "A", str)

    async def aaaa(self, name: str) -> Records[str]:
        return self._answer(name, "AAAA", str)

    async def txt(self, name: str) -> Records[str]:
        return self._answer(name, "TXT", str)

    async def cname(self, name: str) -> Records[str]:
        return self._answer(name, "CNAME", lambda text: text.removesuffix(".").lower())

    async def caa(self, name: str) -> Records[CAA]:
        return self._answer(name, "CAA", _caa_from_text)

    async def tlsa(self, name: str) -> Records[TlsaRecord]:
        return self._answer(name, "TLSA", _tlsa_from_text)

    async def ptr(self, address: str) -> Records[str]:
        return self._answer(_reverse(address), "PTR", lambda text: text.removesuffix(".").lower())

    def _answer(self, name: str, rdtype: str, value_of: Callable[[str], T]) -> Records[T]:
        name = name.lower().removesuffix(".")
        self.asked.append((name, rdtype))
        secure = True
        for _ in range(_MAX_CNAMES):
            secure = secure and any(name == zone or name.endswith(f".{zone}") for zone in self.signed)
            if name in self.failing:
                raise TemporaryDNSError(f"The DNS did not answer for {name} ({rdtype}): SERVFAIL.")
            records = self.zones.get(name)
            if records is None:
                # RFC 8020: a name exists when one below it does
                if any(other.endswith(f".{name}") for other in self.zones):
                    return Records((), self.ttl, secure, name)
                raise NoSuchDomain(f"The domain {name} does not exist.")
            if "CNAME" not in records or rdtype == "CNAME":
                return Records(tuple(map(value_of, records.get(rdtype, ()))), self.ttl, secure, name)
            name = records["CNAME"][0].lower().removesuffix(".")
        raise TemporaryDNSError(f"The DNS did not answer for {name} ({rdtype}): its aliases lead in a circle.")


def _reason(error: Exception) -> str:
    """What became of the question, for people: `SERVFAIL`, `REFUSED`, `no answer in time`."""
    # of each try its name server, over TCP, port, what it said or what went wrong, the response
    tries = [each[3] for each in getattr(error, "kwargs", {}).get("errors", ())] or [error]
    return ", ".join(dict.fromkeys(one if isinstance(one, str) else _went_wrong(one) for one in tries))


def _went_wrong(error: Exception) -> str:
    if isinstance(error, dns.exception.Timeout):
        return "no answer in time"
    return "no name server can be reached" if isinstance(error, OSError) else "no answer that can be read"


def _nameserver(text: str) -> dns.nameserver.Do53Nameserver:
    host, colon, port = text.rpartition(":")
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif not colon or ":" in host:  # no port, or a bare IPv6 address
        host, port = text, ""
    try:
        number = int(port or 53)
        if not 0 < number < 65_536:
            raise ValueError(port)
        return dns.nameserver.Do53Nameserver(str(ipaddress.ip_address(host)), number)
    except ValueError as error:
        raise Invalid(f"{text!a} is not a name server: write `192.0.2.1:53` or `[2001:db8::1]:53`.") from error


_DOCKER = ipaddress.ip_address("127.0.0.11")
"""Docker's own name server is on this machine by its address only: it passes on what others say."""


def _all_here(nameservers: Sequence[Any]) -> bool:
    found = [ipaddress.ip_address(getattr(server, "address", server).partition("%")[0]) for server in nameservers]
    return bool(found) and all(address.is_loopback and address != _DOCKER for address in found)


def _host(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""


def _mx_from_text(text: str) -> MX:
    preference, host = text.split()
    return MX(int(preference), host.removesuffix(".").lower())


def _caa_from_text(text: str) -> CAA:
    _, tag, value = text.split(None, 2)
    return CAA(tag.lower(), value.strip('"'))


def _tlsa_from_text(text: str) -> TlsaRecord:
    usage, selector, matching, data = text.split(None, 3)
    return TlsaRecord(int(usage), int(selector), int(matching), bytes.fromhex(data))


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")


def _reverse(address: str) -> str:
    try:
        return dns.reversename.from_address(address).to_text(omit_final_dot=True)
    except dns.exception.DNSException as error:
        raise NoSuchDomain(f"{address[:80]!a} is not an IP address.") from error


def _negative_ttl(error: dns.resolver.NXDOMAIN, qname: dns.name.Name) -> float:
    try:
        response: dns.message.QueryMessage = error.kwargs["responses"][qname]
        return float(response.resolve_chaining().minimum_ttl)
    except (KeyError, dns.exception.DNSException):
        return 0.0
