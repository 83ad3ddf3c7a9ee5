"""How many are connected, in all and from one address."""

from __future__ import annotations

from collections import Counter

from mailcore.kit.addresses import client_network


class Connections:
    def __init__(self, *, total: int, per_ip: int) -> None:
        self._total = total
        self._per_ip = per_ip
        self._open: Counter[str] = Counter()
        self.count = 0

    @property
    def share(self) -> float:
        """Of all that there may be."""
        return self.count / self._total

    def enter(self, ip: str) -> bool:
        """False: one too many; then there is nothing to leave."""
        place = client_network(ip)
        if self.count >= self._total or self._open[place] >= self._per_ip:
            return False
        self._open[place] += 1
        self.count += 1
        return True

    def leave(self, ip: str) -> None:
        place = client_network(ip)
        self.count -= 1
        self._open[place] -= 1
        if self._open[place] <= 0:
            del self._open[place]
