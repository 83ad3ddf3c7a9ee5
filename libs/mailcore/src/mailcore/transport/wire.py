"""One connection as a stream of replies: limits, one deadline, flow control. It knows no verbs.

A reply is matched to a command by order alone (RFC 2920 §3.1), so a reply that nobody asked for breaks the connection,
except 421, which a server may say at any time (RFC 5321 §3.8).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from typing import Any, NamedTuple, cast

from mailcore.smtp.outcome import Line
from mailcore.smtp.reply import Reply

MAX_LINE = 4096
"""Bytes of a reply line; RFC 5321 §4.5.3.1.5 asks for 512."""
MAX_LINES = 100
MAX_TEXT = 500
"""Characters of a line that are kept."""
MAX_CERTIFICATES = 12
CLOSING = 421
_SEPARATORS = (b" ", b"-", b"\r", b"")
_CODES = {b"%d" % code: code for code in range(200, 600)}


class Heard(NamedTuple):
    """A whole reply."""

    code: int
    texts: list[str]
    at: float
    """Seconds since 1970."""

    def reply(self) -> Reply:
        return Reply.of(self.code, self.texts)

    def lines(self) -> list[Line]:
        """As it stood on the wire (RFC 5321 §4.2.1)."""
        last = len(self.texts) - 1
        return [Line(self.at, None, f"{self.code}{' ' if n == last else '-'}{t}") for n, t in enumerate(self.texts)]


class Broken(Exception):
    """The connection is of no more use. `rule` names why: connection-lost, timeout, garbage-reply, closing."""

    def __init__(self, rule: str, text: str, reply: Reply | None = None) -> None:
        super().__init__(text)
        self.rule = rule
        self.text = text
        self.reply = reply
        """The peer's own words, when it said any (421)."""


class Wire(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.transport: asyncio.Transport | None = None
        self.broken: Broken | None = None
        self.closed = loop.create_future()
        """Done when the connection is gone."""
        self._partial = b""
        self._code = 0
        self._texts: list[str] = []
        self._heard: deque[Heard] = deque()
        self._outstanding = 0
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._seconds: tuple[float, ...] = ()
        self._deadline = 0.0
        self._soft = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._paused = False

    # ---- writing

    def expect(self, replies: int) -> None:
        """So many replies will come without a command: the greeting."""
        self._outstanding += replies

    def write(self, octets: bytes, replies: int) -> None:
        """Send `octets`, which the peer will answer with that many replies. Raises Broken."""
        if self.broken:
            raise self.broken
        assert self.transport is not None
        self._outstanding += replies
        self.transport.write(octets)

    async def drain(self, seconds: float) -> bool:
        """Until the peer has taken enough for more to be written; `seconds` may pass without any progress.

        False when the peer has replied before it had everything. Raises Broken.
        """
        assert self.transport is not None
        while self._paused and not self.broken and not self._heard:
            left = self.transport.get_write_buffer_size()
            self._drained = self._loop.create_future()
            try:
                async with asyncio.timeout(seconds):
                    await self._drained
            except TimeoutError:
                if self._paused and self.transport.get_write_buffer_size() >= left:
                    self.sever("timeout", "the peer stopped taking content")
            finally:
                self._drained = None
        if self.broken and not self._heard:
            raise self.broken
        return not self._heard

    # ---- reading

    async def wait(self, seconds: tuple[float, ...], *, soft: bool = False) -> bool:
        """Until as many replies are there as `seconds` has members, each of which may take so long after the one before.

        Ends early when the connection breaks. When time is up the connection is severed; with `soft`, False is returned.
        """
        missing = len(seconds) - len(self._heard)
        if missing <= 0 or self.broken:
            return True
        self._seconds = seconds
        self._soft = soft
        self._waiter = self._loop.create_future()
        self._set_deadline(seconds[-missing])
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._deadline = 0.0
        return not soft or len(self._heard) >= len(seconds) or self.broken is not None

    def next(self) -> Heard:
        """The oldest reply that has not been taken. Raises Broken when there is none and none will come."""
        if self._heard:
            return self._heard.popleft()
        raise self.broken or Broken("garbage-reply", "no reply where one was expected")

    @property
    def quiet(self) -> bool:
        """Nothing is outstanding and nothing was said unasked."""
        return not (self.broken or self._outstanding or self._heard or self._partial or self._texts)

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
        if self._drained and not self._drained.done():
            self._drained.set_result(None)

    # ---- the deadline: one timer, moved as rarely as possible

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._timer_at > self._deadline:
            if self._timer:
                self._timer.cancel()
            self._timer_at = self._deadline
            self._timer = self._loop.call_at(self._deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        left = self._deadline - self._loop.time()
        if left > 0:
            self._set_deadline(left)
        elif self._soft:
            self._wake()
        else:
            self.sever("timeout", "the peer did not answer in time")

    # ---- TLS

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Go on under TLS. Raises OSError, ssl.SSLError, Broken."""
        if self.broken:
            raise self.broken
        assert self.transport is not None
        transport = await self._loop.start_tls(self.transport, self, context, server_hostname=host)
        if transport is None or self.broken:
            raise self.broken or Broken("connection-lost", "the connection was lost in the handshake")
        self.transport = transport

    @property
    def tls(self) -> str | None:
        """`TLSv1.3 TLS_AES_256_GCM_SHA384`, or None in clear text."""
        layer = self.transport.get_extra_info("ssl_object") if self.transport else None
        return f"{layer.version()} {layer.cipher()[0]}" if layer else None

    def certificates(self) -> list[bytes]:
        """That the peer has shown, DER, its own first; empty in clear text."""
        layer: Any = self.transport.get_extra_info("ssl_object") if self.transport else None
        if layer is None:
            return []
        if hasattr(layer, "get_unverified_chain"):  # Python 3.13
            return list(layer.get_unverified_chain() or ())[:MAX_CERTIFICATES]
        # before that the standard library has the chain, and no public name for it
        chain = layer._sslobj.get_unverified_chain() or ()
        return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain[:MAX_CERTIFICATES]]

    # ---- the end

    def sever(self, rule: str, text: str, reply: Reply | None = None) -> None:
        """Break the connection at once; what was heard before can still be taken."""
        if self.broken is None:
            self.broken = Broken(rule, text, reply)
        if self.transport:
            self.transport.abort()
        self._wake()

    # ---- asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        if self.broken is None:
            self.broken = Broken(
                "connection-lost", f"the connection was lost: {exc}" if exc else "the peer closed the connection"
            )
        if self._timer:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)
        self._wake()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._drained and not self._drained.done():
            self._drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self.broken:
            return
        if self._partial:
            data = self._partial + data
        lines = data.split(b"\n")  # a peer that ends its lines with LF only is understood too
        self._partial = lines.pop()
        now = time.time()
        for line in lines:
            if not self._line(line, now):
                return
        if len(self._partial) > MAX_LINE:
            self.sever("garbage-reply", f"a reply line of more than {MAX_LINE} bytes")

    def _line(self, line: bytes, now: float) -> bool:
        """Whether the stream goes on."""
        code = _CODES.get(line[:3])
        separator = line[3:4]
        if code is None or separator not in _SEPARATORS or len(line) > MAX_LINE:
            return self._garbage(f"not an SMTP reply: {printable(line)}")
        texts = self._texts
        if texts and code != self._code:
            return self._garbage(f"a reply with two codes, {self._code} and {code}")
        text = line[4:].decode("utf-8", "replace").rstrip()
        texts.append(text if len(text) <= MAX_TEXT and text.isprintable() else printable(line[4:]))
        if separator == b"-":
            self._code = code
            return len(texts) < MAX_LINES or self._garbage(f"a reply of more than {MAX_LINES} lines")
        self._texts = []
        return self._reply(Heard(code, texts, now))

    def _reply(self, heard: Heard) -> bool:
        if self._outstanding:
            self._outstanding -= 1
            self._heard.append(heard)
        elif heard.code != CLOSING:
            return self._garbage(f"a reply that nobody asked for: {heard.code} {heard.texts[0]}")
        if heard.code == CLOSING:  # RFC 5321 §3.8: the session ends; commands behind it get no reply
            self.sever("closing", "the peer closes the connection", heard.reply())
            return False
        if self._waiter:
            missing = len(self._seconds) - len(self._heard)
            if missing <= 0:
                self._wake()
            else:
                self._set_deadline(self._seconds[-missing])
        elif self._drained:
            self._wake()
        return True

    def _garbage(self, text: str) -> bool:
        self.sever("garbage-reply", text)
        return False


def printable(octets: bytes) -> str:
    """A peer's octets as text that any store and terminal takes."""
    text = octets[: 4 * MAX_TEXT].decode("utf-8", "replace").rstrip()[:MAX_TEXT]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
