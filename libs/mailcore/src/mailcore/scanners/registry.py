"""Which scanners are on: those that have an address. A new one is a file beside this one, its settings, and its lines here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from pydantic import SecretStr

from mailcore.dns.resolver import Resolver
from mailcore.kit.guard import Guard, GuardedClient
from mailcore.kit.settings import Scanners
from mailcore.scanners import clamd, spamd
from mailcore.scanners.ai import Ai
from mailcore.scanners.base import Scanner
from mailcore.scanners.dnsbl import Dnsbl
from mailcore.scanners.rspamd import Rspamd
from mailcore.scanners.spamd import Spamd
from mailcore.scanners.spamhaus import Spamhaus
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
    if one.dnsbl or one.dnsbl_domains:
        lists = Dnsbl(resolver, addresses=one.dnsbl, domains=one.dnsbl_domains, seconds=one.dnsbl_seconds)
        yield Configured(lists, one.dnsbl_fail == "open")
    if one.spamhaus_username:
        knows = Spamhaus(
            operators_client(),
            one.spamhaus_username,
            one.spamhaus_password or SecretStr(""),
            base_url=one.spamhaus_url,
            seconds=one.spamhaus_seconds,
        )
        yield Configured(knows, one.spamhaus_fail == "open")
    if one.spamd:
        to = address(one.spamd, spamd.PORT)
        found = Spamd(to, seconds=one.spamd_seconds, max_bytes=one.spamd_max_bytes, user=one.spamd_user)
        yield Configured(found, one.spamd_fail == "open")
    if one.rspamd:
        asked = Rspamd(
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
    if one.ai_base_url or (one.ai_api_key and one.ai_api_key.get_secret_value()):
        judges = Ai(
            operators_client(),
            api_key=one.ai_api_key,
            base_url=one.ai_base_url,
            model=one.ai_model,
            scope=one.ai_input_scope,
            max_characters=one.ai_max_input_chars,
            seconds=one.ai_seconds,
        )
        yield Configured(judges, fail_open=True)  # without an opinion, those who were unsure decide


def learning(scanners: Iterable[Configured]) -> list[Spamd | Rspamd]:
    """Those that people can teach."""
    return [
        one.scanner
        for one in scanners
        if isinstance(one.scanner, Spamd) or (isinstance(one.scanner, Rspamd) and one.scanner.learns)
    ]


def operators_client() -> GuardedClient:
    """For what only the operator can name: it may be anywhere."""
    return GuardedClient(Guard("scanners", _EVERYWHERE))
