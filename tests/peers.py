"""Real programs that tests talk to. Where one is absent the test skips and says what to do.

With POSTROOM_TEST_REQUIRE_PEERS=1 it fails instead.
"""

from __future__ import annotations

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


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
