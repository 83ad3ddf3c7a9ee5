"""The composition root: `python -m outbound` runs one process; several share the work through leases."""

from __future__ import annotations

import asyncio
import gc
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from arq import cron

from chassis.bells import Bells
from chassis.process import Running, allow_files, run
from mailcore import blob
from mailcore.dns.mx import addresses_of
from mailcore.dns.resolver import DnsResolver
from mailcore.dsn.verp import Verp
from mailcore.flow import health
from mailcore.flow.domains import published
from mailcore.flow.lease import WorkerLease
from mailcore.flow.mta_sts import StsPolicies
from mailcore.flow.ourselves import Ourselves, receives
from mailcore.flow.owed import Reports
from mailcore.flow.retention import Kept
from mailcore.flow.shaping import Shaping
from mailcore.flow.submit import Submits
from mailcore.flow.tls_reports import Sender, TlsReports
from mailcore.flow.ways import STARTTLS_PORTS, smart_host_tls
from mailcore.kit.errors import Refused, Unavailable
from mailcore.kit.guard import Guard, GuardedClient, tls_context
from mailcore.kit.log import logger
from mailcore.kit.settings import load
from mailcore.kit.together import Together
from mailcore.providers.client import Client
from mailcore.providers.registry import VENDORS
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import CLAIM, HEALTH, ORDER, OUTBOUND, RELEASE, REPORT, UPKEEP, VERIFY
from mailcore.store.deliveries import Key
from mailcore.store.session import Store
from mailcore.transport import Credentials, Pool, Timeouts, TlsPolicy
from outbound import asks
from outbound.chores import Chores
from outbound.gate import Gate
from outbound.guarding import Guards
from outbound.memory import Memory
from outbound.office import Office
from outbound.paces import AS_SHIPPED, Paces
from outbound.placement import Source
from outbound.reporting import Reporting
from outbound.rest import Rests
from outbound.retry import BROADCAST, TRANSACTIONAL, Retries
from outbound.routes import ByMX, Finder, OneHost, Routes
from outbound.runner import SERVICE, Outbound
from outbound.security import Securing
from outbound.settings import Settings
from outbound.settler import Settler
from outbound.signer import Signer
from outbound.signers import Signers
from outbound.simulator import TestAddresses
from outbound.site_shares import SiteShares
from outbound.sources import Sources
from outbound.tls_chores import TlsChores
from outbound.tls_results import TlsResults
from outbound.tracking import Tracker
from outbound.ways import Noted, OneProvider, Ways, account_from_settings

log = logger(__name__)

GC_THRESHOLD = (20_000, 20, 50)
FILES = 16_384
"""Some thousand sites at work at a time, with a few connections each."""


def main() -> None:
    # the loop must not wait 5 ms for a thread that composes whenever a call of its own lets go of the interpreter
    sys.setswitchinterval(0.0005)
    run("outbound", load(Settings), _lasting)


@asynccontextmanager
async def _lasting(settings: Settings) -> AsyncIterator[Running]:
    """What exists once it is built lives as long as the process: a full collection need not walk it while mails wait."""
    async with start(settings) as running:
        gc.collect()
        gc.freeze()
        # a mail leaves few cycles and many objects: looked for seldom, they are found all the same
        gc.set_threshold(*GC_THRESHOLD)
        yield running


@asynccontextmanager
async def start(
    settings: Settings, paces: Paces = AS_SHIPPED, memory: Callable[[int], Memory] = Memory
) -> AsyncIterator[Running]:
    own = settings.outbound
    allow_files(FILES)
    keyring = settings.keyring()
    store = await Store.open(
        settings.database.url,
        pool_size=settings.database.pool_size,
        connect_seconds=settings.database.connect_seconds,
        name="outbound",
    )
    ringer = Ringer(settings.redis.url, timeout_seconds=settings.redis.timeout_seconds)
    resolver = DnsResolver(
        settings.dns.nameservers or None, timeout=settings.dns.timeout_seconds, trust_ad=settings.dns.trust_ad
    )
    blobs = blob.open(**dict(settings.blob))
    transport = Pool(
        own.ehlo_name,
        timeouts=Timeouts(**own.timeouts.model_dump()),
        mails=own.mails_per_connection,
        age=own.connection_seconds,
        idle=own.idle_seconds,
        chunking=own.chunking,
        tls_context=authorities(own.ca_file) if own.ca_file else None,
    )
    lease = WorkerLease(store, SERVICE, lease_seconds=settings.queue.lease_seconds)
    signers = Signers(
        own.signing_processes,
        log_format=settings.log.format,
        log_level=settings.log.level,
        again_seconds=paces.signers_again,
    )
    shaping = Shaping.load(own.shaping_file)
    shares = SiteShares(
        store,
        lease,
        shaping,
        mails_per_connection=own.mails_per_connection,
        open_at=transport.open_at,
        beat_seconds=paces.beat,
    )
    tls_results = TlsResults()
    policy_hosts = GuardedClient(
        Guard("mx", settings.network.allow.mx, resolve=partial(addresses, resolver)),
        tls=authorities(own.ca_file) if own.ca_file else None,
    )
    retries = Retries(
        own.retry_schedule, {BROADCAST: own.broadcast_lifetime_seconds}, notice_seconds=own.delay_notice_seconds
    )
    client = Client()
    ways = Ways(
        store,
        keyring,
        client,
        resolver,
        allow=settings.network.allow.smarthosts,
        base_urls={name: getattr(settings.providers, name).base_url for name in VENDORS},
        caught_by=catcher(own.catch_host, resolver) if own.route == "catch" else None,
        test_domains=own.test_domains,
    )
    sources = Sources(
        store,
        Source.of(own.source_ip),
        limits=settings.warmup,
        provider=shaping.provider,
        tick_seconds=paces.sources_tick,
    )
    held: set[Key] = set()
    office = Office(
        store=store,
        blobs=blobs,
        transport=Noted(transport, ways),
        lease=lease,
        gate=Gate(store, lease),
        settler=Settler(store, ringer, held.difference_update),
        signer=Signer(store, keyring, ttl_seconds=paces.keys_ttl),
        tracker=Tracker(settings.tracking_url, keyring.derive("track")),
        signers=signers,
        claims=Together(partial(asks.claim, store, lease, retries)),
        contents=Together(partial(asks.light_contents, store)),
        verp=Verp(keyring.derive("verp")),
        retries=retries,
        shares=shares,
        rests=Rests(store, busy_first=paces.busy_first, busy_longest=paces.busy_longest),
        sources=sources,
        memory=memory(own.memory_bytes),
        tls_results=tls_results,
        held=held,
    )
    found = routes(
        settings,
        store,
        resolver,
        Securing(resolver, StsPolicies(store, resolver, policy_hosts, port=own.mta_sts_port), tls_results),
        client,
        sources,
    )
    found.ways = ways
    outbound = Outbound(
        office,
        found,
        sweep_seconds=settings.queue.sweep_seconds,
        lease_seconds=settings.queue.lease_seconds,
        spacing=paces.spacing,
    )
    chores = Chores(
        store,
        ringer,
        resolver=DnsResolver(settings.dns.nameservers or None, timeout=settings.dns.timeout_seconds, cache_size=0),
        keyring=keyring,
        blobs=blobs,
        lifetime_seconds=retries.lifetime(TRANSACTIONAL),
        broadcast_seconds=retries.lifetime(BROADCAST),
        waiting_seconds=own.broadcast_waiting_seconds,
        notice_seconds=own.delay_notice_seconds,
        relayed_seconds=own.relayed_days * 86_400,
        published=published(
            settings.domains, route=own.route, source_ip=own.source_ip, tracking_url=settings.tracking_url
        ),
        # in catch mode the lab's own domain stays verified, whatever the name server says
        exempt=frozenset(("postroom.test",)) if settings.catch.dir else frozenset(),
        kept=Kept(settings.retention.sent_days, settings.retention.events_days, settings.retention.webhooks_days),
    )
    reports = settings.tls_reports
    tls_chores = TlsChores(
        store,
        tls_results,
        TlsReports(
            store,
            Submits(store, ringer, blobs),
            resolver,
            policy_hosts,
            Sender(reports.organization, reports.from_address),
        )
        if reports.enabled
        else None,
        flush_seconds=paces.tls_flush,
    )
    reporting = Reporting(
        Reports(
            store,
            Submits(store, ringer, blobs),
            blobs,
            reporter=own.ehlo_name,
            lifetime_seconds=retries.lifetime(TRANSACTIONAL),
        )
    )
    guards = Guards(
        store,
        ringer,
        settings.reputation,
        DnsResolver(settings.dns.nameservers or None, timeout=settings.dns.timeout_seconds, cache_size=0),
        partial(
            health.scene,
            settings,
            published(settings.domains, route=own.route, source_ip=own.source_ip, tracking_url=settings.tracking_url),
            store,
        ),
        catches=own.route == "catch",
    )
    bells = Bells(
        settings.redis.url,
        SERVICE,
        bells={OUTBOUND: outbound.wake},
        chores={
            VERIFY: chores.verify,
            CLAIM: chores.claim,
            UPKEEP: chores.upkeep,
            HEALTH: guards.health,
            ORDER: chores.order,
            RELEASE: chores.release,
            REPORT: reporting.tell,
        },
        cron=[cron(chores.hourly, minute=7)],
    )

    async def keep_lease() -> None:
        while True:
            try:
                await lease.enrol()
                break
            except Unavailable as error:
                log.warning("no lease yet: the database is away", error=error.public)
                await asyncio.sleep(0.5)
        outbound.wake()
        await lease.keep()

    async def drain() -> None:
        await outbound.drain()
        await sources.drain()
        try:
            await tls_results.flush(store)
        except Unavailable as error:
            log.warning("results of TLS were not stored", error=error.public)

    ways.wake = sources.on_room = outbound.wake
    try:
        signers.start()
        yield Running(
            checks={"database": store.check, "blobs": blobs.check},
            tasks=[
                keep_lease(),
                outbound.runner.run(),
                shares.keep(),
                sources.run(),
                bells.run(),
                chores.watch(),
                guards.watch(),
                tls_chores.watch(),
                reporting.watch(),
            ],
            drain=drain,
            drain_seconds=own.drain_seconds,
        )
    finally:
        await transport.close()
        await client.close()
        await policy_hosts.close()
        await signers.close()
        await ringer.close()
        await store.close()


async def addresses(resolver: DnsResolver, host: str) -> list[str]:
    """Of policy hosts: by the same name servers as mail hosts."""
    try:
        return list((await addresses_of(host, resolver)).values)
    except Refused:
        return []


def authorities(ca_file: str) -> ssl.SSLContext:
    """Verifies certificates; those of the operator's own authorities too. One for each kind of protocol: clients set its ALPN."""
    context = tls_context()
    context.load_verify_locations(ca_file)
    return context


def routes(
    settings: Settings,
    store: Store,
    resolver: DnsResolver,
    securing: Securing | None = None,
    client: Client | None = None,
    sources: Sources | None = None,
) -> Routes:
    """Raises Refused when the route lacks what it needs."""
    own = settings.outbound
    tls, credentials = TlsPolicy.OPPORTUNISTIC, None
    finder: Finder
    if own.route == "mx":
        finder = ByMX(
            resolver,
            own.mx_port,
            settings.network.allow.mx,
            versions=[int(version) for version in own.ip_versions.split(",")],
            ourselves=Ourselves(
                (own.ehlo_name, settings.domains.mx_host),
                resolver,
                partial(receives, store),
                sources=lambda: sources.known if sources else (),
                source_ip=own.source_ip,
            ),
            securing=securing,
        )
    elif own.route == "catch":
        finder = catcher(own.catch_host, resolver)
    elif own.route == "smarthost":
        if not own.smarthost_host:
            raise Refused("Set POSTROOM_OUTBOUND__SMARTHOST_HOST, or another POSTROOM_OUTBOUND__ROUTE.")
        finder = OneHost("smarthost", own.smarthost_host, own.smarthost_port, resolver)
        if own.smarthost_tls == "implicit" and own.smarthost_port in STARTTLS_PORTS:
            raise Refused(
                "POSTROOM_OUTBOUND__SMARTHOST_TLS=implicit needs POSTROOM_OUTBOUND__SMARTHOST_PORT, usually 465."
            )
        tls = smart_host_tls(own.smarthost_tls, own.smarthost_port)
        if own.smarthost_username:
            password = own.smarthost_password.get_secret_value() if own.smarthost_password else ""
            credentials = Credentials(own.smarthost_username, password)
    else:
        vendor = settings.providers.default
        account = account_from_settings(vendor, getattr(settings.providers, vendor).account if vendor else {})
        finder = OneProvider(account, client or Client(), getattr(settings.providers, vendor).base_url)
    return Routes(
        store,
        TestAddresses(finder, own.test_domains),
        tls=tls,
        bind_tls=own.route != "mx",
        credentials=credentials,
        max_connections=own.max_connections,
    )


def catcher(host_and_port: str, resolver: DnsResolver) -> OneHost:
    """Raises Refused."""
    host, _, port = host_and_port.rpartition(":")
    if not host or not port.isdigit():
        raise Refused("POSTROOM_OUTBOUND__CATCH_HOST must be host:port.")
    return OneHost("catch", host.strip("[]"), int(port), resolver)
