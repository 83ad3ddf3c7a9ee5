"""An SMTP server on loopback that does at each phase what its script says, and keeps all that it heard.

A script maps a phase (`greeting ehlo helo starttls auth mail rcpt data bdat dot rset quit`) to a step, to a list of steps (one
an occurrence, the last for all that follow), or to a function of the conversation that gives a step or None. A phase
without a step is answered as a plain server would. `bdat` is a chunk before the last; the last is `dot`, as after DATA. A step of
`handshake` is said to the client's first octets of TLS, in place of TLS.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    text: str = ""
    """What to say; empty: nothing. CRLF is added at the end if it has none, but not before a cut."""
    cut: bool = False
    """Close the connection afterwards."""
    reset: bool = False
    """With `cut`: by RST, as a firewall or a crash does it."""
    silent: bool = False
    """Say nothing and hear nothing, until the client goes."""
    drip: float = 0
    """Seconds between two octets."""
    wait: asyncio.Event | None = None
    """Answer when it is set."""


CUT = Step(cut=True)
SILENT = Step(silent=True)
Script = Step | list[Step] | Callable[["Talk"], Step | None]


@dataclass
class Caught:
    mail_from: str
    rcpt_to: list[str]
    wire: bytes
    """From after the 354 to before the CRLF.CRLF's dot, dots stuffed as they came; or the chunks of BDAT."""
    tls: bool
    opening: tuple[str, ...] = ()
    """Its MAIL and RCPT, as they were said."""
    chunks: int = 0
    """0: it came by DATA."""
    answer: str = ""
    """What was then said; empty while it was not."""

    @property
    def content(self) -> bytes:
        if self.chunks:
            return self.wire
        lines = self.wire.split(b"\r\n")
        return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)


@dataclass
class Talk:
    """One connection."""

    peer: tuple[str, int]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    commands: list[str] = field(default_factory=list)
    mail_from: str | None = None
    rcpt_to: list[str] = field(default_factory=list)
    opening: tuple[str, ...] = ()
    recipient: str = ""
    """Of the last RCPT, accepted or not."""
    tls: bool = False
    received: int = 0
    """Bytes of the content so far."""
    chunks: list[bytes] = field(default_factory=list)
    """Of BDAT so far."""
    spoiled: bool = False
    """A chunk was refused: until RSET, every further one is (RFC 3030 §2)."""
    over: bool = False
    """The client has gone, or was cut."""


class SmtpServer:
    def __init__(
        self,
        script: dict[str, Script] | None = None,
        *,
        extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME", "SIZE 50000000"),
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.script: dict[str, Script] = script or {}
        self.host = host
        self.extensions = extensions
        self.tls = tls
        self.implicit = implicit
        """TLS from the first octet on, as on port 465."""
        self.talks: list[Talk] = []
        self.caught: list[Caught] = []
        self.open = 0
        self.most_open = 0
        self._used: dict[str, int] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._held: set[asyncio.Task[None]] = set()
        self.port = port

    async def __aenter__(self) -> SmtpServer:
        tls = self.tls if self.implicit else None
        self._server = await asyncio.start_server(self._serve, self.host, self.port, limit=1 << 16, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        while self._writers:
            for talking in self._held:  # a test that failed has released nobody
                talking.cancel()
            await asyncio.sleep(0)
        await self._server.wait_closed()

    @property
    def recipients(self) -> list[str]:
        return [caught.rcpt_to[0] if caught.rcpt_to else "" for caught in self.caught]

    def commands(self, verb: str) -> list[str]:
        return [command for talk in self.talks for command in talk.commands if command.upper().startswith(verb)]

    # ---- a connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Talk(writer.get_extra_info("peername"), reader, writer, tls=self.implicit)
        self.talks.append(talk)
        self._writers.add(writer)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self._say("greeting", talk, "220 fake.test ESMTP")
            while not talk.over:
                line = await reader.readuntil(b"\r\n")
                await self._command(line[:-2].decode("utf-8", "surrogateescape"), talk)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError, ssl.SSLError):
            pass
        finally:
            talk.over = True
            self.open -= 1
            writer.transport.abort()
            self._writers.discard(writer)

    async def _command(self, line: str, talk: Talk) -> None:
        talk.commands.append(line)
        verb = line.split(" ", 1)[0].upper()
        if verb == "EHLO":
            offers = [*self.extensions, *(["STARTTLS"] if self.tls and not talk.tls else [])]
            lines = ["fake.test", *offers]
            text = "\r\n".join(f"250{'-' if n < len(lines) - 1 else ' '}{word}" for n, word in enumerate(lines))
            await self._say("ehlo", talk, text)
        elif verb == "STARTTLS":
            if (await self._say("starttls", talk, "220 go")).startswith("220") and self.tls and not talk.over:
                if "handshake" in self.script:
                    await talk.reader.read(1 << 16)
                    await self._say("handshake", talk, "")
                else:
                    await talk.writer.start_tls(self.tls)
                    talk.tls = True
        elif verb == "MAIL":
            if talk.mail_from is not None:
                await self._say("nested", talk, "503 5.5.1 nested MAIL command")
            elif (await self._say("mail", talk, "250 2.1.0 ok")).startswith("250"):
                talk.mail_from = _path(line)
                talk.opening = (line,)
        elif verb == "RCPT":
            talk.recipient = _path(line)
            plain = "503 5.5.1 need MAIL" if talk.mail_from is None else "250 2.1.5 ok"
            if (await self._say("rcpt", talk, plain)).startswith("250"):
                talk.rcpt_to.append(_path(line))
                talk.opening += (line,)
        elif verb == "DATA":
            plain = "354 go ahead" if talk.rcpt_to else "503 5.5.1 no valid recipients"
            if (await self._say("data", talk, plain)).startswith("354"):
                await self._content(talk)
        elif verb == "BDAT" and "CHUNKING" in self.extensions:
            await self._chunk(line.split(), talk)
        elif verb in ("RSET", "QUIT"):
            talk.mail_from, talk.rcpt_to, talk.chunks, talk.spoiled = None, [], [], False
            await self._say(verb.lower(), talk, "250 ok" if verb == "RSET" else "221 bye")
            talk.over = talk.over or verb == "QUIT"
        elif verb == "AUTH" or verb.endswith("="):
            await self._say("auth", talk, "235 2.7.0 welcome")
        else:
            await self._say(verb.lower(), talk, "250 fake.test" if verb == "HELO" else "500 5.5.2 what?")

    async def _content(self, talk: Talk) -> None:
        lines = bytearray()
        while True:
            try:
                line = await talk.reader.readuntil(b"\r\n")
            except asyncio.LimitOverrunError as error:
                line = await talk.reader.readexactly(error.consumed)
            if line == b".\r\n" and (not lines or lines.endswith(b"\r\n")):
                break
            lines += line
            talk.received = len(lines)
            if "content" in self.script:
                await self._say("content", talk, "")
                if talk.over:
                    return
        caught = Caught(talk.mail_from or "", talk.rcpt_to, bytes(lines), talk.tls, talk.opening)
        talk.mail_from, talk.rcpt_to = None, []
        if caught.rcpt_to or caught.wire:
            # kept before the answer: a client that never reads it may have delivered all the same
            self.caught.append(caught)
        caught.answer = await self._say("dot", talk, "250 2.0.0 kept")

    async def _chunk(self, words: list[str], talk: Talk) -> None:
        size, last = int(words[1]), words[2:] == ["LAST"]
        octets = bytearray()
        talk.received = sum(map(len, talk.chunks))
        while len(octets) < size:
            piece = await talk.reader.read(min(size - len(octets), 1 << 16))
            if not piece:
                raise asyncio.IncompleteReadError(bytes(octets), size)
            octets += piece
            talk.received += len(piece)
            if "content" in self.script:
                await self._say("content", talk, "")
                if talk.over:
                    return
        if not talk.rcpt_to or talk.spoiled:
            await self._say("chunk without transaction", talk, "503 5.5.1 no valid recipients")
            return
        talk.chunks.append(bytes(octets))
        if not last:
            talk.spoiled = not (await self._say("bdat", talk, f"250 2.0.0 {size} octets")).startswith("250")
            return
        caught = Caught(
            talk.mail_from or "", talk.rcpt_to, b"".join(talk.chunks), talk.tls, talk.opening, len(talk.chunks)
        )
        talk.mail_from, talk.rcpt_to, talk.chunks = None, [], []
        self.caught.append(caught)
        caught.answer = await self._say("dot", talk, "250 2.0.0 kept")

    async def _say(self, phase: str, talk: Talk, plain: str) -> str:
        step = self._step(phase, talk) or Step(plain)
        if step.wait:
            await self._hold(step.wait)
        if step.silent:
            while await talk.reader.read(1 << 16):
                pass
            talk.over = True
            return ""
        octets = step.text.encode("utf-8", "surrogateescape")
        if octets and not octets.endswith(b"\n") and not step.cut:
            octets += b"\r\n"
        if step.drip:
            for octet in octets:
                talk.writer.write(bytes([octet]))
                await talk.writer.drain()
                await asyncio.sleep(step.drip)
        elif octets:
            talk.writer.write(octets)
            await talk.writer.drain()
        if step.cut:
            talk.over = True
            if step.reset:
                # a socket that lingers for no time at all answers with RST
                linger = struct.pack("ii", 1, 0)
                talk.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                talk.writer.transport.abort()
            else:
                talk.writer.close()
        return step.text

    async def _hold(self, release: asyncio.Event) -> None:
        talking = asyncio.current_task()
        assert talking is not None
        self._held.add(talking)
        try:
            await release.wait()
        except asyncio.CancelledError:
            if self._server.is_serving():
                raise
            raise ConnectionAbortedError from None  # else asyncio tells the loop of a conversation that ended so
        finally:
            self._held.discard(talking)

    def _step(self, phase: str, talk: Talk) -> Step | None:
        script = self.script.get(phase)
        if script is None or isinstance(script, Step):
            return script
        if callable(script):
            return script(talk)
        turn = self._used.get(phase, 0)
        self._used[phase] = turn + 1
        return script[min(turn, len(script) - 1)]


def _path(line: str) -> str:
    return line[line.index("<") + 1 : line.rindex(">")]
