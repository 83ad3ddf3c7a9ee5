"""Which sources this host can bind: one that it cannot must not take a site down."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Sequence
from uuid import UUID

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
        self._found: dict[UUID, str | None] = {}
        self._at = float("-inf")

    def works(self, source: KnownSource) -> bool:
        return self._found.get(source.id) is None

    async def look(self, known: Sequence[KnownSource]) -> None:
        """Tries each, and tells the operator what came of it. Raises Unavailable."""
        since = time.monotonic() - self._at
        if not known or (since < BIND_SECONDS and {source.id for source in known} == self._found.keys()):
            return
        found = {source.id: bind_error(source.ip4, source.ip6) for source in known}
        for id_, error in found.items():
            if error is not None and self._found.get(id_) != error:
                log.error("a source cannot be used on this host", source=str(id_), host=self._host, error=error)
        self._found, self._at = found, time.monotonic()
        async with self._store.worker() as db:
            await sources.seen(db, self._host, list(found.items()))


def bind_error(*addresses: str | None) -> str | None:
    """Why this host cannot send from one of them; None: it can."""
    for address in addresses:
        if address is None:
            continue
        ip = ipaddress.ip_address(address)
        try:
            with socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_STREAM) as trial:
                trial.bind((address, 0))
        except OSError as error:
            return f"{address}: {error.strerror or error}"
    return None
