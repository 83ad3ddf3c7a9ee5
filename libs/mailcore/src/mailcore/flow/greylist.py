"""Who comes with a mail for the first time has to come again (RFC 6647): programs that only throw mail out do not.

Known is the triple of the client's network, the sender and the recipient; and, once one of its mails came again in time, the
network itself, which then has not to wait any more.
"""

from __future__ import annotations

import hashlib
import ipaddress
import time

from mailcore.kit.addresses import parse_address
from mailcore.store import greylist
from mailcore.store.session import Store

REMEMBERED_SECONDS = 600.0
MAX_REMEMBERED = 50_000


class Greylist:
    """One a process."""

    def __init__(self, store: Store, *, seconds: float) -> None:
        """`seconds`: how long the first mail has to wait."""
        self._store = store
        self._seconds = seconds
        self._passed: dict[bytes, float] = {}

    def passes(self, ip: str) -> bool:
        """It is known, without asking, that this client's network has not to wait."""
        return self._passed.get(_digest(_network(ip)), 0.0) > time.monotonic()

    async def wait(self, ip: str, mail_from: str, rcpt_to: str) -> float:
        """Seconds until the mail is taken; 0: now. Raises Unavailable."""
        network = _network(ip)
        mine = _digest(network)
        async with self._store.door() as db:
            age = await greylist.seen(db, mine, _digest(network, mail_from.lower(), rcpt_to.lower()), self._seconds)
        if age is not None:
            return max(1.0, self._seconds - age)
        if len(self._passed) >= MAX_REMEMBERED:
            self._passed.clear()
        self._passed[mine] = time.monotonic() + REMEMBERED_SECONDS
        return 0.0


def _network(ip: str) -> str:
    """Senders have many machines: an IPv4 /24, an IPv6 /64."""
    try:
        address = parse_address(ip.partition("%")[0])
    except ValueError:
        return "unknown"
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 64), strict=False))


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
