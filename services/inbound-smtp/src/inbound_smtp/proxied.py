"""TLS from the first octet behind a load balancer: the PROXY header comes before the handshake, in clear.

A stream would read past the header, into what belongs to TLS. So it is read off the socket to its last octet and no further, and
the connection is handed to the event loop only then.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from aiosmtpd.proxy_protocol import get_proxy

from inbound_smtp.session import HANDSHAKE_SECONDS, PROXY_SECONDS
from mailcore.kit.log import logger

log = logger(__name__)

MAX_V1 = 107
"""Octets of a header in version 1."""
MOST = 1_000
"""Connections whose header or handshake is awaited."""


class ProxiedServer:
    """As much of asyncio.Server as is used of it."""

    def __init__(
        self, sock: socket.socket, tls: ssl.SSLContext, version: int, begin: Callable[[str], asyncio.Protocol]
    ) -> None:
        """`begin` makes the protocol of a connection from the client's address."""
        self.sockets = (sock,)
        self._tls = tls
        self._version = version
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._accepting = self._loop.create_task(self._accept())

    def close(self) -> None:
        """No new connections."""
        self._accepting.cancel()
        for task in self._beginning:
            task.cancel()
        self._loop.call_soon(self.sockets[0].close)  # when nobody waits on it any more

    async def _accept(self) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(self.sockets[0])
            except OSError as error:  # no more file descriptors
                log.error("a connection cannot be accepted", error=str(error))
                await asyncio.sleep(1.0)
                continue
            if len(self._beginning) >= MOST:
                client.close()
                continue
            task = self._loop.create_task(self._open(client))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _open(self, client: socket.socket) -> None:
        try:
            client.setblocking(False)
            async with asyncio.timeout(PROXY_SECONDS):
                proxy = await get_proxy(_Exactly(client))
            if not proxy or proxy.version != self._version:
                log.warning("no valid PROXY header", peer=client.getpeername()[0])
                client.close()
                return
            # a health check of the balancer itself names nobody
            peer = client.getpeername()[0] if proxy.src_addr is None else proxy.src_addr
            await self._loop.connect_accepted_socket(
                lambda: self._begin(str(peer)), client, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except (OSError, EOFError, TimeoutError) as error:  # ssl.SSLError is an OSError
            log.debug("connection lost before it began", error=repr(error))
            client.close()
        except asyncio.CancelledError:
            client.close()
            raise


class _Exactly:
    """The reader that get_proxy wants, which takes no octet more than it is asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def read(self, num_bytes: int = -1) -> bytes:
        return await self._loop.sock_recv(self._sock, max(1, num_bytes))

    async def readexactly(self, n: int) -> bytes:
        octets = b""
        while len(octets) < n:
            piece = await self._loop.sock_recv(self._sock, n - len(octets))
            if not piece:
                raise EOFError
            octets += piece
        return octets

    async def readuntil(self, until_chars: bytes | None = None) -> bytes:
        line = b""
        while not line.endswith(until_chars or b"\n") and len(line) < MAX_V1:
            line += await self.readexactly(1)
        return line
