"""The PROXY header: a load balancer before us names the client (its specification, 2020, §2.1 and §2.2).

Only from addresses that the operator trusts; whoever else sends one is a client that says something that is no command.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.kit.addresses import Network, parse_address

SECONDS = 10.0
"""A balancer sends it with its first packet."""
_MAX_V1 = 107
"""Octets, with CRLF (§2.1)."""
_MAX_V2 = 4_096
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_SIZES = {1: (4, 12), 2: (16, 36)}
"""Address family → octets of an address, and of the whole: two addresses, two ports (§2.2)."""


class BadHeader(ValueError):
    pass


@dataclass(frozen=True, slots=True)
class Header:
    peer: str | None
    """The client's address; None: the balancer speaks for itself, as in its health checks."""
    size: int
    """Octets of the header."""


@dataclass(frozen=True, slots=True)
class Proxies:
    """From whom a header is expected."""

    version: int | None = None
    """1 or 2; None: from nobody."""
    trusted: Sequence[Network] = ()
    """Empty: everybody who can reach us is a balancer."""

    def expected(self, peer: str) -> bool:
        if self.version is None:
            return False
        if not self.trusted:
            return True
        try:
            address = parse_address(peer.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self.trusted if network.version == address.version)


def read(octets: bytes | bytearray, version: int) -> Header | None:
    """The header at the beginning of `octets`; None: there is more of it to come. Raises BadHeader."""
    return _v1(octets) if version == 1 else _v2(octets)


def _v1(octets: bytes | bytearray) -> Header | None:
    end = octets.find(b"\r\n", 0, _MAX_V1)
    if end < 0:
        if len(octets) >= _MAX_V1 or not b"PROXY ".startswith(bytes(octets[:6])):
            raise BadHeader
        return None
    words = bytes(octets[:end]).split(b" ")
    if words[:2] == [b"PROXY", b"UNKNOWN"]:
        return Header(None, end + 2)
    if len(words) != 6 or words[0] != b"PROXY" or words[1] not in (b"TCP4", b"TCP6"):
        raise BadHeader
    if not all(port.isdigit() and len(port) <= 5 for port in words[4:]):
        raise BadHeader
    family = ipaddress.IPv4Address if words[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        client, _ = (family(word.decode("ascii")) for word in words[2:4])
    except ValueError as error:  # UnicodeDecodeError too
        raise BadHeader from error
    return Header(str(parse_address(str(client))), end + 2)


def _v2(octets: bytes | bytearray) -> Header | None:
    if not _SIGNATURE.startswith(bytes(octets[:12])):
        raise BadHeader
    if len(octets) < 16:
        return None
    command, family = octets[12], octets[13] >> 4
    size = int.from_bytes(octets[14:16], "big")
    if command not in (0x20, 0x21) or size > _MAX_V2:
        raise BadHeader
    if len(octets) < 16 + size:
        return None
    if command == 0x20 or family not in _SIZES:
        return Header(None, 16 + size)
    address, least = _SIZES[family]
    if size < least:
        raise BadHeader
    return Header(str(parse_address(str(ipaddress.ip_address(bytes(octets[16 : 16 + address]))))), 16 + size)
