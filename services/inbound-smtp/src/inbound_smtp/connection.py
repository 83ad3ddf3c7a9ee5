"""A connection: octets come, replies go. An asyncio.Protocol, so that neither a task nor a stream stands between the two.

    connection_made → (PROXY header) → (TLS) → `open`: it is known who is there
    data_received   → `octets` → _advance → `_read`, again and again → the replies of all that in one write (`_tell`)

`_read` is the state: what is done with the octets that have come. It takes one thing out of `octets` and says whether it did.
`_advance` goes on until there is nothing whole to read, or something has to be waited for (`wait_for`). Who waits is this
connection, not the process: when the future is done, it goes on.

Time is watched by the listener's clock (`tick`). `_since` is when the client was last answered, or was heard inside a message, and
`_patience` how long it may take from there.
"""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from inbound_smtp import proxy, replies
from inbound_smtp.listener import Listener
from inbound_smtp.tls import Channel
from inbound_smtp.wire import BadLine, Closed, Flood
from mailcore.kit.log import logger
from mailcore.smtp.reply import Reply

log = logger(__name__)

L = TypeVar("L", bound=Listener)

HANDSHAKE_SECONDS = 60.0
LINGER_SECONDS = 5.0
"""How long a client that is being told to go may take to read it."""
MAX_AHEAD = 64 * 1024
"""Octets that a client may send while one of its commands is being worked on."""
SECOND_LOOK_SECONDS = 0.05
AT_ONCE = 200
"""Commands of one client before it is the others' turn."""


class Connection(asyncio.Protocol, Generic[L], ABC):
    def __init__(self, listener: L, *, tls: bool = False) -> None:
        """`tls`: from the first octet (RFC 8314 §3.3), or the first after the PROXY header."""
        self.listener = listener
        self.peer_ip = ""
        self.tls: str | None = None
        """Version and cipher."""
        self.octets = bytearray()
        """What has come and nobody has read."""
        self._implicit = tls
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._channel: Channel | None = None
        self._entered = self._closed = self._ended = self._congested = self._paused = self._due = self._telling = False
        self._read: Callable[[], bool] = self._read_command
        self._held: asyncio.Future[Any] | None = None
        """What is waited for: meanwhile nothing is read, but for who asks the client himself."""
        self._asked: asyncio.Future[bytes | BadLine] | None = None
        self._more: asyncio.Future[None] | None = None
        self._replies: list[bytes] = []
        self._since = 0.0
        self._patience: float | None = None
        """None: as long as for any command."""

    # ---- what a session does ----------------------------------------------------------------------------------------

    @abstractmethod
    def open(self) -> None:
        """It is known who is there, and he may be there: before TLS, where that is from the first octet."""

    @abstractmethod
    def greet(self) -> None: ...

    @abstractmethod
    def forget(self) -> None:
        """RFC 3207 §4.2: what the client said before TLS counts for nothing."""

    @abstractmethod
    def _at_once(self, data: bytes) -> bool:
        """As `_advance` would, where `data` is all there is and nothing else can be meant. False: nothing was done."""

    @abstractmethod
    def heard(self, octets: int) -> None:
        """So many more have come."""

    @abstractmethod
    def lost(self) -> None:
        """The connection is over, and nothing is waited for: called at least once, perhaps more often."""

    @abstractmethod
    def hurry(self) -> None:
        """The process is ending."""

    @abstractmethod
    def _read_command(self) -> bool: ...

    @abstractmethod
    def _said(self, reply: Reply) -> None:
        """The client is told, and what goes with that is done."""

    # ---- asyncio's calls --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.listener.begin(self)
        self._since = self._loop.time()
        self.peer_ip = str((transport.get_extra_info("peername") or ("",))[0])
        if self.listener.proxies.expected(self.peer_ip):
            self._read, self._patience = self._read_proxy, proxy.SECONDS
        else:
            self._open()

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        if self._channel is not None:
            data = self._decrypted(data)
        elif not self.octets and self._held is None and self._at_once(data):
            return
        self.octets += data
        self.heard(len(data))
        if self._more is not None:
            more, self._more = self._more, None
            more.set_result(None)
        else:
            self._advance()
            if self._waiting and len(self.octets) > MAX_AHEAD:
                self._pause()  # it is to wait for us, or to read what we have said

    def eof_received(self) -> bool:
        """A client may close its side after QUIT has been sent: what it sent is still answered, except within TLS."""
        self._ended = True
        self._no_more()
        self._advance()
        return self._channel is None

    def pause_writing(self) -> None:
        """It does not read its replies: then it gets no more of them."""
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        self._advance()

    def connection_lost(self, _: Exception | None) -> None:
        self._closed = True
        self._transport = None
        self._no_more()
        if self._held is None:
            self.lost()
        self.listener.end(self)
        if self._entered:
            self.listener.connections.leave(self.peer_ip)

    def tick(self, now: float, patience: float) -> None:
        """The listener's clock. `patience`: how long it waits for a command just now."""
        waited = now - self._since
        if waited <= (patience if self._patience is None else self._patience):
            return
        if self._closed:
            if self._transport is not None:
                self._transport.abort()
            return
        his_turn = self._held is None or self._asked is not None or self._more is not None
        # where it is we who are slow, he will not wait for ever
        if his_turn or waited > self.listener.limits.command_seconds:
            self.goodbye(replies.TOO_SLOW)

    # ---- beginnings -------------------------------------------------------------------------------------------------

    def _open(self, *, again: bool = False) -> None:
        if self._closed:
            return
        self._entered = self.listener.connections.enter(self.peer_ip)
        if not self._entered:
            # of one that came in the place of another, it may not be known yet that the other is gone
            self._read, self._patience = _nothing, LINGER_SECONDS
            if again:
                self.goodbye(replies.TOO_MANY_CONNECTIONS)
            else:
                self._loop.call_later(SECOND_LOOK_SECONDS, lambda: self._open(again=True))
            return
        self._read, self._patience = self._read_command, None
        self.open()
        if self._implicit:
            octets = bytes(self.octets)  # what came with the PROXY header
            self.start_tls()
            self.octets += self._decrypted(octets)
        else:
            self.greet()

    def _read_proxy(self) -> bool:
        version = self.listener.proxies.version or 0
        try:
            header = proxy.read(self.octets, version)
        except proxy.BadHeader:
            log.warning("no valid PROXY header", peer=self.peer_ip)
            self.close()
            return False
        if header is None:
            return False
        del self.octets[: header.size]
        if header.peer is not None:
            self.peer_ip = header.peer
        self._open()
        return True

    def start_tls(self) -> None:
        """What was said is sent in clear, what comes from here on is within TLS, and what came before counts for nothing."""
        assert self.listener.certificate is not None and self._transport is not None
        self._send()
        self.octets.clear()
        self._channel = Channel(self.listener.certificate.context, self._transport.write)
        self._patience = HANDSHAKE_SECONDS

    def _decrypted(self, octets: bytes) -> bytes:
        assert self._channel is not None
        before = self._channel.established
        try:
            said = self._channel.receive(octets)
        except (ssl.SSLError, OSError) as error:
            log.debug("TLS failed", peer=self.peer_ip, error=str(error))
            self.close()
            return b""
        if self._channel.established and not before:
            self.tls, self._patience = self._channel.described, None
            self.forget()
            if self._implicit:
                self.greet()
        if self._channel.ended:
            self._ended = True
            self._no_more()
        return said

    # ---- reading ----------------------------------------------------------------------------------------------------

    @property
    def _waiting(self) -> bool:
        """Nothing may be read: something is worked on, or the client does not read."""
        return self._closed or self._congested or (self._held is not None and self._asked is None)

    def _advance(self) -> None:
        """Reads what is whole, and sends the replies of it all."""
        left = AT_ONCE
        while left and not self._waiting and self._read():
            left -= 1
        if self._waiting:
            return
        self._tell()
        if not left:
            if not self._due:
                self._due = True
                self._loop.call_soon(self._turn)
        elif self._held is None:
            if self._ended:
                self.close()
            else:
                self._resume()

    def _turn(self) -> None:
        self._due = False
        self._advance()

    def wait_for(self, future: asyncio.Future[Any], reply: Callable[[Any], Reply | None]) -> None:
        """`reply` of what the future comes to; None: it has been seen to."""
        self._held = future
        self._since = self._loop.time()
        future.add_done_callback(lambda done: self._go_on(done, reply))

    def _go_on(self, done: asyncio.Future[Any], reply: Callable[[Any], Reply | None]) -> None:
        self._held = None
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if self._closed or isinstance(error, (Closed, asyncio.CancelledError)):
            self.lost()
            self.close()
            return
        if isinstance(error, Flood):
            self.goodbye(replies.TOO_BIG)
            return
        try:
            told = reply(done.result())
        except Exception as unforeseen:
            told = replies.from_error(unforeseen)
        if told is not None:
            self._said(told)
        self._advance()

    async def ask(self, reply: Reply) -> bytes | BadLine:
        """The client's answer to `reply`: one line. Raises Closed."""
        if self._ended or self._closed:
            raise Closed
        self._replies.append(replies.octets(reply))
        asked: asyncio.Future[bytes | BadLine] = self._loop.create_future()
        self._asked = asked
        self._advance()
        return await asked

    async def more(self) -> None:
        """There are more octets. For who reads a large message. Raises Closed."""
        if self._ended or self._closed:
            raise Closed
        self._resume()
        self._more = self._loop.create_future()
        await self._more

    def _no_more(self) -> None:
        """The client says nothing more: who waits for it learns so."""
        for future in (self._more, self._asked):
            if future is not None and not future.done():
                future.set_exception(Closed())
        self._more = self._asked = None

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    # ---- replies ----------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """What has been said leaves with what others are told in this round of the loop, one right behind the other: a client that
        sleeps has to be woken, which costs more than the packet, and one that talks over many connections then sleeps once."""
        if not self._telling and self._replies:
            self._telling = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._telling = False
        replies, transport = self._replies, self._transport
        if not replies or transport is None:
            return
        octets = replies[0] if len(replies) == 1 else b"".join(replies)
        replies.clear()
        self._since = self._loop.time()
        if self._channel is None:
            transport.write(octets)
        elif self._channel.established:
            try:
                self._channel.say(octets)
            except (ssl.SSLError, OSError) as error:
                log.debug("TLS failed", peer=self.peer_ip, error=str(error))
                transport.abort()

    def goodbye(self, reply: Reply) -> None:
        self._replies.append(replies.octets(reply))
        self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._send()
        self._closed = True
        self._since, self._patience = self._loop.time(), LINGER_SECONDS
        self._no_more()
        if self._transport is not None:
            if self._channel is not None and self._channel.established:
                self._channel.close()
            self._transport.close()


def _nothing() -> bool:
    """The state of who may not be here."""
    return False
