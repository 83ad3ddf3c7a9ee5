"""A process from start to exit: `run(name, settings, start)`.

`start` is the service's composition root: an async context manager that builds what the service needs and yields Running. On
SIGTERM or SIGINT (or POST /drain) the process turns unready, drains (no new work, what is in hand is finished, at most
`drain_seconds`), stops its servers, leaves the context and exits 0. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvicorn
import uvloop
from fastapi import FastAPI

from chassis.http import HttpProtocol
from chassis.ops import Check, ops_app
from mailcore.kit import failpoint
from mailcore.kit.errors import MailError
from mailcore.kit.log import configure, logger
from mailcore.kit.metrics import LOOP_LAG
from mailcore.kit.settings import Base

log = logger(__name__)

S = TypeVar("S", bound=Base)


@dataclass(slots=True)
class Listen:
    """The public HTTP app and where it listens."""

    app: FastAPI
    host: str
    port: int
    trusted_proxies: list[str] = field(default_factory=list)


async def _nothing() -> None:
    return None


@dataclass(slots=True)
class Running:
    checks: dict[str, Check] = field(default_factory=dict)
    """What /readyz asks."""
    tasks: list[Coroutine[Any, Any, Any]] = field(default_factory=list)
    """Run for the life of the process; one that ends by an exception ends the process (exit 1)."""
    drain: Callable[[], Awaitable[None]] = _nothing
    """Stop taking work and finish what is in hand."""
    drain_seconds: float = 15.0
    http: Listen | None = None


def allow_files(wanted: int) -> None:
    """Each connection is one; many systems begin with 1,024 a process, though they would give more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        log.warning("fewer files may be open than connections could need", limit=most, wanted=wanted)


def run(name: str, settings: S, start: Callable[[S], AbstractAsyncContextManager[Running]]) -> None:
    configure(name, format=settings.log.format, level=settings.log.level)
    failpoint.arm(settings.failpoint)
    sys.exit(uvloop.run(_life(name, settings, start)))


async def _life(name: str, settings: S, start: Callable[[S], AbstractAsyncContextManager[Running]]) -> int:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            log.warning("second signal: ending at once")
            sys.exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        async with start(settings) as running:
            return await _serve(name, settings, running, stop)
    except MailError as error:
        log.error("cannot start", error=error.public)
        return 1


async def _serve(name: str, settings: Base, running: Running, stop: asyncio.Event) -> int:
    ops = ops_app(running.checks, draining=stop.is_set, drain=stop.set)
    servers = [make_server(ops, settings.ops.host, settings.ops.port, [])]
    if running.http is not None:
        servers.append(
            make_server(running.http.app, running.http.host, running.http.port, running.http.trusted_proxies)
        )
    tasks = [asyncio.create_task(server.serve(sockets=[sock])) for server, sock in servers]
    tasks += [asyncio.create_task(_loop_lag()), *(asyncio.create_task(work) for work in running.tasks)]
    log.info("started", ops_port=servers[0][1].getsockname()[1])
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    failed = next((task for task in done if task is not stopping), None)
    code = 0
    if failed is not None:
        code = 1
        log.error(
            "a part of the process ended", error=repr(failed.exception() if not failed.cancelled() else "cancelled")
        )
    stop.set()
    try:
        async with asyncio.timeout(running.drain_seconds):
            await running.drain()
    except TimeoutError:
        log.warning("drain took too long; what is in hand is left to others", seconds=running.drain_seconds)
    except Exception:
        log.exception("drain failed")
    for server, _sock in servers:
        server.should_exit = True
    await asyncio.wait(tasks[: len(servers)], timeout=10)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, stopping, return_exceptions=True)
    log.info("stopped")
    return code


class _Server(uvicorn.Server):
    """Without uvicorn's own signal handlers, which replace ours: the process decides when to drain and when to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(
    app: FastAPI, host: str, port: int, trusted_proxies: list[str], protocol: type[HttpProtocol] = HttpProtocol
) -> tuple[uvicorn.Server, socket.socket]:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=[*trusted_proxies, *_mapped(trusted_proxies)] or None,
        server_header=False,
        date_header=True,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
        http=protocol,
        backlog=2048,
    )
    server = _Server(config)
    return server, bind(host, port)


def _mapped(networks: list[str]) -> list[str]:
    """IPv4 networks as a socket of both families shows them (RFC 4291 §2.5.5.2)."""
    parsed = (ipaddress.ip_network(network) for network in networks)
    return [f"::ffff:{each.network_address}/{each.prefixlen + 96}" for each in parsed if each.version == 4]


def bind(host: str, port: int) -> socket.socket:
    """A listening socket that several processes of a service may share (SO_REUSEPORT)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        sys.exit(f"Cannot listen on {host}:{port}: {error.strerror}. Stop what uses the port, or set another one.")
    sock.listen(2048)
    sock.setblocking(False)
    return sock


async def _loop_lag() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + 1.0
        await asyncio.sleep(1.0)
        LOOP_LAG.set(max(0.0, loop.time() - due))
