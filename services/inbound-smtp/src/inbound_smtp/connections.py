"""How many are connected, in all and from one address."""

from __future__ import annotations

import ipaddress
from collections import Counter
from functools import lru_cache


class Connections:
    def __init__(self, *, total: int, per_ip: int) -> None:
        self._total = total
        self._per_ip = per_ip
        self._open: Counter[str] = Counter()
        self.count = 0

    def enter(self, ip: str) -> bool:
        """False: one too many; then there is nothing to leave."""
        place = place_of(ip)
        if self.count >= self._total or self._open[place] >= self._per_ip:
            return False
        self._open[place] += 1
        self.count += 1
        return True

    def leave(self, ip: str) -> None:
        place = place_of(ip)
        self.count -= 1
        self._open[place] -= 1
        if self._open[place] <= 0:
            del self._open[place]


@lru_cache(maxsize=10_000)
def place_of(ip: str) -> str:
    """An IPv6 client has a /64 to itself; a mapped IPv4 address is that address."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)
