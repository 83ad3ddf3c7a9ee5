"""The composition root: `python -m inbound_smtp` runs one process; several share the port (SO_REUSEPORT)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis.bells import Bells
from chassis.process import Running, bind, run
from chassis.runner import Runner
from inbound_smtp.connections import Connections
from inbound_smtp.domains import Domains
from inbound_smtp.listener import Limits
from inbound_smtp.mx import Mx, MxSession
from inbound_smtp.router import Router
from inbound_smtp.settings import Settings, Smtp
from inbound_smtp.wire import Memory
from mailcore import blob
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Receives
from mailcore.flow.route import Routes
from mailcore.kit.errors import Refused
from mailcore.kit.log import logger
from mailcore.kit.settings import load
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import ROUTE
from mailcore.store.session import Store

log = logger(__name__)


def main() -> None:
    run("inbound_smtp", load(Settings), start)


@asynccontextmanager
async def start(settings: Settings) -> AsyncIterator[Running]:
    store = await Store.open(
        settings.database.url,
        pool_size=settings.database.pool_size,
        connect_seconds=settings.database.connect_seconds,
        name="postroom inbound-smtp",
    )
    ringer = Ringer(settings.redis.url, timeout_seconds=settings.redis.timeout_seconds)
    blobs = blob.open(**dict(settings.blob))
    receives = Receives(store, ringer, blobs)
    lease = WorkerLease(store, "inbound_smtp", lease_seconds=settings.queue.lease_seconds)
    router = Router(store, lease, Routes(store, ringer, blobs), batch=settings.inbound_smtp.batch)
    runner = Runner("router", router.work, sweep_seconds=settings.queue.sweep_seconds)
    bells = Bells(settings.redis.url, "inbound_smtp", bells={ROUTE: runner.wake})
    mx = make_mx(settings.smtp, Domains(store), receives)
    loop = asyncio.get_running_loop()
    sock = bind(settings.smtp.host, settings.smtp.mx_port)
    server = await loop.create_server(lambda: MxSession(mx), sock=sock, backlog=1024)
    routing = asyncio.create_task(runner.run())
    log.info("listening", smtp=f"{settings.smtp.host}:{sock.getsockname()[1]}", tls=mx.tls is not None)

    async def drain() -> None:
        server.close()
        await mx.drain()
        await receives.drain()
        runner.drain()
        await asyncio.wait([routing])
        await router.release()
        await lease.leave()

    try:
        yield Running(
            checks={"database": store.check, "blobs": blobs.check},
            tasks=[_until_drained(routing), lease.keep(), bells.run()],
            drain=drain,
            drain_seconds=25,
        )
    finally:
        server.close()
        routing.cancel()
        await ringer.close()
        await store.close()


async def _until_drained(routing: asyncio.Task[None]) -> None:
    """Ends the process when the router ends of itself, not when it was drained."""
    await asyncio.wait([routing])
    if not routing.cancelled() and routing.exception() is not None:
        raise RuntimeError("the router ended") from routing.exception()
    await asyncio.Event().wait()


def make_mx(smtp: Smtp, domains: Domains, receives: Receives) -> Mx:
    return Mx(
        hostname=smtp.name,
        limits=Limits(
            message_bytes=smtp.max_message_bytes,
            line_bytes=smtp.max_line_bytes,
            recipients=smtp.max_recipients,
            errors=smtp.max_errors,
            junk_commands=smtp.max_junk_commands,
            command_seconds=smtp.command_seconds,
            data_seconds=smtp.data_seconds,
            data_grace_seconds=smtp.data_grace_seconds,
            data_bytes_per_second=smtp.data_bytes_per_second,
        ),
        connections=Connections(total=smtp.max_connections, per_ip=smtp.max_connections_per_ip),
        memory=Memory(smtp.max_buffered_bytes),
        domains=domains,
        receives=receives,
        tls=_tls(smtp.tls_cert, smtp.tls_key),
        proxy_version={"off": None, "v1": 1, "v2": 2}[smtp.proxy_protocol],
    )


def _tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """Raises Refused when the files are there but cannot be used."""
    if not cert or not key:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise Refused(f"POSTROOM_SMTP__TLS_CERT and __TLS_KEY cannot be used: {error}") from error
    return context
