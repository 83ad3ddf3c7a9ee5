"""One connection as a stream of replies: limits, one deadline, flow control. It knows no verbs.

A reply is matched to a command by order alone (RFC 2920 §3.1), so a reply that nobody asked for breaks the connection,
except 421, which a server may say at any time (RFC 5321 §3.8).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import NamedTuple

from mailcore.smtp.reply import Reply

MAX_LINE = 4096
"""Bytes of a reply line; RFC 5321 §4.5.3.1.5 asks for 512."""
MAX_LINES = 100
MAX_TEXT = 500
"""Characters of a line that are kept."""
CLOSING = 421
_CODES = {b"%d" % code: code for code in range(200, 600)}


class Heard(NamedTuple):
    """A whole reply."""

    code: int
    texts: list[str]
    at: float
    """Seconds since 1970."""

    def reply(self) -> Reply:
        return Reply.of(self.code, self.texts)


class Broken(Exception):  # noqa: N818
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
        self._needed = 0
        self._waiter: asyncio.Future[None] | None = None
        self._deadlines: tuple[float, ...] = ()
        self._deadline = 0.0
        self._soft = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._paused = False

    # ---- writing

    def write(self, octets: bytes, replies: int) -> None:
        """Send `octets`, which the peer will answer with that many replies. Raises Broken."""
        if self.broken:
            raise self.broken
        assert self.transport is not None
        self._outstanding += replies
        self.transport.write(octets)

    async def drain(self, seconds: float) -> None:
        """Until the peer has taken enough for more to be written. `seconds` may pass without any progress. Raises Broken."""
        assert self.transport is not None
        left = self.transport.get_write_buffer_size()
        while self._paused and not self.broken:
            if await self._wait(1 << 30, (seconds,), soft=True):
                continue
            before, left = left, self.transport.get_write_buffer_size()
            if self._paused and left >= before:
                self.sever("timeout", f"the peer took no content for {seconds:g} s")
        if self.broken:
            raise self.broken

    # ---- reading

    async def wait(self, seconds: tuple[float, ...], *, soft: bool = False) -> bool:
        """Until as many replies are there as `seconds` has members, each of which may take so long after the one before.

        Ends early when the connection breaks. When time is up the connection is severed; with `soft`, False is returned.
        """
        return await self._wait(len(seconds), seconds, soft=soft)

    def next(self) -> Heard:
        """The oldest reply that has not been taken. Raises Broken when there is none and none will come."""
        if self._heard:
            return self._heard.popleft()
        raise self.broken or Broken("garbage-reply", "no reply where one was expected")

    @property
    def quiet(self) -> bool:
        """Nothing is outstanding and nothing was said unasked."""
        return not (self.broken or self._outstanding or self._heard or self._partial or self._texts)

    async def _wait(self, count: int, seconds: tuple[float, ...], *, soft: bool) -> bool:
        missing = count - len(self._heard)
        if missing <= 0 or self.broken:
            return True
        self._needed = count
        self._soft = soft
        self._deadlines = seconds[-missing:]
        self._set_deadline(self._deadlines[0])
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._deadline = 0.0
        return not soft or len(self._heard) >= count or self.broken is not None or (count == 1 << 30 and not self._paused)

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

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
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.broken is None:
            self.broken = Broken("connection-lost", f"the connection was lost: {exc}" if exc else "the peer closed the connection")
        if self._timer:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)
        self._wake()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._needed == 1 << 30:
            self._wake()

    def data_received(self, data: bytes) -> None:
        if self.broken:
            return
        if self._partial:
            data = self._partial + data
        lines = data.split(b"\n")  # a peer that ends its lines with LF only is understood too
        self._partial = lines.pop()
        now = time.time()
        for line in lines:
            if len(line) > MAX_LINE:
                return self.sever("garbage-reply", f"a reply line of more than {MAX_LINE} bytes")
            if not self._line(line, now):
                return None
        if len(self._partial) > MAX_LINE:
            self.sever("garbage-reply", f"a reply line of more than {MAX_LINE} bytes")
        return None

    def _line(self, line: bytes, now: float) -> bool:
        code = _CODES.get(line[:3])
        separator = line[3:4]
        if code is None or separator not in (b" ", b"-", b"\r", b""):
            self.sever("garbage-reply", f"not an SMTP reply: {printable(line)}")
            return False
        texts = self._texts
        if texts and code != self._code:
            self.sever("garbage-reply", f"a reply with two codes, {self._code} and {code}")
            return False
        text = line[4:].decode("utf-8", "replace").rstrip()
        texts.append(text if len(text) <= MAX_TEXT and text.isprintable() else printable(line[4:]))
        if separator == b"-":
            self._code = code
            if len(texts) >= MAX_LINES:
                self.sever("garbage-reply", f"a reply of more than {MAX_LINES} lines")
                return False
            return True
        self._texts = []
        return self._reply(Heard(code, texts, now))

    def _reply(self, heard: Heard) -> bool:
        if self._outstanding:
            self._outstanding -= 1
            self._heard.append(heard)
        elif heard.code != CLOSING:
            self.sever("garbage-reply", f"a reply that nobody asked for: {heard.code} {heard.texts[0]}")
            return False
        if heard.code == CLOSING:  # RFC 5321 §3.8: the session ends; commands behind it get no reply
            self.sever("closing", "the peer is closing the connection", heard.reply())
            return False
        if self._waiter:
            missing = self._needed - len(self._heard)
            if missing <= 0:
                self._wake()
            elif missing <= len(self._deadlines) and self._needed != 1 << 30:
                self._set_deadline(self._deadlines[-missing])
        return True


def printable(octets: bytes) -> str:
    """A peer's octets as text that any store and terminal takes."""
    text = octets[: 4 * MAX_TEXT].decode("utf-8", "replace").rstrip()[:MAX_TEXT]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
