"""Hosts and addresses that a tenant may name: every spelling to one form, and which networks are closed to it.

Closed is what the special-purpose registries of IANA keep from the public Internet (RFC 6890 and its updates), every IPv6 form
that carries an IPv4 address inside it except the plainly mapped one, and the addresses at which clouds serve their metadata.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

import idna

from mailcore.kit.errors import Invalid

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_NAME = 253
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"  # with underscores: container networks use them in host names
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")

_CLOSED_V4 = {
    IPv4Network(network): name
    for network, name in {
        "0.0.0.0/8": "this host (RFC 1122 §3.2.1.3)",
        "10.0.0.0/8": "a private network (RFC 1918)",
        "100.64.0.0/10": "shared address space (RFC 6598)",
        "127.0.0.0/8": "this host (loopback)",
        "168.63.129.16/32": "a cloud's own service",
        "169.254.0.0/16": "link-local (RFC 3927)",
        "172.16.0.0/12": "a private network (RFC 1918)",
        "192.0.0.0/24": "protocol assignments (RFC 6890)",
        "192.0.2.0/24": "for documentation (RFC 5737)",
        "192.31.196.0/24": "AS112 (RFC 7535)",
        "192.52.193.0/24": "AMT (RFC 7450)",
        "192.88.99.0/24": "6to4 relays (RFC 7526)",
        "192.168.0.0/16": "a private network (RFC 1918)",
        "192.175.48.0/24": "AS112 (RFC 7534)",
        "198.18.0.0/15": "for benchmarks (RFC 2544)",
        "198.51.100.0/24": "for documentation (RFC 5737)",
        "203.0.113.0/24": "for documentation (RFC 5737)",
        "224.0.0.0/4": "multicast (RFC 5771)",
        "240.0.0.0/4": "reserved (RFC 1112 §4)",
    }.items()
}
_CLOSED_V6 = {
    IPv6Network(network): name
    for network, name in {
        "::/96": "this host, or an embedded IPv4 address (RFC 4291 §2.5.5.1)",
        "::ffff:0:0:0/96": "an embedded IPv4 address (RFC 2765)",
        "64:ff9b::/96": "an embedded IPv4 address (NAT64, RFC 6052)",
        "64:ff9b:1::/48": "an embedded IPv4 address (NAT64, RFC 8215)",
        "100::/63": "discard or dummy (RFC 6666, RFC 9780)",
        "2001::/23": "protocol assignments, Teredo among them (RFC 2928, RFC 4380)",
        "2001:db8::/32": "for documentation (RFC 3849)",
        "2002::/16": "an embedded IPv4 address (6to4, RFC 3056)",
        "2620:4f:8000::/48": "AS112 (RFC 7534)",
        "3fff::/20": "for documentation (RFC 9637)",
        "5f00::/16": "segment routing (RFC 9602)",
        "fc00::/7": "a private network (RFC 4193)",
        "fe80::/10": "link-local (RFC 4291)",
        "fec0::/10": "site-local (RFC 3879)",
        "ff00::/8": "multicast (RFC 4291 §2.7)",
    }.items()
}
_ISATAP = (
    0x0000_5EFE,
    0x0200_5EFE,
)  # RFC 5214 §6.1: the upper half of an interface id whose lower half is an IPv4 address


def refusal(address: Address, allow: Sequence[Network] = ()) -> str | None:
    """What keeps this address closed, in words; None when it may be used. `allow`: networks the operator has opened."""
    address = plain(address)
    if any(address in network for network in allow if network.version == address.version):
        return None
    closed: dict[IPv4Network, str] | dict[IPv6Network, str] = (
        _CLOSED_V4 if isinstance(address, IPv4Address) else _CLOSED_V6
    )
    for network, name in closed.items():
        if address in network:
            return name
    if isinstance(address, IPv6Address) and (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        return "an embedded IPv4 address (ISATAP, RFC 5214)"
    return None


def plain(address: Address) -> Address:
    """An IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2) is the IPv4 address: a socket connects to that one."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_address(text: str) -> Address:
    """An address as a resolver gives it. Raises ValueError."""
    return plain(ip_address(text))


@lru_cache(maxsize=10_000)
def client_network(text: str | None) -> str:
    """Whom limits by address count as one: an IPv4 address, an IPv6 /64. What is no address: all such together."""
    try:
        address = parse_address((text or "").partition("%")[0])
    except ValueError:
        return "unknown"
    return str(address) if address.version == 4 else str(IPv6Network((address, 64), strict=False))


def parse_host(text: str) -> Address | str:
    """A host as people write it: an address in any spelling that some resolver or browser takes, or a name in its normal form.

    Names become lower-case A-labels without the trailing dot. Numbers are read as the URL standard does (decimal, octal and
    hexadecimal, one to four parts), so that `0x7f.1` is the loopback address here too and not a name. Raises Invalid.
    """
    if text.startswith("["):
        return _ipv6(text)
    name = text
    if not name.isascii():
        try:
            name = idna.uts46_remap(name, std3_rules=False, transitional=False)
        except (idna.IDNAError, UnicodeError) as error:
            raise Invalid(f"{_shown(text)} is not a host name.") from error
    name = name.lower().removesuffix(".")
    if name.rpartition(".")[2].isdigit() or name.rpartition(".")[2].startswith("0x"):
        return _ipv4(name, text)
    try:
        name = ".".join(label if label.isascii() else idna.alabel(label).decode("ascii") for label in name.split("."))
    except (idna.IDNAError, UnicodeError) as error:
        raise Invalid(f"{_shown(text)} is not a host name.") from error
    if len(name) > MAX_NAME or not _NAME.match(name):
        if ":" in name:
            return _ipv6(f"[{text}]")
        raise Invalid(f"{_shown(text)} is not a host name.")
    return name


def _ipv6(text: str) -> Address:
    # RFC 6874: a zone id names an interface of this machine; nobody outside it can mean one
    if not text.endswith("]") or "%" in text:
        raise Invalid(f"{_shown(text)} is not an IPv6 address that can be reached from here.")
    try:
        return plain(IPv6Address(text[1:-1]))
    except ValueError as error:
        raise Invalid(f"{_shown(text)} is not an IPv6 address.") from error


def _ipv4(name: str, text: str) -> IPv4Address:
    parts = name.split(".")
    try:
        numbers = [_number(part) for part in parts]
        if len(parts) > 4 or any(number > 255 for number in numbers[:-1]) or numbers[-1] >= 256 ** (5 - len(parts)):
            raise ValueError
    except ValueError as error:
        raise Invalid(f"{_shown(text)} is not an IPv4 address.") from error
    value = numbers[-1]
    for position, number in enumerate(numbers[:-1]):
        value += number << 8 * (3 - position)
    return IPv4Address(value)


def _number(part: str) -> int:
    if len(part) > 32 or not part.isascii():
        raise ValueError
    if part.startswith("0x"):
        return int(part[2:] or "0", 16) if re.fullmatch(r"[0-9a-f]*", part[2:]) else _fail()
    if len(part) > 1 and part.startswith("0"):
        return int(part[1:], 8) if re.fullmatch(r"[0-7]*", part[1:]) else _fail()
    return int(part) if part.isdigit() else _fail()


def _fail() -> int:
    raise ValueError


def _shown(text: str) -> str:
    return ascii(text[:80])
