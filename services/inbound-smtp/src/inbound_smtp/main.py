"""The composition root: `python -m inbound_smtp` runs one process; several share the port (SO_REUSEPORT)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from chassis.bells import Bells
from chassis.process import Running, allow_files, bind, run
from chassis.runner import Runner
from inbound_smtp.body import Room
from inbound_smtp.checks.authentication import BeforeReply
from inbound_smtp.checks.clients import Clients
from inbound_smtp.checks.scanning import ScansBeforeReply
from inbound_smtp.connections import Connections
from inbound_smtp.counts import Distinct, Window
from inbound_smtp.listener import Limits, Listener
from inbound_smtp.mx import Mx, MxSession
from inbound_smtp.pace import Pace
from inbound_smtp.proxy import Proxies
from inbound_smtp.recipients import Recipients
from inbound_smtp.router import Router
from inbound_smtp.settings import Settings, Smtp
from inbound_smtp.submission.failures import Failures
from inbound_smtp.submission.listener import Submission
from inbound_smtp.submission.session import SubmissionSession
from inbound_smtp.tls import Certificate
from inbound_smtp.wire import Budget
from mailcore import blob
from mailcore.blob.base import BlobStore
from mailcore.blob.local import LocalBlobs
from mailcore.dns.resolver import DnsResolver
from mailcore.dsn.verp import Verp
from mailcore.flow.announcing import Announcing
from mailcore.flow.authenticate import Authenticator, DmarcPolicies
from mailcore.flow.greylist import Greylist
from mailcore.flow.keys import Keys
from mailcore.flow.lease import WorkerLease
from mailcore.flow.parse import Reader
from mailcore.flow.quota import Quotas
from mailcore.flow.receive import Receives
from mailcore.flow.returned import Returned
from mailcore.flow.route import Routes
from mailcore.flow.sandbox import Sandbox
from mailcore.flow.scan import Scans
from mailcore.flow.submit import Submits
from mailcore.flow.tables import Tables
from mailcore.flow.training import Pupil, Trainings
from mailcore.kit.errors import Refused
from mailcore.kit.log import logger
from mailcore.kit.settings import Scanners, load
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import ROUTE, TRAIN
from mailcore.queue.rate import RateLimiter
from mailcore.scanners.registry import Configured, configured, learning
from mailcore.store.session import Store

log = logger(__name__)


GC_THRESHOLD = (20_000, 20, 50)


def main() -> None:
    run("inbound_smtp", load(Settings), _lasting)


@asynccontextmanager
async def _lasting(settings: Settings) -> AsyncIterator[Running]:
    """What exists once it is built lives as long as the process: a full collection need not walk it while clients wait."""
    async with start(settings) as running:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        yield running


@asynccontextmanager
async def start(settings: Settings) -> AsyncIterator[Running]:
    allow_files(2 * settings.smtp.max_connections + 1_000)
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
    resolver = DnsResolver(settings.dns.nameservers or None, timeout=settings.dns.timeout_seconds)
    authenticator = Authenticator(resolver, settings.smtp.name, trusted=settings.smtp.arc_trusted)
    returned = None
    if settings.encryption_key is not None:
        returned = Returned(store, ringer, Verp(*settings.keyring().derive_all("verp")))
    submits = Submits(
        store,
        ringer,
        blobs,
        quotas=Quotas(store, **dict(settings.quota)),
        sandbox=Sandbox(store, settings.sandbox.domain),
    )
    scanners = configured(settings.scanners, resolver)
    scans = make_scans(store, settings.scanners, scanners)
    trainings = make_trainings(store, blobs, settings.scanners, scanners)
    routes = Routes(
        *(store, ringer, blobs),
        authenticator=authenticator,
        returned=returned,
        submits=submits,
        announcing=Announcing(batch=settings.inbound_smtp.announce_batch),
        scans=scans,
    )
    router = Router(store, lease, routes, batch=settings.inbound_smtp.batch)
    pace = Pace(router.work, taken=lambda: receives.taken, lag=lambda: router.lag)
    runner = Runner("router", pace, sweep_seconds=settings.queue.sweep_seconds)
    ringer.attend(ROUTE, runner.wake)
    bells = Bells(settings.redis.url, "inbound_smtp", bells={ROUTE: runner.wake}, chores={TRAIN: trainings.teach})
    smtp = settings.smtp
    mx = make_mx(smtp, Recipients(store), receives, spool=blobs.spool() if isinstance(blobs, LocalBlobs) else None)
    mx.returned, mx.before_reply = returned, BeforeReply(authenticator, DmarcPolicies(store))
    mx.scans = ScansBeforeReply(scans, Reader()) if scans.on else None
    mx.tables, mx.greylist = Tables(store), Greylist(store, seconds=smtp.greylist_seconds)
    if smtp.dnsbl or smtp.rdns != "off":
        mx.clients = Clients(resolver, lists=smtp.dnsbl, refuse_listed=smtp.dnsbl_action == "reject", rdns=smtp.rdns)
    keys = Keys(store)
    submission = make_submission(smtp, mx, keys, submits, RateLimiter(ringer, settings.rate_limit.requests_per_second))
    servers = [await listen(MxSession, mx, smtp.host, smtp.mx_port)]
    if smtp.submission_port:
        servers.append(await listen(SubmissionSession, submission, smtp.host, smtp.submission_port))
    if smtp.submissions_port:
        servers.append(await listen(SubmissionSession, submission, smtp.host, smtp.submissions_port, tls=True))
    routing = asyncio.create_task(runner.run())
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    log.info("listening", smtp=f"{smtp.host}:{ports[0]}", submission=ports[1:], tls=mx.certificate is not None)

    async def drain() -> None:
        for server in servers:
            server.close()
        await asyncio.gather(mx.drain(), submission.drain())
        await asyncio.gather(receives.drain(), submits.drain())
        runner.drain()
        await asyncio.wait([routing])
        routes.abandon()
        await router.release()
        await lease.leave()

    try:
        yield Running(
            checks={"database": store.check, "blobs": blobs.check},
            tasks=[
                *(_until_drained(routing), lease.keep(), bells.run(), keys.note_use(), trainings.watch()),
                *([mx.certificate.keep()] if mx.certificate is not None else []),
            ],
            drain=drain,
            drain_seconds=25,
        )
        ringer.ring(ROUTE)  # what is left is the others': here, where our own bells no more answer
        await keys.write_use()
    finally:
        for server in servers:
            server.close()
        routing.cancel()
        await scans.close()
        await ringer.close()
        await store.close()


def make_scans(store: Store, on: Scanners, scanners: Sequence[Configured]) -> Scans:
    return Scans(store, scanners, at_once=on.at_once, again_seconds=on.again_seconds, scl=on.scl)


def make_trainings(store: Store, blobs: BlobStore, on: Scanners, scanners: Sequence[Configured]) -> Trainings:
    pupils = [Pupil(one.name, one, one.max_bytes) for one in learning(scanners)] if on.train else []
    return Trainings(store, blobs, pupils)


async def _until_drained(routing: asyncio.Task[None]) -> None:
    """Ends the process when the router ends of itself, not when it was drained."""
    await asyncio.wait([routing])
    if not routing.cancelled() and routing.exception() is not None:
        raise RuntimeError("the router ended") from routing.exception()
    await asyncio.Event().wait()


async def listen(
    kind: Callable[..., asyncio.Protocol], listener: Listener, host: str, port: int, *, tls: bool = False
) -> asyncio.Server:
    """`tls`: from the first octet (RFC 8314 §3.3)."""
    return await asyncio.get_running_loop().create_server(
        lambda: kind(listener, tls=tls), sock=bind(host, port), backlog=1024
    )


def make_mx(smtp: Smtp, recipients: Recipients, receives: Receives, *, spool: Path | None = None) -> Mx:
    """`spool`: the folder for large messages on their way in, where the settings name none. Raises Refused when the certificate
    cannot be used."""
    spool = Path(smtp.spool_dir) if smtp.spool_dir else spool
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
        room=Room(Budget(smtp.max_buffered_bytes), Budget(smtp.max_spooled_bytes), spool),
        recipients=recipients,
        receives=receives,
        certificate=Certificate(smtp.tls_cert, smtp.tls_key) if smtp.tls_cert and smtp.tls_key else None,
        unknown=Window(smtp.max_unknown_per_ip, 600.0),
        different=Distinct(smtp.max_recipients_per_ip, 600.0),
        per_sender=Window(smtp.max_per_sender, 60.0),
        per_recipient=Window(smtp.max_per_recipient, 60.0),
        proxies=Proxies({"off": None, "v1": 1, "v2": 2}[smtp.proxy_protocol], smtp.proxy_trusted),
    )


def make_submission(smtp: Smtp, mx: Mx, keys: Keys, submits: Submits, rate: RateLimiter) -> Submission:
    """Shares limits, memory and certificate with the MX; connections count apart.

    Raises Refused when it has a port and cannot have TLS (RFC 8314)."""
    if (smtp.submission_port or smtp.submissions_port) and mx.certificate is None:
        raise Refused(
            "Submission takes API keys, so it needs TLS: set POSTROOM_SMTP__TLS_CERT and __TLS_KEY, or set "
            "POSTROOM_SMTP__SUBMISSION_PORT and __SUBMISSIONS_PORT to 0."
        )
    return Submission(
        hostname=mx.hostname,
        limits=mx.limits,
        connections=Connections(total=smtp.max_connections, per_ip=smtp.max_connections_per_ip),
        room=mx.room,
        certificate=mx.certificate,
        proxies=mx.proxies,
        keys=keys,
        submits=submits,
        rate=rate,
        reader=Reader(),
        failures=Failures(smtp.max_auth_failures_per_ip),
        failure_seconds=smtp.auth_failure_seconds,
    )
