"""A look at a server that is not there."""

from __future__ import annotations

import socket

from mailcore.transport.probe import probe, probe_tls


async def test_a_port_that_is_closed_is_told_in_the_systems_words() -> None:
    """Whichever event loop asks: asyncio's own has Python's words in their place."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        found = await probe("127.0.0.1", port, "mx.example", helo="us.example", seconds=5)
        https = await probe_tls("127.0.0.1", port, "www.example", seconds=5)
    assert found.error == https.error == f"127.0.0.1:{port} cannot be reached (Connection refused)"
