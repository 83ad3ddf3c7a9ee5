"""The composition root of webhooks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis.bells import Bells
from chassis.process import Running, run
from chassis.runner import Runner
from mailcore import blob
from mailcore.dns.resolver import DnsResolver
from mailcore.flow.bodies import Bodies
from mailcore.flow.lease import WorkerLease
from mailcore.flow.links import Links
from mailcore.flow.parsed import Parsed
from mailcore.flow.submit import Submits
from mailcore.kit.clock import SystemClock
from mailcore.kit.guard import Guard, GuardedClient, Resolve, SystemResolver
from mailcore.kit.settings import load
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import WEBHOOKS
from mailcore.store.session import Store
from webhooks.endpoints import Endpoints
from webhooks.names import through
from webhooks.post import Poster
from webhooks.runner import Posts
from webhooks.settings import Settings


def main() -> None:
    run("webhooks", load(Settings), start)


@asynccontextmanager
async def start(settings: Settings) -> AsyncIterator[Running]:
    store = await Store.open(
        settings.database.url,
        pool_size=settings.database.pool_size,
        connect_seconds=settings.database.connect_seconds,
        name="postroom webhooks",
    )
    group = settings.webhooks
    clock = SystemClock()
    system = SystemResolver()
    resolve: Resolve = system
    if settings.dns.nameservers:
        asked = DnsResolver(settings.dns.nameservers, timeout=settings.dns.timeout_seconds, max_ttl=60)
        resolve = through(asked, system)
    client = GuardedClient(Guard("webhooks", settings.network.allow.webhooks, resolve=resolve))
    ringer = Ringer(settings.redis.url, timeout_seconds=settings.redis.timeout_seconds)
    blobs = blob.open(**dict(settings.blob))
    lease = WorkerLease(store, "webhooks", lease_seconds=settings.queue.lease_seconds)
    posts = Posts(
        store,
        lease,
        Poster(
            client,
            settings.keyring(),
            clock,
            Bodies(blobs),
            Parsed(blobs, Links(settings.keyring().derive("link"), settings.http.public_url)),
            timeout_seconds=group.timeout_seconds,
        ),
        Endpoints(
            limit=group.endpoint_concurrency,
            concurrency=group.concurrency,
            slow_concurrency=group.slow_concurrency,
        ),
        clock,
        Submits(store, ringer, blobs),
        retry_schedule=group.retry_schedule,
        timeout_seconds=group.timeout_seconds,
        disable_after=group.disable_after_seconds,
    )
    runner = Runner("webhooks", posts.work, sweep_seconds=settings.queue.sweep_seconds)
    posts.wake = runner.wake
    bells = Bells(settings.redis.url, "webhooks", bells={WEBHOOKS: runner.wake})

    async def drain() -> None:
        runner.drain()
        await posts.drain()
        await lease.leave()

    try:
        yield Running(
            checks={"database": store.check},
            tasks=[lease.keep(), runner.run(), bells.run()],
            drain=drain,
            drain_seconds=group.timeout_seconds + 5,
        )
    finally:
        await client.close()
        system.close()
        await ringer.close()
        await store.close()
