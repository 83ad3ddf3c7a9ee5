"""Real programs that tests talk to. Where one is absent the test skips and says what to do.

With POSTROOM_TEST_REQUIRE_PEERS=1 it fails instead.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket

import pytest

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
_BESIDE = "/usr/local/lib/postroom-peers/usr/sbin"
"""Where .ci/peers unpacks what cannot be installed beside Postfix."""


def peer(program: str) -> str:
    """The program's path."""
    found = shutil.which(program) or shutil.which(program, path=_PATH) or shutil.which(program, path=_BESIDE)
    if found:
        return found
    if os.environ.get("POSTROOM_TEST_REQUIRE_PEERS") == "1":
        pytest.fail(f"{program} is required (POSTROOM_TEST_REQUIRE_PEERS=1) and not installed: make peers")
    pytest.skip(f"{program} is not installed: make peers")


_FIRST, _COUNT = 3_000, 9_000
"""Away from those that the kernel gives to whoever connects, or a test would meet a stranger on them, or itself."""
_offered = itertools.count(os.getpid() * 53)


def free_port() -> int:
    """One that nobody listens on, offered once. Tests that run beside each other begin at places of their own."""
    for offered in itertools.islice(_offered, _COUNT):
        if is_free(port := _FIRST + offered % _COUNT):
            return port
    raise AssertionError("no free port")


_CLOSED = {3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670), 6679, 6697, 10080}
"""To which browsers, node and our own guard connect for nobody (Fetch standard, "port blocking")."""


def is_free(port: int) -> bool:
    if port in _CLOSED:
        return False
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
