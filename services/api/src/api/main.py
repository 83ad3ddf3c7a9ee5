"""The composition root: `python -m api` runs one process; several share the port (SO_REUSEPORT)."""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.app import build
from api.context import Context
from api.limits import Limits
from api.logs.writer import LogWriter
from api.messages.remote import RemoteImages
from api.people.attempts import Attempts
from api.people.tokens import Tokens
from api.settings import Settings
from chassis.process import Listen, Running, run
from mailcore import blob
from mailcore.dns.resolver import DnsResolver
from mailcore.flow.claims import Claims
from mailcore.flow.dkim import Dkim
from mailcore.flow.domains import Domains, published
from mailcore.flow.keys import Keys
from mailcore.flow.mirror import ImapDoor
from mailcore.flow.people import People, Registration
from mailcore.flow.provider_events import Reports
from mailcore.flow.quota import Quotas
from mailcore.flow.sandbox import Sandbox
from mailcore.flow.shaping import Shaping
from mailcore.flow.submit import Submits
from mailcore.flow.trace import Tracer
from mailcore.flow.trace_hosts import Leaving
from mailcore.flow.track import Tracks
from mailcore.kit.guard import Guard, GuardedClient
from mailcore.kit.settings import load
from mailcore.providers.client import Client
from mailcore.queue.bell import Ringer
from mailcore.queue.rate import RateLimiter
from mailcore.store.session import Store

GC_THRESHOLD = (20_000, 20, 50)


def main() -> None:
    run("api", load(Settings), _lasting)


@asynccontextmanager
async def _lasting(settings: Settings) -> AsyncIterator[Running]:
    """What exists once it is built lives as long as the process: a full collection need not walk it while requests wait."""
    async with start(settings) as running:
        gc.collect()
        gc.freeze()
        # a request leaves few cycles and many objects: looked for seldom, they are found all the same
        gc.set_threshold(*GC_THRESHOLD)
        yield running


@asynccontextmanager
async def start(settings: Settings) -> AsyncIterator[Running]:
    store = await Store.open(
        settings.database.url,
        pool_size=settings.database.pool_size,
        connect_seconds=settings.database.connect_seconds,
        name="api",
    )
    ringer = Ringer(settings.redis.url, timeout_seconds=settings.redis.timeout_seconds)
    blobs = blob.open(**dict(settings.blob))
    domains = Domains(
        store,
        ringer,
        settings.keyring(),
        published(
            settings.domains,
            route=settings.outbound.route,
            source_ip=settings.outbound.source_ip,
            tracking_url=settings.tracking.url or settings.http.public_url,
        ),
        most=settings.domains.max_per_organization,
        exempt=("postroom.test",) if settings.catch.dir else (),
    )
    providers = Client(seconds=10)
    ctx = Context(
        settings=settings,
        store=store,
        ringer=ringer,
        keyring=settings.keyring(),
        blobs=blobs,
        submits=Submits(
            store,
            ringer,
            blobs,
            quotas=Quotas(store, **dict(settings.quota)),
            sandbox=Sandbox(store, settings.sandbox.domain),
        ),
        tracks=Tracks(store, ringer, settings.keyring().derive_all("track")),
        attachments=GuardedClient(Guard("attachments", settings.network.allow.attachments)),
        images=RemoteImages(GuardedClient(Guard("images", settings.network.allow.images))),
        keys=Keys(store),
        shaping=Shaping.load(settings.outbound.shaping_file),
        limits=Limits(RateLimiter(ringer, settings.rate_limit.requests_per_second), settings.rate_limit),
        logs=LogWriter(store) if settings.logs.enabled else None,
        imap=ImapDoor(
            Guard("imap", settings.network.allow.imap),
            ports=settings.imap.ports,
            ca_file=settings.imap.ca_file,
            timeout=settings.imap.timeout_seconds,
        ),
        domains=domains,
        claims=Claims(store, ringer, domains),
        dkim=Dkim(store, ringer, settings.keyring(), domains),
        people=People(
            store,
            registration=Registration(
                settings.auth.registration_enabled,
                frozenset(each.lower().removeprefix("@") for each in settings.auth.allowed_addresses),
                tuple(settings.auth.allowed_networks),
            ),
        ),
        tokens=Tokens(settings.keyring().derive("jwt"), settings.http.public_url),
        attempts=Attempts(ringer, settings.auth.attempts, settings.auth.attempts_minutes * 60),
        reports=Reports(store, ringer, settings.keyring(), providers),
        smart_hosts=Guard("smarthosts", settings.network.allow.smarthosts),
        tracer=_tracer(settings, store),
        resolver=DnsResolver(
            settings.dns.nameservers or None, timeout=min(3.0, settings.dns.timeout_seconds), cache_size=0
        ),
    )
    app = build(ctx)
    try:
        yield Running(
            checks={"database": lambda: store.lookup("SELECT 1"), "blobs": blobs.check},
            tasks=[*([] if ctx.logs is None else [ctx.logs.run()]), ctx.keys.note_use()],
            drain=ctx.submits.drain,
            http=Listen(app, settings.http.host, settings.http.port, settings.http.trusted_proxies),
        )
        await ctx.keys.write_use()
        if ctx.logs is not None:
            await ctx.logs.flush()
        await ctx.tracks.drain()
    finally:
        ctx.people.close()
        await ctx.attachments.close()
        await ctx.images.close()
        await providers.close()
        await ringer.close()
        await store.close()


def _tracer(settings: Settings, store: Store) -> Tracer:
    own = settings.outbound
    host = f"{own.smarthost_host}:{own.smarthost_port}" if own.smarthost_host else None
    leaving = Leaving(
        own.route,
        own.mx_port,
        own.catch_host if own.route == "catch" else host,
        frozenset(domain.lower() for domain in own.test_domains),
        own.source_ip,
        own.ehlo_name,
        tuple(settings.network.allow.mx),
        own.mails_per_connection,
        tuple(int(version) for version in own.ip_versions.split(",")),
        (own.ehlo_name or socket.getfqdn(), settings.domains.mx_host),
    )
    resolver = DnsResolver(settings.dns.nameservers or None, timeout=settings.dns.timeout_seconds, cache_size=1_000)
    shaping = Shaping.load(own.shaping_file)
    return Tracer(
        store,
        resolver,
        Quotas(store, **dict(settings.quota)),
        leaving,
        shaping,
        limits=settings.reputation,
        link_url=settings.tracking.url or settings.http.public_url,
    )
