"""Ways out by route: an organization's or the installation's accounts at providers and smart hosts, in order.

A look finds, of each lane with a route, the first way whose site does not rest (store.ways.TAKEN). Here that becomes what a site's
run needs, and each attempt is told which way it took and why.

1. `known`, `find`   a way as a Way: credentials opened, addresses found; kept for a few seconds
2. `rest`            it cannot even be tried (a key that cannot be opened, a host without address): the next one takes over
3. `Noted`           around every transport: the reason stands in the attempt's conversation, and a mail whose way fell tries the
                     next one at once
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import ValidationError

from mailcore.dns.mx import addresses_of
from mailcore.dns.resolver import Resolver
from mailcore.flow.ways import SmartHost, account_of
from mailcore.kit.addresses import Network, parse_address
from mailcore.kit.errors import Invalid, Refused, Unavailable
from mailcore.kit.guard import Guard
from mailcore.kit.seal import Keyring
from mailcore.providers.base import Account, Sender
from mailcore.providers.client import Client
from mailcore.providers.registry import VENDORS
from mailcore.smtp.outcome import Line, Outcome, Result
from mailcore.store import sites, ways
from mailcore.store.deliveries import Leased
from mailcore.store.due import DueLane
from mailcore.store.session import Store
from mailcore.store.sites import Site
from mailcore.store.ways import Taken, WayRow
from mailcore.transport import Credentials, Hop, Mail, MailQueue, TlsPolicy, Transport
from mailcore.transport.base import BeforeDot, Destination, OnOutcome
from outbound.by_provider import ByProvider
from outbound.routes import Finder, Found, OneHost, Way
from outbound.simulator import Simulator

FRESH_SECONDS = 5.0
"""How long a way is used before its row is read again."""
MOST = 10_000
"""Ways, and lanes of routes, that are kept."""
AGAIN_SECONDS = 0.3
"""After an outcome is given, until it is surely stored: then a look finds its mail."""


@dataclass(slots=True)
class _Known:
    until: float
    updated_at: datetime
    way: Way


class Ways:
    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        client: Client,
        resolver: Resolver,
        *,
        allow: Sequence[Network] = (),
        base_urls: Mapping[str, str | None] | None = None,
        caught_by: Finder | None = None,
        test_domains: Collection[str] = (),
    ) -> None:
        """`allow`: private networks in which a tenant's smart host may be. `base_urls`: the operator's, by vendor.

        `caught_by`: in catch mode the catcher's: what would leave this machine goes there.
        """
        self._store = store
        self._keyring = keyring
        self._client = client
        self._resolver = resolver
        self._guard = Guard("smarthosts", allow, resolve=self._resolve)
        self._base_urls = base_urls or {}
        self._caught_by = caught_by
        self._test_domains = frozenset(domain.lower() for domain in test_domains)
        self._simulator = Noted(Simulator(), self)
        self._known: dict[UUID, _Known] = {}
        self._finding: dict[UUID, asyncio.Task[Way]] = {}
        self._lanes: dict[int, Taken] = {}
        self.wake: Callable[[], object] = lambda: None
        """Looks for due lanes."""

    # ---- 1. known, find ---------------------------------------------------------------------------------------------

    def seen(self, lane: DueLane) -> None:
        """What a look found of it, for the attempts that follow."""
        if lane.taken is None:
            if self._lanes:
                self._lanes.pop(lane.lane_id, None)
            return
        if len(self._lanes) >= MOST:
            self._lanes.clear()
        self._lanes[lane.lane_id] = lane.taken

    def known(self, way_id: UUID, domain: str) -> Way | None:
        """None asks for `find`. One that is older than FRESH_SECONDS is still given, while its row is read again."""
        found = self._known.get(way_id)
        if found is None:
            return None
        if found.until <= time.monotonic() and way_id not in self._finding:
            self._begin(way_id)
        return self._for(domain, found.way)

    async def find(self, way_id: UUID, domain: str) -> Way:
        """Raises Unavailable when it cannot be used just now, and says why."""
        return self._for(domain, await asyncio.shield(self._finding.get(way_id) or self._begin(way_id)))

    def _for(self, domain: str, way: Way) -> Way:
        """Mail to test addresses leaves by no way at all."""
        if domain not in self._test_domains:
            return way
        return replace(
            way, order=f"test:{domain}", hops=(Hop(domain, ()),), credentials=None, transport=self._simulator
        )

    def _begin(self, way_id: UUID) -> asyncio.Task[Way]:
        """However many lanes ask, one reads."""
        task = self._finding[way_id] = asyncio.get_running_loop().create_task(self._find(way_id))
        task.add_done_callback(lambda done: self._found(way_id, done))
        return task

    def _found(self, way_id: UUID, done: asyncio.Task[Way]) -> None:
        self._finding.pop(way_id, None)
        if not done.cancelled() and done.exception() is not None:
            self._known.pop(way_id, None)  # whoever needs it asks, and is told why

    async def _find(self, way_id: UUID) -> Way:
        async with self._store.worker() as db:
            row = await ways.by_id(db, way_id)
        if row is None:
            raise Unavailable("The way out has been removed.")
        before = self._known.get(way_id)
        site = Site(row.site_id, row.site_key, row.max_connections, row.suspended_until, row.failures)
        if before is not None and before.updated_at == row.updated_at and before.way.transport is not None:
            way = replace(before.way, site=site)  # with its connections and what it knows of the provider
        else:
            try:
                way = await self._open(row, site)
            except (Refused, Invalid) as error:
                raise Unavailable(error.public) from error
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[way_id] = _Known(time.monotonic() + FRESH_SECONDS, row.updated_at, way)
        return way

    async def _open(self, row: WayRow, site: Site) -> Way:
        account = account_of(self._keyring, row)
        if isinstance(account, SmartHost):
            return await self._smart_host(account, row, site)
        sender = account.sender(self._base_urls.get(row.kind))
        if self._caught_by is not None and not _is_here(urlsplit(f"//{sender.host}").hostname or ""):
            return await self._caught(site)
        return self._provider(row, site, sender)

    def _provider(self, row: WayRow, site: Site, sender: Sender) -> Way:
        return Way(
            site=site,
            order=row.updated_at.isoformat(),  # changed credentials begin a run of their own at once
            hops=(Hop(sender.host, ()),),
            tls=TlsPolicy.REQUIRED,
            bind_tls=True,
            transport=Noted(ByProvider(sender, self._client, reports=row.reports), self),
        )

    async def _smart_host(self, account: SmartHost, row: WayRow, site: Site) -> Way:
        if self._caught_by is not None and not _is_here(account.host):
            return await self._caught(site)
        if row.org_id is None:
            hops = (await OneHost("smarthost", account.host, account.port, self._resolver).find("")).hops
        else:
            ips = await self._guard.check_host(account.host, account.port, ports=account.ports)
            hops = (Hop(account.host, tuple(ips), account.port),)
        password = account.password.get_secret_value() if account.password else ""
        return Way(
            site=site,
            order=",".join([row.updated_at.isoformat(), *(ip for hop in hops for ip in hop.ips)]),
            hops=hops,
            tls=account.policy,
            bind_tls=True,
            credentials=Credentials(account.username, password) if account.username else None,
            lmtp=account.lmtp,
        )

    async def _caught(self, site: Site) -> Way:
        assert self._caught_by is not None
        found = await self._caught_by.find("")
        return Way(site=site, order="caught", hops=found.hops, tls=TlsPolicy.OPPORTUNISTIC, bind_tls=True)

    async def _resolve(self, host: str) -> list[str]:
        return [str(ip) for ip in (await addresses_of(host, self._resolver)).values]

    # ---- 2. rest ----------------------------------------------------------------------------------------------------

    async def rest(self, site_id: int, reply: str, *, first: float, longest: float) -> float:
        """Returns the seconds."""
        async with self._store.worker() as db:
            return await sites.suspend(db, site_id, reply, first=first, longest=longest)

    # ---- 3. what attempts are told ----------------------------------------------------------------------------------

    def noted(self, mail: Mail, outcome: Outcome) -> Outcome:
        """With the way that was taken; of a way that fell with another one free, worth another attempt at once."""
        row = mail.key
        taken = self._lanes.get(row.lane_id) if self._lanes and isinstance(row, Leased) else None
        if taken is None:
            return outcome
        lines = (Line(time.time(), said=f"[{taken.words}]"), *outcome.conversation)
        if not (taken.others_free and _fell(outcome)):
            return outcome._replace(conversation=lines)
        asyncio.get_running_loop().call_later(AGAIN_SECONDS, self.wake)
        return outcome._replace(conversation=lines, retry_after=0.0)


def _fell(outcome: Outcome) -> bool:
    """As outbound.deliver sees that a site is down. Not for its TLS: that may be this sender's demand, not the site's fault."""
    return (
        outcome.result is Result.DEFERRED
        and outcome.rule is not None
        and outcome.rule not in ("lease-lost", "tls-failed", "tls-not-offered")
        and not outcome.dot_sent
        and not any(line.said and line.said.startswith("MAIL ") for line in outcome.conversation)
    )


def _is_here(host: str) -> bool:
    """This machine's loopback."""
    if host == "localhost":
        return True
    try:
        return parse_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Noted:
    """A transport whose outcomes say which way was taken."""

    def __init__(self, inner: Transport, told_by: Ways) -> None:
        self.inner = inner
        self._ways = told_by

    async def deliver(
        self,
        destination: Destination,
        mails: MailQueue,
        *,
        connections: int,
        before_dot: BeforeDot,
        on_outcome: OnOutcome,
    ) -> None:
        """See `Transport.deliver`."""

        def tell(mail: Mail, outcome: Outcome) -> None:
            on_outcome(mail, self._ways.noted(mail, outcome))

        await self.inner.deliver(destination, mails, connections=connections, before_dot=before_dot, on_outcome=tell)

    async def close(self) -> None:
        """See `Transport.close`."""
        await self.inner.close()


class OneProvider:
    """OUTBOUND__ROUTE=provider: everything by one account that the settings name. It reports nothing to us."""

    def __init__(self, account: Account, client: Client, base_url: str | None = None) -> None:
        sender = account.sender(base_url)
        self._found = Found(
            f"provider:{account.vendor}",
            (Hop(sender.host, ()),),
            transport=ByProvider(sender, client, reports=False),
        )

    async def find(self, domain: str) -> Found:
        return self._found


def account_from_settings(vendor: str, given: Mapping[str, object]) -> Account:
    """Raises Refused with the setting to change."""
    model = VENDORS.get(vendor)
    if model is None:
        raise Refused(
            f"POSTROOM_OUTBOUND__ROUTE=provider needs POSTROOM_PROVIDERS__DEFAULT: one of {', '.join(sorted(VENDORS))}."
        )
    try:
        return model.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        words = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found)
        raise Refused(f"POSTROOM_PROVIDERS__{vendor.upper()}__ACCOUNT is not what {vendor} needs. {words}") from None
