from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fakes import dovecot
from fakes.dovecot import Dovecot
from peers import free_port, peer
from postroom.local import tls

USERS = tuple(f"user{n}@mail.test" for n in range(12))


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
    server, process = dovecot.start(folder, (free_port(), free_port()), USERS, cert, key)
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
