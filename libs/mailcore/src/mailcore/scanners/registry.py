"""Which scanners are on: those that have an address. A new one is a file beside this one, its settings, and its lines here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from mailcore.dns.resolver import Resolver
from mailcore.kit.guard import Guard, GuardedClient
from mailcore.kit.settings import Scanners
from mailcore.scanners import clamd, rspamd, spamd
from mailcore.scanners.base import Scanner
from mailcore.scanners.wire import address

_EVERYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))


@dataclass(frozen=True, slots=True)
class Configured:
    scanner: Scanner
    fail_open: bool
    """Mail that it could not look at goes on; otherwise it waits until it can."""


def configured(settings: Scanners, resolver: Resolver) -> list[Configured]:
    """Raises Invalid when an address cannot be read."""
    return list(_configured(settings, resolver))


def _configured(settings: Scanners, resolver: Resolver) -> Iterator[Configured]:
    one = settings
    if one.spamd:
        to = address(one.spamd, spamd.PORT)
        found = spamd.Spamd(to, seconds=one.spamd_seconds, max_bytes=one.spamd_max_bytes, user=one.spamd_user)
        yield Configured(found, one.spamd_fail == "open")
    if one.rspamd:
        asked = rspamd.Rspamd(
            operators_client(),
            one.rspamd,
            password=one.rspamd_password,
            controller=one.rspamd_controller,
            seconds=one.rspamd_seconds,
            max_bytes=one.rspamd_max_bytes,
        )
        yield Configured(asked, one.rspamd_fail == "open")
    if one.clamd:
        to = address(one.clamd, clamd.PORT)
        looks = clamd.Clamd(to, seconds=one.clamd_seconds, max_bytes=one.clamd_max_bytes)
        yield Configured(looks, one.clamd_fail == "open")


def operators_client() -> GuardedClient:
    """For what only the operator can name: it may be anywhere."""
    return GuardedClient(Guard("scanners", _EVERYWHERE))
