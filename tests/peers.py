"""Real programs that tests talk to. Where one is absent the test skips and says what to do.

With POSTROOM_TEST_REQUIRE_PEERS=1 it fails instead.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections import deque
from collections.abc import Sequence

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


_FIRST, _COUNT, _BLOCK = 3_000, 9_000, 50
"""Away from those that the kernel gives to whoever connects, or a test would meet a stranger on them, or itself."""
_held: list[socket.socket] = []
_offered: deque[int] = deque()


def free_port() -> int:
    """One that nobody listens on, offered once by this process, and by no other while this one lives."""
    while True:
        if not _offered:
            first = claim(range(_FIRST, _FIRST + _COUNT, _BLOCK), _BLOCK)
            _offered.extend(range(first, first + _BLOCK - 1))
        if is_free(port := _offered.popleft()):
            return port


def claim(firsts: Sequence[int], count: int) -> int:
    """The first of so many ports that are this process's from now on. The last of them is the sign of it: bound, so that of two who
    claim at the same time one fails, in whatever run of pytest. Each begins to look at another place."""
    begin = os.getpid() * 7 % len(firsts)
    for first in (*firsts[begin:], *firsts[:begin]):
        sign = socket.socket()
        try:
            sign.bind(("127.0.0.1", first + count - 1))
        except OSError:
            sign.close()
        else:
            _held.append(sign)
            return first
    raise AssertionError("no free range of ports")


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
