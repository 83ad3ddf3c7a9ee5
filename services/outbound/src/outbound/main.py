"""The composition root: `python -m outbound` runs one process; several share the work through leases."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from arq import cron

from chassis.bells import Bells
from chassis.process import Running, run
from mailcore import blob
from mailcore.dns.resolver import DnsResolver
from mailcore.dsn.verp import Verp
from mailcore.flow.domains import published
from mailcore.flow.lease import WorkerLease
from mailcore.kit.errors import Refused, Unavailable
from mailcore.kit.log import logger
from mailcore.kit.settings import load
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import CLAIM, OUTBOUND, UPKEEP, VERIFY
from mailcore.store.deliveries import Key
from mailcore.store.session import Store
from mailcore.transport import Credentials, Pool, Timeouts, TlsPolicy
from outbound.chores import Chores
from outbound.gate import Gate
from outbound.memory import Memory
from outbound.office import Office
from outbound.routes import ByMX, Finder, OneHost, Ourselves, Routes, receives
from outbound.runner import SERVICE, Outbound
from outbound.settings import Settings
from outbound.settler import Settler
from outbound.signer import Signer
from outbound.simulator import TestAddresses
from outbound.tracking import Tracker

log = logger(__name__)


def main() -> None:
    # the loop must not wait 5 ms for a thread that composes whenever a call of its own lets go of the interpreter
    sys.setswitchinterval(0.0005)
    run("outbound", load(Settings), start)


@asynccontextmanager
async def start(settings: Settings) -> AsyncIterator[Running]:
    own = settings.outbound
    keyring = settings.keyring()
    store = await Store.open(
        settings.database.url,
        pool_size=settings.database.pool_size,
        connect_seconds=settings.database.connect_seconds,
        name="outbound",
    )
    ringer = Ringer(settings.redis.url, timeout_seconds=settings.redis.timeout_seconds)
    resolver = DnsResolver(settings.dns.nameservers or None, timeout=settings.dns.timeout_seconds)
    blobs = blob.open(**dict(settings.blob))
    transport = Pool(
        own.ehlo_name,
        timeouts=Timeouts(**own.timeouts.model_dump()),
        mails=own.mails_per_connection,
        age=own.connection_seconds,
        idle=own.idle_seconds,
        chunking=own.chunking,
    )
    lease = WorkerLease(store, SERVICE, lease_seconds=settings.queue.lease_seconds)
    threads = ThreadPoolExecutor(own.signing_threads, thread_name_prefix="sign")
    held: set[Key] = set()
    office = Office(
        store=store,
        blobs=blobs,
        transport=transport,
        lease=lease,
        gate=Gate(store, lease),
        settler=Settler(store, ringer, held.difference_update),
        signer=Signer(store, keyring),
        tracker=Tracker(settings.tracking_url, keyring.derive("track")),
        threads=threads,
        verp=Verp(keyring.derive("verp")),
        schedule=own.retry_schedule,
        source_ip=own.source_ip,
        memory=Memory(own.memory_bytes),
        held=held,
    )
    outbound = Outbound(
        office,
        routes(settings, store, resolver),
        sweep_seconds=settings.queue.sweep_seconds,
        lease_seconds=settings.queue.lease_seconds,
    )
    chores = Chores(
        store,
        ringer,
        resolver=DnsResolver(settings.dns.nameservers or None, timeout=settings.dns.timeout_seconds, cache_size=0),
        keyring=keyring,
        blobs=blobs,
        lifetime_seconds=sum(own.retry_schedule),
        published=published(
            settings.domains, route=own.route, source_ip=own.source_ip, tracking_url=settings.tracking_url
        ),
        # in catch mode the lab's own domain stays verified, whatever the name server says
        exempt=frozenset(("postroom.test",)) if settings.catch.dir else frozenset(),
    )
    bells = Bells(
        settings.redis.url,
        SERVICE,
        bells={OUTBOUND: outbound.wake},
        chores={VERIFY: chores.verify, CLAIM: chores.claim, UPKEEP: chores.upkeep},
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

    try:
        yield Running(
            checks={"database": store.check, "blobs": blobs.check},
            tasks=[keep_lease(), outbound.runner.run(), bells.run(), chores.watch()],
            drain=outbound.drain,
            drain_seconds=own.drain_seconds,
        )
    finally:
        await transport.close()
        threads.shutdown(wait=False, cancel_futures=True)
        await ringer.close()
        await store.close()


def routes(settings: Settings, store: Store, resolver: DnsResolver) -> Routes:
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
            ourselves=Ourselves((own.ehlo_name, settings.domains.mx_host), resolver, partial(receives, store)),
        )
    elif own.route == "catch":
        host, _, port = own.catch_host.rpartition(":")
        if not host or not port.isdigit():
            raise Refused("POSTROOM_OUTBOUND__CATCH_HOST must be host:port.")
        finder = OneHost("catch", host.strip("[]"), int(port), resolver)
    elif own.route == "smarthost":
        if not own.smarthost_host:
            raise Refused("Set POSTROOM_OUTBOUND__SMARTHOST_HOST, or another POSTROOM_OUTBOUND__ROUTE.")
        finder = OneHost("smarthost", own.smarthost_host, own.smarthost_port, resolver)
        tls = TlsPolicy(own.smarthost_tls)
        if own.smarthost_username:
            password = own.smarthost_password.get_secret_value() if own.smarthost_password else ""
            credentials = Credentials(own.smarthost_username, password)
    else:
        raise Refused(
            "POSTROOM_OUTBOUND__ROUTE=provider needs a provider account, and none is configured. Use mx or smarthost."
        )
    return Routes(
        store,
        TestAddresses(finder, own.test_domains),
        tls=tls,
        bind_tls=own.route != "mx",
        credentials=credentials,
        max_connections=own.max_connections,
    )
