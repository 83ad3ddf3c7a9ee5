"""The conversation, from greeting to QUIT: commands in, replies out, messages between (RFC 5321 §4).

    _read_command → a verb (verbs/) → _said
    _read_data, _read_chunk → the octets of a message (body.py) → take → _said

A verb that answers at once costs no task; what has to be waited for is waited for by this session alone (connection.py). A client
has `command_seconds` for a command, counted from our last reply, so that one which drips gains nothing; inside a message it may be
silent for `data_seconds` and must manage a minimum rate, so that a big mail over a slow line has its time.

A client that talks before our greeting is answered in order like any other: nothing of what it sent can be taken for something
else, as commands are only ever read one after the other. HTTP's verbs end the connection.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from inbound_smtp import replies
from inbound_smtp.body import END, PIECE, Body, read_chunk, read_data
from inbound_smtp.checks import content
from inbound_smtp.connection import Connection
from inbound_smtp.listener import Listener
from inbound_smtp.transaction import Transaction
from inbound_smtp.verbs import HTTP, JUNK, Answer, Later
from inbound_smtp.wire import MAX_COMMAND, MAX_WASTE, BadLine, take_line
from mailcore.blob.base import Spooled
from mailcore.kit import failpoint
from mailcore.smtp.reply import Reply

L = TypeVar("L", bound=Listener)


class Session(Connection[L]):
    """What a listener is for stands in its own kind of session (mx.py, submission/session.py)."""

    def __init__(self, listener: L, *, tls: bool = False) -> None:
        super().__init__(listener, tls=tls)
        self.helo: str | None = None
        self.extended = False
        self.transaction: Transaction[Any] | None = None
        self.leaving = False
        self.upgrade = False
        self.junk = 0
        self.connected_at = datetime.now(UTC)
        self._errors = 0
        self._put_off = 0
        """Commands that were refused for now, since the last mail that was taken."""
        self._wasted = 0
        self._body: Body | None = None
        """Of a large message, or one that comes in chunks."""
        self._began: float | None = None
        """When the message did that is coming in; None: none is, and none waits for its reply."""
        self._came = 0
        self._looked = 0
        self._counted = 0
        """Octets that it holds of the memory for all, beside the body's own."""
        self._chunk: tuple[int, bool, Reply | None] = (0, False, None)

    # ---- what a kind of session says --------------------------------------------------------------------------------

    def open(self) -> None:
        pass

    def extensions(self) -> list[str]:
        """What EHLO offers beside what every session does."""
        return []

    @abstractmethod
    def take(self, transaction: Transaction[Any], message: bytes | Spooled) -> Answer:
        """What the message comes to: 250 only when it is on disk. Its octets have been checked (checks.content)."""

    # ---- what the verbs use -----------------------------------------------------------------------------------------

    def hello(self, name: str, *, extended: bool) -> None:
        """RFC 5321 §4.1.4: EHLO begins anew."""
        self.helo, self.extended = name, extended
        self.reset()

    def reset(self) -> None:
        """No transaction is under way any more."""
        self.transaction = None
        self.lost()

    def forget(self) -> None:
        self.helo = None
        self.reset()

    @property
    def chunking(self) -> bool:
        """The message is coming in by BDAT."""
        return self._body is not None

    def begin_data(self) -> None:
        # the CRLF that ended the command stands before the message: a lone dot may be its first line
        self.octets[:0] = END[:2]
        self._looked = 0
        self._begin(self._read_data)

    def begin_chunk(self, octets: int, *, last: bool, refused: Reply | None) -> None:
        self._chunk = octets, last, refused
        if self._body is None and refused is None:
            self._body = self._new_body()
        self._begin(self._read_chunk)

    def hurry(self) -> None:
        """The process is ending: now, when nothing is under way."""
        if self.transaction is None and self._held is None and self._began is None:
            self.goodbye(replies.SHUTTING_DOWN)

    # ---- commands ---------------------------------------------------------------------------------------------------

    def greet(self) -> None:
        self._replies.append(self.listener.greeting)
        self._advance()

    def _at_once(self, data: bytes) -> bool:
        """One command, and nothing behind it: most clients wait for each reply."""
        if self._began is not None or not self._entered or self._congested or self._wasted or self.listener.draining:
            return False
        end = len(data) - 1
        if end > MAX_COMMAND or data.find(b"\n") != end or data.find(b"\r") != end - 1 or b"\0" in data:
            return False
        self._obey(data[:-2])
        if self._held is None and not self._closed:
            self._tell()
        return True

    def _read_command(self) -> bool:
        if self.listener.draining and self.transaction is None and self._asked is None:
            self.goodbye(replies.SHUTTING_DOWN)
            return False
        line = take_line(self.octets)
        if line is None:
            if len(self.octets) > MAX_COMMAND:
                self._waste()
            return False
        if self._wasted:
            self._wasted, line = 0, BadLine.TOO_LONG
        if self._asked is not None:
            asked, self._asked = self._asked, None
            asked.set_result(line)
            return False
        self._obey(line)
        return True

    def _waste(self) -> None:
        self._wasted += len(self.octets)
        self.octets.clear()
        if self._wasted > MAX_WASTE:
            self.goodbye(replies.TOO_BIG)

    def _obey(self, line: bytes | BadLine) -> None:
        if not isinstance(line, bytes):
            self._said(replies.TOO_LONG if line is BadLine.TOO_LONG else replies.BARE_LF)
            return
        try:
            verb, _, argument = line.decode().partition(" ")
        except UnicodeDecodeError:
            self._said(replies.NOT_UTF8)
            return
        verb = verb.upper()
        run = self.listener.verbs.get(verb)
        if run is None and verb in HTTP:
            self._said(replies.NOT_HTTP)
            return
        if run is None or verb in JUNK:
            self.junk += 1
            if self.junk > self.listener.limits.junk_commands:
                self._said(replies.TOO_MUCH_JUNK)
                return
        if run is None:
            self._said(replies.NOT_A_COMMAND)
            return
        try:
            answer = run(self, argument.strip(" "))
        except Exception as error:
            answer = replies.from_error(error)
        if answer.__class__ is Reply:
            self._said(answer)
        else:
            self._settle(answer)

    def _settle(self, answer: Answer | None) -> None:
        if isinstance(answer, Reply):
            self._said(answer)
        elif isinstance(answer, Later):
            self.wait_for(answer.future, answer.reply)
        elif answer is not None:
            self.wait_for(asyncio.ensure_future(answer), _itself)

    def _said(self, reply: Reply) -> None:
        self._replies.append(replies.octets(reply))
        if self._began is not None and reply.code != 354:
            self._end(reply)
        if reply.code == 421:
            self.close()
        elif reply.permanent:
            self._errors += 1
            if self._errors >= self.listener.limits.errors:
                self.goodbye(replies.TOO_MANY_ERRORS)
        elif reply.code >= 400:
            self._put_off += 1
            if self._put_off > self.listener.limits.recipients:
                self.goodbye(replies.TOO_MANY_ERRORS)
        elif self.upgrade:
            self.upgrade = False
            self.start_tls()
        elif self.leaving:
            self.close()

    # ---- messages ---------------------------------------------------------------------------------------------------

    def _begin(self, read: Callable[[], bool]) -> None:
        self._read = read
        self._came = 0
        self._began = self._since = self._loop.time()
        self._patience = self.listener.limits.data_seconds

    def heard(self, octets: int) -> None:
        if self._began is None:
            return
        failpoint.hit("f14")
        self._came += octets
        if self._held is not None and self._more is None:
            return  # it is not his turn
        self._since = self._loop.time()
        limits = self.listener.limits
        took = self._since - self._began - limits.data_grace_seconds
        if took > 0 and self._came < took * limits.data_bytes_per_second:
            self.goodbye(replies.TOO_SLOW)

    def _read_data(self) -> bool:
        octets = self.octets
        end = octets.find(END, self._looked)
        if end < 0 or end > PIECE:
            if end < 0 and len(octets) < PIECE and self._count(len(octets)):
                self._looked = max(0, len(octets) - len(END) + 1)
                return False
            self.wait_for(self._loop.create_task(self._read_large()), self._finish)
            return False
        raw = bytes(octets[2 : end + 2])
        del octets[: end + len(END)]
        if b"\r\n." in raw or raw.startswith(b"."):
            # RFC 5321 §4.5.2: the first dot of a line goes
            raw = (b"\r\n" + raw).replace(b"\r\n.", b"\r\n")[2:]
        limits = self.listener.limits
        if len(raw) > limits.message_bytes:
            self._settle(self._finish(replies.TOO_BIG))
        elif not self._count(len(raw)):
            self._settle(self._finish(replies.NO_MEMORY))
        else:
            self._settle(self._finish(content.check(raw, max_line=limits.line_bytes) or raw))
        return True

    async def _read_large(self) -> bytes | Spooled | Reply:
        body = self._body = self._new_body()
        if not self._count(2 * PIECE):
            body.refuse(replies.NO_MEMORY)
        await read_data(self, body)
        self._count(0)
        return await body.done()

    def _read_chunk(self) -> bool:
        octets, last, refused = self._chunk
        if refused is None and len(self.octets) < octets <= PIECE and self._count(len(self.octets)):
            return False
        self.wait_for(self._loop.create_task(self._read_octets(octets, last, refused)), self._finish)
        return False

    async def _read_octets(self, octets: int, last: bool, refused: Reply | None) -> bytes | Spooled | Reply:
        """A chunk; of the last one, the message."""
        body = self._body
        if refused is not None or body is None:
            body = self._new_body()
            body.refuse(refused or replies.BAD_SEQUENCE)
        elif not self._count(min(octets, 2 * PIECE)):
            body.refuse(replies.NO_MEMORY)
        await read_chunk(self, body, octets)
        self._count(0)
        if last or body.refused is not None:
            return await body.done()
        return Reply(250, f"{octets} octets received", "2.0.0")

    def _finish(self, found: bytes | Spooled | Reply) -> Reply | None:
        """A message is in, or a chunk of one. None: what comes of it is said when it is known."""
        if isinstance(found, Reply):
            if found.code != 250:
                self.transaction = None
            return found
        transaction, self.transaction = self.transaction, None
        self._patience = None
        try:
            answer = self.take(cast(Transaction[Any], transaction), found)
        except Exception as error:
            return replies.from_error(error)
        if isinstance(answer, Reply):
            return answer
        self._settle(answer)
        return None

    def _end(self, reply: Reply) -> None:
        """A message, or a chunk of one, has its reply."""
        self._read, self._began, self._patience = self._read_command, None, None
        if self.transaction is not None:
            return
        self.lost()
        if reply.code == 250:
            self.junk = self._put_off = 0
            if failpoint.armed("f17"):
                self._loop.call_later(0.05, failpoint.hit, "f17")  # when the reply is on the wire

    def lost(self) -> None:
        """What is held of a message that is done with, or will never be, is given back."""
        self._count(0)
        if self._body is not None:
            self._body.discard()
            self._body = None

    def _count(self, octets: int) -> bool:
        """It holds so many of the memory for all from here on. False: there are not so many; then it holds what it held."""
        if octets == self._counted:
            return True
        memory = self.listener.room.memory
        if octets > self._counted and not memory.take(octets - self._counted):
            return False
        if octets < self._counted:
            memory.give_back(self._counted - octets)
        self._counted = octets
        return True

    def _new_body(self) -> Body:
        limits = self.listener.limits
        return Body(self.listener.room, limit=limits.message_bytes, max_line=limits.line_bytes)


def _itself(reply: Reply) -> Reply:
    return reply
