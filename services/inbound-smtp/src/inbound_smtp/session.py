"""A connection, from greeting to QUIT.

aiosmtpd gives the protocol object on asyncio and the PROXY header; what it lacks for a server that faces the world is here: limits
on connections, errors, junk and time, lines that end with CRLF alone, replies in one packet for a group of commands, TLS that
forgets what was said before it. The commands are in verbs/.

Time is watched by one timer. A client has `command_seconds` for a command, and inside a message may be silent for
`data_seconds` and must manage a minimum rate, so that a big mail over a slow line has its time and a connection that only
drips has not. A client that does not read its replies meets the same timer.

A client that talks before our greeting is answered in order like any other: nothing of what it sent can be taken for
something else, as commands are only ever read one after the other. HTTP's verbs end the connection.
"""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, cast

from aiosmtpd.proxy_protocol import ProxyData, get_proxy
from aiosmtpd.smtp import SMTP

from inbound_smtp import replies
from inbound_smtp.listener import Listener
from inbound_smtp.transaction import Transaction
from inbound_smtp.verbs import HTTP, JUNK
from inbound_smtp.wire import BadLine, Closed, Content, Flood, TooSlow, Wire
from mailcore.kit import failpoint
from mailcore.kit.log import logger
from mailcore.smtp.reply import Reply

log = logger(__name__)

L = TypeVar("L", bound=Listener)

PROXY_SECONDS = 10.0
HANDSHAKE_SECONDS = 60.0
LINGER_SECONDS = 5.0
"""How long a client that is being told to go may take to read it."""


class Session(SMTP, Generic[L], ABC):
    """The conversation itself; what a listener is for stands in its own kind of session (mx.py, submission/session.py)."""

    line_length_limit = 65_536
    """Of the stream: how much is buffered before the client has to wait."""

    def __init__(self, listener: L, peer_ip: str = "") -> None:
        """`peer_ip`: the client's, where it is known already."""
        self.listener = listener
        self.helo: str | None = None
        self.extended = False
        self.tls: str | None = None
        self.transaction: Transaction[Any] | None = None
        self.leaving = False
        self.upgrade = False
        self.junk = 0
        self.peer_ip = peer_ip
        self._errors = 0
        self._replies: list[bytes] = []
        self._between = True
        self._deadline = 0.0
        self.connected_at = datetime.now(UTC)
        self._set_up_protocol()

    def _set_up_protocol(self) -> None:
        """What SMTP.__init__ sets of the things that are used here.

        It also looks through all members of the class for verbs, hooks and mechanisms, at every connection: a fifth of
        what a short mail costs, for verbs that are not asked.
        """
        self.loop = asyncio.get_running_loop()
        self.session = self.envelope = self.transport = None
        self._original_transport = self._tls_protocol = None
        self._timeout_handle = self._handler_coroutine = None
        stream = asyncio.StreamReader(limit=self.line_length_limit, loop=self.loop)
        asyncio.StreamReaderProtocol.__init__(self, stream, self._cb_client_connected, self.loop)

    # ---- what a kind of session says --------------------------------------------------------------------------------

    @abstractmethod
    def extensions(self) -> list[str]:
        """What EHLO offers beside PIPELINING, SIZE and STARTTLS."""

    @abstractmethod
    async def take(self, transaction: Transaction[Any], raw: bytes) -> Reply:
        """What the message comes to: 250 only when it is on disk. Its octets have been checked (checks.content)."""

    def forget(self) -> None:
        """RFC 3207 §4.2: what the client said before TLS counts for nothing."""
        self.helo = self.transaction = None

    # ---- what the verbs use -----------------------------------------------------------------------------------------

    def hello(self, name: str, *, extended: bool) -> None:
        """RFC 5321 §4.1.4: EHLO begins anew."""
        self.helo, self.extended, self.transaction = name, extended, None

    def reply(self, reply: Reply) -> None:
        """Sent with others of its group, before the client is waited for (RFC 2920 §3.2)."""
        self._replies.append(replies.octets(reply))

    async def ask(self, reply: Reply) -> bytes | BadLine:
        """The client's answer to `reply`: one line."""
        self.reply(reply)
        return await self._next_line()

    async def read_message(self) -> Content:
        limits = self.listener.limits
        began = self.loop.time()

        def progress(came: int) -> None:
            failpoint.hit("f14")
            took = self.loop.time() - began - limits.data_grace_seconds
            if took > 0 and came < took * limits.data_bytes_per_second:
                raise TooSlow
            self._reset_timeout(limits.data_seconds)

        self._reset_timeout(limits.data_seconds)
        await self._flush()
        try:
            return await self.wire.data(limits.message_bytes, self.listener.memory, progress)
        finally:
            self._reset_timeout()

    def hurry(self) -> None:
        """The process is ending: now, when nothing is under way."""
        if self._between and self.transport is not None:
            self._goodbye(replies.SHUTTING_DOWN)

    # ---- the life of a connection -----------------------------------------------------------------------------------

    async def _handle_client(self) -> None:
        self.wire = Wire(self._reader)
        entered = False
        self.listener.begin(self)
        try:
            if not await self._learn_peer():
                return
            entered = self.listener.connections.enter(self.peer_ip)
            if not entered:
                self._goodbye(replies.TOO_MANY_CONNECTIONS)
                return
            self._reset_timeout()
            self._note_tls()
            self.reply(Reply(220, f"{self.listener.hostname} ESMTP Postroom"))
            await self._converse()
        except TooSlow:
            self._goodbye(replies.TOO_SLOW)
        except Flood:
            self._goodbye(replies.TOO_BIG)
        except (ConnectionError, ssl.SSLError, TimeoutError) as error:
            log.debug("connection lost", peer=self.peer_ip, error=repr(error))
        except Exception as error:
            self._goodbye(Reply(421, replies.from_error(error).text, "4.3.0"))
        finally:
            self.listener.end(self)
            if entered:
                self.listener.connections.leave(self.peer_ip)
            self._close()

    async def _learn_peer(self) -> bool:
        """The client's address, or what the load balancer says it is. False: it said nothing we can believe."""
        if self.peer_ip:
            return True
        assert self.session is not None  # set in connection_made
        self.peer_ip = str((self.session.peer or ("",))[0])
        if self.listener.proxy_version is None:
            return True
        self._reset_timeout(PROXY_SECONDS)
        proxy: ProxyData = await get_proxy(self._reader)
        if not proxy or proxy.version != self.listener.proxy_version:
            log.warning("no valid PROXY header", peer=self.peer_ip)
            return False
        if proxy.src_addr is not None:  # a health check of the balancer itself names nobody
            self.peer_ip = str(proxy.src_addr)
        return True

    async def _converse(self) -> None:
        limits = self.listener.limits
        while not self.leaving and self.transport is not None:
            if self.listener.draining and self.transaction is None:
                self._goodbye(replies.SHUTTING_DOWN)
                return
            line = await self._next_line()
            reply = await self._answer(line)
            self.reply(reply)
            if reply.code == 421:
                return
            if reply.permanent:
                self._errors += 1
                if self._errors >= limits.errors:
                    self.reply(replies.TOO_MANY_ERRORS)
                    return
            if self.upgrade:
                await self._start_tls()
            elif reply.code == 250 and isinstance(line, bytes) and line[:4].upper() == b"DATA":
                await self._flush()
                failpoint.hit("f17")

    async def _next_line(self) -> bytes | BadLine:
        """Our replies go out before we wait, all of a group at once."""
        self._reset_timeout()
        if not self.wire.has_line:
            await self._flush()
        self._between = self.transaction is None
        try:
            return await self.wire.line()
        except Closed:
            await self._flush()
            raise
        finally:
            self._between = False

    async def _answer(self, line: bytes | BadLine) -> Reply:
        if line is BadLine.TOO_LONG:
            return Reply(500, "Line too long", "5.5.2")
        if line is BadLine.BARE_LF:
            return Reply(500, "A command ends with CRLF and holds no other CR, LF or NUL", "5.5.2")
        assert isinstance(line, bytes)
        try:
            verb, _, argument = line.decode("utf-8").partition(" ")
        except UnicodeDecodeError:
            return Reply(500, "A command is ASCII, or UTF-8 in an address", "5.5.2")
        verb = verb.upper()
        if verb in HTTP:
            return Reply(421, "This is SMTP, not HTTP", "4.7.0")
        run = self.listener.verbs.get(verb)
        if run is None or verb in JUNK:
            self.junk += 1
            if self.junk > self.listener.limits.junk_commands:
                return Reply(421, "Too many commands that bring no mail, closing the connection", "4.7.0")
        if run is None:
            return replies.NOT_A_COMMAND
        try:
            return await run(self, argument.strip(" "))
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:
            return replies.from_error(error)

    async def _start_tls(self) -> None:
        self.upgrade = False
        assert self.listener.tls is not None and self.transport is not None
        self._writer.write(b"".join(self._replies))
        self._replies.clear()
        # between this and start_tls nothing is awaited: nothing said in clear can slip in
        self.wire.drop()
        transport = await self.loop.start_tls(
            cast(asyncio.WriteTransport, self.transport),
            self,
            self.listener.tls,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
        )
        if transport is None:
            raise Closed
        self.transport = transport
        self._reader._transport = transport  # type: ignore[attr-defined]
        self._writer._transport = transport  # type: ignore[attr-defined]
        self._over_ssl = True
        self._note_tls()
        self.forget()

    def _note_tls(self) -> None:
        tls = None if self.transport is None else self.transport.get_extra_info("ssl_object")
        if tls is not None:
            self.tls = f"{tls.version()} {tls.cipher()[0]}"

    async def _flush(self) -> None:
        if self._replies:
            self._writer.write(b"".join(self._replies))
            self._replies.clear()
            await self._writer.drain()

    def _goodbye(self, reply: Reply) -> None:
        self.reply(reply)
        self._close()

    def _close(self) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        transport = cast(asyncio.WriteTransport, self.transport)
        with suppress(Exception):
            transport.write(b"".join(self._replies))
        self._replies.clear()
        if transport.get_write_buffer_size():
            self.loop.call_later(LINGER_SECONDS, transport.abort)
        transport.close()

    # ---- asyncio's and aiosmtpd's calls -----------------------------------------------------------------------------

    def eof_received(self) -> bool:
        """A client may close its side after QUIT has been sent: what it sent is still answered, except within TLS."""
        self._reader.feed_eof()
        return self.tls is None

    def _reset_timeout(self, duration: float | None = None) -> None:
        """The timer is moved, not made anew: it looks at the deadline when it goes off."""
        self._deadline = self.loop.time() + (duration or self.listener.limits.command_seconds)
        if self._timeout_handle is None or self._timeout_handle.when() > self._deadline:
            if self._timeout_handle is not None:
                self._timeout_handle.cancel()
            self._timeout_handle = self.loop.call_at(self._deadline, self._timeout_cb)

    def _timeout_cb(self) -> None:
        if self.loop.time() < self._deadline:
            self._timeout_handle = self.loop.call_at(self._deadline, self._timeout_cb)
            return
        self._timeout_handle = self.loop.call_later(LINGER_SECONDS, lambda: None)
        self._goodbye(replies.TOO_SLOW)
