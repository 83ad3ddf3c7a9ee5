"""Whether an address may send for a domain: check_host() (RFC 7208).

    result = await check_host("192.0.2.1", "send.example.org", "bounce@send.example.org", resolver)

1. `_record`   the one record of the domain (§4.5)
2. `_parse`    all its terms: an error in any of them is one of the whole (§4.6)
3. `_evaluate` term by term until one matches; include and redirect go back to 1 (§5, §6)

The record is hostile: at most MAX_LOOKUPS terms ask the DNS and MAX_VOID of their questions may find nothing (§4.6.4). Explanations
(exp=) are checked, never fetched. The caller sets a deadline.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from urllib.parse import quote

from mailcore.dns.resolver import NoSuchDomain, Records, Resolver, TemporaryDNSError
from mailcore.dns.verdict import is_spf
from mailcore.mailauth.spf.count import MAX_LOOKUPS, MAX_MX, MAX_VOID

MAX_NAMES = 10
"""Of a ptr term; those after them are not looked at (§4.6.4)."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Result(StrEnum):
    """§2.6."""

    NONE = "none"
    NEUTRAL = "neutral"
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    SOFTFAIL = "softfail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


@dataclass(frozen=True, slots=True)
class Checked:
    result: Result
    term: str
    """What decided, as it stands in a record; what was wrong, of an error; empty where there is no record."""


class _Wrong(Exception):
    """§2.6.7: the record cannot be interpreted."""


_QUALIFIERS = {"+": Result.PASS, "-": Result.FAIL, "~": Result.SOFTFAIL, "?": Result.NEUTRAL}
_MECHANISM = re.compile(r"([+?~-]?)(all|include|a|mx|ptr|ip4|ip6|exists)([:/].*)?\Z", re.IGNORECASE)
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)\Z")
_MACRO = re.compile(r"%(?:\{([A-Za-z])([0-9]*)([rR]?)([.+,/_=-]*)\}|([%_-]))")
_CIDR = re.compile(r"(?:/(\d{1,3}))?(?://(\d{1,3}))?\Z")
_TOP = re.compile(r"(?=[^.]*[A-Za-z-])[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.?\Z")


@dataclass(frozen=True, slots=True)
class _Term:
    text: str
    result: Result
    kind: str
    target: str
    """Of a, mx, ptr empty for the domain itself."""
    v4: int = 32
    v6: int = 128


@dataclass(frozen=True, slots=True)
class _Record:
    terms: tuple[_Term, ...]
    redirect: str | None


@dataclass(slots=True)
class _Asking:
    ip: Address
    sender: str
    helo: str
    resolver: Resolver
    lookups: int = 0
    void: int = 0
    names: list[str] | None = field(default=None)

    def count(self) -> None:
        self.lookups += 1
        if self.lookups > MAX_LOOKUPS:
            raise _Wrong(f"more than {MAX_LOOKUPS} terms ask the DNS")

    def found(self, records: Records[str]) -> Records[str]:
        if not records.values:
            self.void += 1
            if self.void > MAX_VOID:
                raise _Wrong(f"more than {MAX_VOID} of its names do not exist")
        return records


_EMPTY: Records[str] = Records((), 0)


async def check_host(
    ip: str, domain: str, sender: str, resolver: Resolver, *, helo: str = "", record: str | None = None
) -> Checked:
    """`domain` and `sender` of MAIL FROM; of an empty one HELO's name and `postmaster@` it (§2.4). `record`: as if the domain had
    published this one. Raises nothing of its own."""
    address = ipaddress.ip_address(ip)
    address = getattr(address, "ipv4_mapped", None) or address
    if not sender.partition("@")[0]:
        sender = f"postmaster@{sender.rpartition('@')[2] or domain}"
    asking = _Asking(address, sender, helo or domain, resolver)
    try:
        domain = domain.lower().removesuffix(".")
        return await (_check(domain, asking) if record is None else _judge(record, domain, asking))
    except TemporaryDNSError as error:
        return Checked(Result.TEMPERROR, error.public)
    except _Wrong as wrong:
        return Checked(Result.PERMERROR, str(wrong))


async def _check(domain: str, asking: _Asking) -> Checked:
    if not _is_name(domain):
        return Checked(Result.NONE, "")
    text = await _record(domain, asking.resolver)
    return Checked(Result.NONE, "") if text is None else await _judge(text, domain, asking)


async def _judge(text: str, domain: str, asking: _Asking) -> Checked:
    record = _parse(text)
    for term in record.terms:
        if await _matches(term, domain, asking):
            return Checked(term.result, term.text)
    if record.redirect is not None:
        asking.count()
        target = await _expand(record.redirect, domain, asking)
        there = await _check(target, asking)
        if there.result is Result.NONE:  # §6.1
            raise _Wrong(f"redirect={target} has no SPF record")
        return there
    return Checked(Result.NEUTRAL, "")


# ---- 1. the record ---------------------------------------------------------------------------------------------------


async def _record(domain: str, resolver: Resolver) -> str | None:
    try:
        texts = [text for text in (await resolver.txt(domain)).values if is_spf(text)]
    except NoSuchDomain:
        return None
    if len(texts) > 1:
        raise _Wrong(f"{domain} has {len(texts)} SPF records")
    if texts and not texts[0].isascii():
        raise _Wrong(f"the SPF record of {domain} is not ASCII")
    return texts[0] if texts else None


def _is_name(domain: str) -> bool:
    """§4.3: what is no name of several labels has no record."""
    labels = domain.split(".")
    return len(labels) > 1 and len(domain) <= 253 and all(0 < len(label) <= 63 for label in labels)


# ---- 2. its terms ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4_096)
def _parse(text: str) -> _Record:
    terms: list[_Term] = []
    modifiers: dict[str, str] = {}
    for word in text.split(" ")[1:]:
        if not word:
            continue
        if modifier := _MODIFIER.match(word):
            name, value = modifier[1].lower(), modifier[2]
            _check_macros(value)
            if name in ("redirect", "exp"):
                if name in modifiers:
                    raise _Wrong(f"{name}= stands twice")
                _check_domain_spec(value, word)
                modifiers[name] = value
            continue
        mechanism = _MECHANISM.match(word)
        if mechanism is None:
            raise _Wrong(f"`{word[:60]}` is no term")
        terms.append(_term(word, _QUALIFIERS[mechanism[1] or "+"], mechanism[2].lower(), mechanism[3] or ""))
    # §5.1: a redirect beside `all` is not looked at
    redirect = None if any(term.kind == "all" for term in terms) else modifiers.get("redirect")
    return _Record(tuple(terms), redirect)


def _term(word: str, result: Result, kind: str, rest: str) -> _Term:
    if kind == "all":
        if rest:
            raise _Wrong(f"`{word[:60]}` has an argument")
        return _Term(word, result, kind, "")
    if kind in ("ip4", "ip6"):
        try:
            network = ipaddress.ip_network(rest[1:], strict=False) if rest.startswith(":") else None
        except ValueError:
            network = None
        if network is None or network.version != int(kind[2]) or _odd_prefix(rest):
            raise _Wrong(f"`{word[:60]}` names no network")
        return _Term(word, result, kind, str(network))
    v4, v6 = 32, 128
    if kind in ("a", "mx"):
        cidr = _CIDR.search(rest)
        if cidr is not None:
            rest = rest[: cidr.start()]
            v4, v6 = _prefix(cidr[1], 32, word), _prefix(cidr[2], 128, word)
    if rest and not rest.startswith(":"):
        raise _Wrong(f"`{word[:60]}` has no such argument")
    target = rest[1:]
    if rest or kind in ("include", "exists"):
        _check_domain_spec(target, word)
    return _Term(word, result, kind, target, v4, v6)


def _odd_prefix(rest: str) -> bool:
    """ip_network takes masks and numbers with leading zeros; SPF does not."""
    _, slash, prefix = rest.partition("/")
    return bool(slash) and (not prefix.isdigit() or prefix != str(int(prefix)))


def _prefix(text: str | None, most: int, word: str) -> int:
    if text is None:
        return most
    if int(text) > most or text != str(int(text)):
        raise _Wrong(f"`{word[:60]}` has a prefix beyond {most}")
    return int(text)


def _check_macros(text: str) -> None:
    """§7.1: visible ASCII, and `%` only in a macro."""
    rest = _MACRO.sub("", text)
    if "%" in rest or not all("!" <= char <= "~" for char in rest):
        raise _Wrong(f"`{text[:60]}` has a broken macro")
    for macro in _MACRO.finditer(text):
        if macro[1] and (macro[1].lower() not in "slodiphcrtv" or (macro[2] and int(macro[2]) == 0)):
            raise _Wrong(f"`{macro[0]}` is no macro")


def _check_domain_spec(text: str, word: str) -> None:
    """§7.1: it ends in a top label or in a macro; c, r and t are for explanations."""
    _check_macros(text)
    if any(macro[1] and macro[1].lower() in "crt" for macro in _MACRO.finditer(text)):
        raise _Wrong(f"`{word[:60]}` uses a macro of explanations")
    last = text.removesuffix(".").rpartition(".")
    ends_in_macro = any(macro[1] and macro.end() == len(text) for macro in _MACRO.finditer(text))
    if not text or not (ends_in_macro or (last[1] and _TOP.match(last[2]))):
        raise _Wrong(f"`{word[:60]}` names no domain")


@lru_cache(maxsize=8_192)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


# ---- 3. evaluation ---------------------------------------------------------------------------------------------------


async def _matches(term: _Term, domain: str, asking: _Asking) -> bool:
    if term.kind == "all":
        return True
    if term.kind in ("ip4", "ip6"):
        return asking.ip in _network(term.target)
    asking.count()
    target = await _expand(term.target, domain, asking) if term.target else domain
    if term.kind == "include":
        there = await _check(target, asking)
        if there.result is Result.NONE:  # §5.2
            raise _Wrong(f"include:{target} has no SPF record")
        return there.result is Result.PASS
    if term.kind == "ptr":
        return any(name == target or name.endswith(f".{target}") for name in await _names(asking))
    if term.kind == "exists":
        return bool(asking.found(await _a(target, asking, v4=True)).values)
    hosts = [target]
    if term.kind == "mx":
        hosts = await _mx(target, asking)
    for host in hosts:
        answer = await _a(host, asking)
        for text in asking.found(answer).values if term.kind == "a" else answer.values:
            if asking.ip in ipaddress.ip_network((text, term.v4 if asking.ip.version == 4 else term.v6), strict=False):
                return True
    return False


async def _a(name: str, asking: _Asking, *, v4: bool = False) -> Records[str]:
    if not _is_name(name):
        return _EMPTY
    try:
        if v4 or asking.ip.version == 4:
            return await asking.resolver.a(name)
        return await asking.resolver.aaaa(name)
    except NoSuchDomain:
        return _EMPTY


async def _mx(name: str, asking: _Asking) -> list[str]:
    try:
        records = (await asking.resolver.mx(name)).values if _is_name(name) else ()
    except NoSuchDomain:
        records = ()
    hosts = [record.host for record in records if record.host]
    asking.found(Records(tuple(hosts), 0))
    if len(hosts) > MAX_MX:
        raise _Wrong(f"mx:{name} finds more than {MAX_MX} hosts")
    return hosts


async def _names(asking: _Asking) -> list[str]:
    """Names of the address that lead back to it (§5.5)."""
    if asking.names is None:
        asking.names = []
        try:
            found = (await asking.resolver.ptr(str(asking.ip))).values[:MAX_NAMES]
        except (NoSuchDomain, TemporaryDNSError):
            found = ()
        for name in found:
            try:
                if any(ipaddress.ip_address(text) == asking.ip for text in (await _a(name, asking)).values):
                    asking.names.append(name)
            except TemporaryDNSError:
                continue
    return asking.names


async def _expand(text: str, domain: str, asking: _Asking) -> str:
    """§7.3. A name that is too long loses labels from the left."""
    parts: list[str] = []
    at = 0
    for macro in _MACRO.finditer(text):
        parts.append(text[at : macro.start()])
        at = macro.end()
        if macro[5]:
            parts.append({"%": "%", "_": " ", "-": "%20"}[macro[5]])
            continue
        value = await _value(macro[1].lower(), domain, asking)
        labels = re.split(f"[{re.escape(macro[4])}]", value) if macro[4] else value.split(".")
        if macro[3]:
            labels.reverse()
        if macro[2]:
            labels = labels[-int(macro[2]) :]
        value = ".".join(labels)
        parts.append(quote(value, safe="-._~") if macro[1].isupper() else value)
    name = ("".join(parts) + text[at:]).lower().removesuffix(".")
    while len(name) > 253 and "." in name:
        name = name.partition(".")[2]
    return name


async def _value(letter: str, domain: str, asking: _Asking) -> str:
    local, _, of_sender = asking.sender.rpartition("@")
    if letter == "p":
        names = await _names(asking)
        own = [name for name in names if name == domain] + [name for name in names if name.endswith(f".{domain}")]
        return (own or names or ["unknown"])[0]
    if letter == "i" and asking.ip.version == 6:
        return ".".join(asking.ip.exploded.replace(":", ""))
    return {
        "s": asking.sender,
        "l": local,
        "o": of_sender,
        "d": domain,
        "i": str(asking.ip),
        "v": "in-addr" if asking.ip.version == 4 else "ip6",
        "h": asking.helo,
    }[letter]
