"""`postroom up`: from an empty folder to a running installation, and back down.

1. folder, secrets and ports are made or checked; nothing has been started yet
2. Postgres and Valkey; catcher and DNS beside them
3. the migration, then the set-up (first organization, admin, API key), each a child process
4. the services; when all are ready, dev.json and `Postroom is ready`
5. Ctrl-C, SIGTERM or SIGHUP: services drain, then catcher and DNS, then Valkey, then Postgres; exit 0
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from postroom.console import CannotStart, say, warn
from postroom.settings import Given

from . import defaults, folder, metrics, postgres, probe, reload, tls, valkey
from .defaults import HOST, SERVICES, Mode
from .devfile import DevFile, keep_settings
from .ports import Ports, Wanted, check
from .supervisor import Part, Supervisor, silent

_STOP_STAGES = ([service.name for service in SERVICES], ["catcher", "dns"], ["redis"], ["postgres"])
_UNCLEAN_SECONDS = 15.0
_DRAIN_SECONDS = 35.0  # more than the longest drain of a service
_SLOW_SECONDS = 30.0
_ONE_STOP_SECONDS = 1.0
"""A group that is told to stop is told twice: make hands the signal on."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was typed: `postroom up --data … --port-base … --mode … --postgres … --reload`."""

    data: Path
    port_base: int
    mode: Mode
    postgres_major: int | None = None
    reload: bool = False


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a service; the first has the service's name."""

    name: str
    service: defaults.Service
    ops_port: int


class Stack:
    """The plan of a stack: everything that can be found wrong before anything is started is found here."""

    def __init__(self, choice: Choice, given: Given) -> None:
        self.choice = choice
        self.given = given
        self.ports = Ports(choice.port_base)
        self.folder = folder.open_folder(choice.data)
        self.lock = folder.lock(self.folder)
        self.secrets = folder.load_secrets(self.folder)
        tls.ensure(self.folder.tls, datetime.now(UTC))
        self.environment = given.over(defaults.of_mode(choice.mode, self.folder, self.ports, self.secrets))
        self.settings: Mapping[str, str] = {**self.environment, **given.values}
        self.own_postgres = "POSTROOM_DATABASE__URL" not in given.values
        self.own_redis = "POSTROOM_REDIS__URL" not in given.values
        if not self.own_postgres:
            url = given.values["POSTROOM_DATABASE__URL"]
            self.environment["POSTROOM_DATABASE__MIGRATE_URL"] = given.values.get("POSTROOM_DATABASE__MIGRATE_URL", url)
        self.processes = list(self._processes())

    def setting(self, name: str) -> str:
        return self.settings[f"POSTROOM_{name}"]

    def _processes(self) -> list[Process]:
        found: list[Process] = []
        for service in SERVICES:
            count = self.given.integer(f"POSTROOM_{service.setting}__PROCESSES", 1, low=0, high=32)
            for number in range(count):
                name = service.name if number == 0 else f"{service.name}-{number + 1}"
                found.append(Process(name, service, self.ports.ops(len(found))))
        return found

    @property
    def catching(self) -> bool:
        return self.choice.mode is Mode.CATCH

    def wanted(self) -> list[Wanted]:
        wanted = [Wanted(f"operations of {process.name}", HOST, process.ops_port) for process in self.processes]
        started = {process.service.name for process in self.processes}
        if "api" in started:
            wanted.append(Wanted("HTTP", self.setting("HTTP__HOST"), int(self.setting("HTTP__PORT"))))
        if "inbound-smtp" in started:
            wanted.append(Wanted("MX", self.setting("SMTP__HOST"), int(self.setting("SMTP__MX_PORT"))))
            for what in ("SUBMISSION", "SUBMISSIONS"):
                if port := int(self.setting(f"SMTP__{what}_PORT") or 0):
                    wanted.append(Wanted(what.lower(), self.setting("SMTP__HOST"), port))
        wanted.append(Wanted("metrics", HOST, self.ports.metrics))
        if self.catching:
            wanted.append(Wanted("catcher", HOST, self.ports.catcher))
            wanted.append(Wanted("DNS", HOST, self.ports.dns, udp=True))
        if self.own_postgres:
            wanted.append(Wanted("Postgres", HOST, self.ports.postgres))
        if self.own_redis:
            wanted.append(Wanted("Redis", HOST, self.ports.redis))
        return wanted

    def part(self, name: str, *arguments: str, group: str | None = None, **extra: str) -> Part:
        """A Python program of ours: `python -m …` with the settings of this stack."""
        environment = {**self.environment, "PYTHONUNBUFFERED": "1", **extra}
        return Part(name, group or name, [sys.executable, "-m", *arguments], environment)

    def service_part(self, process: Process) -> Part:
        part = self.part(
            process.name,
            process.service.module,
            group=process.service.name,
            POSTROOM_OPS__PORT=str(process.ops_port),
        )
        # who may create tables is nobody that faces the network; how many processes there are is for us to know
        environment = {
            name: value
            for name, value in part.environment.items()
            if name != "POSTROOM_DATABASE__MIGRATE_URL" and not name.endswith("__PROCESSES")
        }
        return Part(part.name, part.group, part.argv, environment, stop_seconds=_DRAIN_SECONDS)

    def dev_file(self, credentials: Mapping[str, Any]) -> DevFile:
        first = {process.name: f"http://{HOST}:{process.ops_port}" for process in self.processes}
        return DevFile(
            api_url=f"http://{_reachable(self.setting('HTTP__HOST'))}:{self.setting('HTTP__PORT')}",
            web_url=f"{self.setting('HTTP__PUBLIC_URL').rstrip('/')}/console/",
            api_key=credentials["api_key"],
            org_id=credentials["org_id"],
            admin_email=credentials["admin_email"],
            admin_password=credentials["admin_password"],
            mx=f"{_reachable(self.setting('SMTP__HOST'))}:{self.setting('SMTP__MX_PORT')}",
            submission=self._submission("SUBMISSION"),
            submissions=self._submission("SUBMISSIONS"),
            relay=None,
            catcher=f"{HOST}:{self.ports.catcher}" if self.catching else None,
            dns=f"{HOST}:{self.ports.dns}" if self.catching else None,
            tls_ca=str(self.folder.tls / "ca.pem"),
            metrics_url=f"http://{HOST}:{self.ports.metrics}/metrics",
            ops=first,
            database_url=self.setting("DATABASE__URL"),
            redis_url=self.setting("REDIS__URL"),
        )

    def _submission(self, what: str) -> str | None:
        port = int(self.setting(f"SMTP__{what}_PORT") or 0)
        return f"{_reachable(self.setting('SMTP__HOST'))}:{port}" if port else None


def _reachable(host: str) -> str:
    host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)  # noqa: S104 - everywhere: reachable on loopback too
    return f"[{host}]" if ":" in host else host


class Timer:
    def __init__(self) -> None:
        self._begun = time.monotonic()

    def __str__(self) -> str:
        return f"{time.monotonic() - self._begun:.1f} s"


async def up(choice: Choice, given: Given) -> int:
    """Runs until it is told to stop. Exit code 0; raises CannotStart when the stack cannot run."""
    stack = Stack(choice, given)
    await _check_ports(stack)
    stack.folder.forget_running()
    told, told_at = asyncio.Event(), 0.0
    dev: list[DevFile] = []

    def changed() -> None:
        for file in dev:
            file.pids = supervisor.pids()
            file.write(stack.folder.dev_json)

    supervisor = Supervisor(stack.folder.log, changed)

    def on_signal() -> None:
        nonlocal told_at
        if not told.is_set():
            told_at = time.monotonic()
            told.set()
        elif time.monotonic() - told_at > _ONE_STOP_SECONDS:
            warn("Told twice: killing what still runs")
            supervisor.kill_all()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    work = asyncio.create_task(_bring_up(stack, supervisor, dev, changed))
    telling = asyncio.create_task(told.wait())
    try:
        ends: list[asyncio.Future[Any]] = [work, telling, supervisor.hopeless]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if supervisor.hopeless.done():
            raise CannotStart(f"Giving up: {supervisor.hopeless.result()}. See {stack.folder.log}.")
        if work.done():
            work.result()
    finally:
        work.cancel()
        telling.cancel()
        if told.is_set():
            say("Stopping ...")
        await asyncio.gather(work, telling, return_exceptions=True)
        await supervisor.stop_all(_STOP_STAGES)
        stack.folder.forget_running()
        stack.lock.close()
    say("Postroom has stopped")
    return 0


async def _check_ports(stack: Stack) -> None:
    """After kill -9 of an earlier `up` its children are on their way out: they are given time to go."""
    unclean = stack.folder.dev_json.exists()
    deadline = time.monotonic() + _UNCLEAN_SECONDS
    while True:
        try:
            check(stack.wanted())
        except CannotStart:
            if not unclean or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def _bring_up(stack: Stack, supervisor: Supervisor, dev: list[DevFile], changed: Any) -> None:
    whole = Timer()
    starting = [_start_postgres(stack, supervisor), _start_valkey(stack, supervisor)]
    if stack.catching:
        starting.append(_start_lab(stack, supervisor))
    await _all(*starting)
    timer = Timer()
    await _child(supervisor, stack.part("migrate", "mailcore.store.migrate", "up"), "The migration")
    say(f"Database is up to date ({timer})")
    credentials = await _set_up(stack, supervisor)
    timer = Timer()
    for process in stack.processes:
        await supervisor.start(stack.service_part(process))
    server = await metrics.serve(HOST, stack.ports.metrics, lambda: _collect(stack))
    try:
        await _until_ready(stack, supervisor)
        if stack.processes:
            say(f"{', '.join(process.name for process in stack.processes)} started ({timer})")
        supervisor.been_ready = True
        keep_settings(stack.folder, {**stack.environment, **stack.given.values})
        dev.append(stack.dev_file(credentials))
        changed()
        _banner(stack, dev[0], whole)
        if stack.choice.reload:
            await reload.watch(lambda: supervisor.restart([service.name for service in SERVICES]))
        await asyncio.Event().wait()
    finally:
        server.close()


async def _all(*work: Any) -> None:
    """Like gather, but when one fails the others are cancelled and waited for."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _start_postgres(stack: Stack, supervisor: Supervisor) -> None:
    if not stack.own_postgres:
        return
    timer = Timer()
    password = stack.secrets.POSTROOM_POSTGRES_PASSWORD
    cluster = postgres.prepare(stack.folder, stack.ports.postgres, password, stack.choice.postgres_major)
    part = Part(
        "postgres",
        "postgres",
        cluster.argv(),
        postgres.environment(),
        death_signal=signal.SIGINT,  # fast shutdown: without it, killed backends would have to be waited for
        stop_signal=signal.SIGINT,
        stop_seconds=60.0,
        cwd=Path("/"),
        account=cluster.account,
        before=lambda: postgres.make_way(cluster),
        loud=postgres.loud,
    )
    await supervisor.start(part)
    await postgres.wait_until_up(cluster, password)
    await postgres.ensure_database(cluster, password)
    say(f"Postgres {cluster.major} started ({timer})")
    if stack.folder.pg.is_symlink():
        say(
            f"  its files are in {cluster.pgdata}: it may not run as root, and others may not enter {stack.folder.root}"
        )


async def _start_valkey(stack: Stack, supervisor: Supervisor) -> None:
    if not stack.own_redis:
        return
    timer = Timer()
    password = stack.secrets.POSTROOM_REDIS_PASSWORD
    argv = valkey.prepare(stack.folder, stack.ports.redis, password)
    part = Part("redis", "redis", argv, postgres.environment(), death_signal=signal.SIGTERM, loud=silent)
    await supervisor.start(part)
    await valkey.wait_until_up(stack.ports.redis, password)
    say(f"Valkey started ({timer})")


async def _start_lab(stack: Stack, supervisor: Supervisor) -> None:
    timer = Timer()
    catch, names = f"{HOST}:{stack.ports.catcher}", f"{HOST}:{stack.ports.dns}"
    pem = stack.folder.tls
    await supervisor.start(
        stack.part(
            *("catcher", "postroom.local.catcher", "--listen", catch, "--dir", str(stack.folder.caught)),
            *("--certificate", str(pem / "cert.pem"), "--key", str(pem / "key.pem")),
        )
    )
    await supervisor.start(stack.part("dns", "postroom.local.dns", "--listen", names, "--dir", str(stack.folder.dns)))
    await asyncio.gather(_until_it_listens(stack.ports.catcher), _until_it_listens(stack.ports.dns))
    say(f"Catcher and DNS started ({timer})")


async def _until_it_listens(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(0.03)
        else:
            writer.close()
            return


async def _child(supervisor: Supervisor, part: Part, what: str) -> None:
    child = await supervisor.run(part)
    if child.ended.result():
        lines = [line.decode(errors="replace").strip() for line in child.output.last if line.strip()]
        raise CannotStart(lines[-1] if lines else f"{what} {child.how_it_ended()}: see log/{part.name}.log.")


async def _set_up(stack: Stack, supervisor: Supervisor) -> Mapping[str, Any]:
    """The first organization, its admin and key, and the lab's domain; the same ones the next time."""
    lab = ["--lab"] if stack.catching else []
    part = stack.part("setup", "postroom", "setup", "--credentials", str(stack.folder.credentials), *lab)
    await _child(supervisor, part, "The set-up")
    credentials: Mapping[str, Any] = json.loads(stack.folder.credentials.read_text(encoding="utf-8"))
    return credentials


async def _until_ready(stack: Stack, supervisor: Supervisor) -> None:
    """Until every process answers 200 on /readyz, and the api on its public port too."""
    addresses = {process.name: (HOST, process.ops_port) for process in stack.processes}
    if any(process.service.name == "api" for process in stack.processes):
        addresses["api (HTTP)"] = (
            _reachable(stack.setting("HTTP__HOST")).strip("[]"),
            int(stack.setting("HTTP__PORT")),
        )
    next_word = time.monotonic() + _SLOW_SECONDS
    while True:
        for name, (host, port) in list(addresses.items()):
            answer = await probe.get(host, port, "/readyz")
            if answer is not None and answer[0] == 200:
                del addresses[name]
        if not addresses:
            return
        if time.monotonic() > next_word:
            warn(f"Still waiting for {', '.join(addresses)}: see {stack.folder.log}")
            next_word += _SLOW_SECONDS
        await asyncio.sleep(0.05)


async def _collect(stack: Stack) -> Mapping[str, bytes]:
    answers = await asyncio.gather(*(probe.get(HOST, process.ops_port, "/metrics") for process in stack.processes))
    return {
        process.name: answer[1]
        for process, answer in zip(stack.processes, answers, strict=True)
        if answer is not None and answer[0] == 200
    }


def _banner(stack: Stack, dev: DevFile, timer: Timer) -> None:
    lines = [f"Postroom is ready at {dev.api_url} ({timer})", ""]
    rows = [
        ("API", dev.api_url),
        ("API key", dev.api_key),
        ("Admin", f"{dev.admin_email} / {dev.admin_password}"),
        ("Mail in (MX)", dev.mx),
        ("Submission", f"{dev.submission or 'none'} (STARTTLS), {dev.submissions or 'none'} (TLS)"),
        (
            "Catcher",
            f"{dev.catcher}, read it at {dev.api_url}/v1/caught" if dev.catcher else "none: mail really leaves",
        ),
        ("DNS", dev.dns or "the system's"),
        ("Metrics", dev.metrics_url),
        ("All of this", str(stack.folder.dev_json)),
    ]
    lines += [f"  {name:<13} {value}" for name, value in rows]
    if stack.catching:
        body = {"from": "hello@postroom.test", "to": "you@example.com", "subject": "Hello", "text": "It works."}
        lines += ["", "Try it:", f"  curl -X POST {dev.api_url}/emails -H 'Authorization: Bearer {dev.api_key}' \\"]
        lines += [f"    -H 'Content-Type: application/json' -d '{json.dumps(body)}'"]
        lines += [f"  curl {dev.api_url}/v1/caught -H 'Authorization: Bearer {dev.api_key}'"]
    say("\n".join([*lines, "", "Ctrl-C stops it."]))
