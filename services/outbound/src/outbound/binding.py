"""Which sources this host can bind: one that it cannot must not take a site down."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Sequence

from mailcore.kit.log import logger
from mailcore.store import sources
from mailcore.store.session import Store
from mailcore.store.sources import KnownSource

log = logger(__name__)

BIND_SECONDS = 60.0
"""Between two looks, while the sources stay the same."""


class Binding:
    def __init__(self, store: Store, host: str) -> None:
        self._store = store
        self._host = host
        self._errors: dict[str, str | None] = {}
        """By address."""
        self._at = float("-inf")

    def addresses(self, source: KnownSource) -> tuple[str | None, str | None]:
        """Its IPv4 and its IPv6 address, where this host can send from them."""
        ip4, ip6 = source.ip4, source.ip6
        return (
            ip4 if ip4 and self._errors.get(ip4) is None else None,
            ip6 if ip6 and self._errors.get(ip6) is None else None,
        )

    async def look(self, known: Sequence[KnownSource]) -> None:
        """Tries each address, and tells the operator what came of it. Raises Unavailable."""
        ips = {ip for source in known for ip in (source.ip4, source.ip6) if ip}
        if not ips or (time.monotonic() - self._at < BIND_SECONDS and ips == self._errors.keys()):
            return
        errors = {ip: bind_error(ip) for ip in ips}
        for ip, error in errors.items():
            if error is not None and self._errors.get(ip) != error:
                log.error("this host cannot send from an address", host=self._host, error=error)
        self._errors, self._at = errors, time.monotonic()
        found = []
        for source in known:
            words = [error for ip in (source.ip4, source.ip6) if ip and (error := errors[ip]) is not None]
            found.append((source.id, any(self.addresses(source)), "; ".join(words) or None))
        async with self._store.worker() as db:
            await sources.seen(db, self._host, found)


def bind_error(address: str) -> str | None:
    """Why this host cannot send from it; None: it can."""
    ip = ipaddress.ip_address(address)
    try:
        with socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.bind((address, 0))
    except OSError as error:
        return f"{address}: {error.strerror or error}"
    return None
