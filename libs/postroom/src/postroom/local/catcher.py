"""The catcher: a real SMTP server on loopback where all mail of a catch-mode stack ends (RFC 5321).

    python -m postroom.local.catcher --listen 127.0.0.1:8085 --dir DIR/caught [--certificate PEM --key PEM]

It says 250 to the final dot only when the mail is on disk; connections that finish together share one fsync.
The local part of a recipient scripts the answer: `450-x@` and `550-x@` (any 4yz or 5yz) are refused at RCPT with that
code, `421-x@` also ends the connection, `slow-x@` waits five seconds before the reply to the dot.

1. `Session` reads commands, pipelined or not (RFC 2920). 2. DATA collects up to CR LF . CR LF and nothing else.
3. `Keeper` writes what has come in as one batch, then every waiting session answers.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

import uvloop

from mailcore.blob.caught import CaughtWriter, NewMail
from mailcore.kit.log import configure, logger

log = logger(__name__)

NAME = "mail.postroom.test"
MAX_SIZE = 64 * 1024 * 1024
MAX_LINE = 4096
MAX_RECIPIENTS = 1000
MAX_ERRORS = 50
MAX_CONNECTIONS = 2000
IDLE_SECONDS = 300.0  # RFC 5321 §4.5.3.2.7
SLOW_SECONDS = 5.0
_SCRIPTED = re.compile(r"([45][0-9][0-9])-")
_ENHANCED = {
    450: "4.2.0",
    451: "4.3.0",
    452: "4.2.2",
    421: "4.3.2",
    550: "5.1.1",
    551: "5.1.6",
    552: "5.2.2",
    553: "5.1.3",
    554: "5.7.1",
}
_WRONG = (b"500", b"501", b"503", b"555")
"""Replies to a client that does not know the protocol; scripted refusals are not counted."""
_PATH = re.compile(rb"(?i)(FROM|TO):[ ]?<([^<>\x00-\x1f]*)>(?: (.*))?")


class Keeper:
    """Puts mails on disk, all that wait in one batch; one thread does the writing."""

    def __init__(self, folder: str) -> None:
        self._writer = CaughtWriter(folder)
        self._waiting: list[tuple[NewMail, Callable[[bool], None]]] = []
        self._bell = asyncio.Event()

    def keep(self, mail: NewMail, done: Callable[[bool], None]) -> None:
        """Calls `done(True)` when it is on disk, `done(False)` when that failed."""
        self._waiting.append((mail, done))
        self._bell.set()

    async def run(self) -> None:
        while True:
            await self._bell.wait()
            self._bell.clear()
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._writer.write_batch, [mail for mail, _ in batch])
                kept = True
            except Exception:
                log.exception("writing caught mail failed")
                kept = False
            for _, done in batch:
                done(kept)


class Session(asyncio.Protocol):
    """One connection. Bytes are handled in order; while a mail is being written, later commands wait in the buffer."""

    def __init__(self, keeper: Keeper, context: ssl.SSLContext | None, open_sessions: set[Session]) -> None:
        self._keeper = keeper
        self._context = context
        self._open = open_sessions
        self._buffer = bytearray()
        self._replies: list[bytes] = []
        self._searched = 0
        self._in_data = False
        self._busy = False
        self._tls = False
        self._hello: bytes | None = None
        self._mail_from: str | None = None
        self._rcpt_to: list[str] = []
        self._errors = 0
        self._idle: asyncio.TimerHandle | None = None
        self.draining = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # ---- the connection ----------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = self._transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if peer else "unknown"
        self._open.add(self)
        if len(self._open) > MAX_CONNECTIONS:
            self._close(b"421 4.3.2 Too many connections\r\n")
            return
        self._transport.write(f"220 {NAME} ESMTP Postroom catcher\r\n".encode())
        self._touch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        if not self.closed.done():
            self.closed.set_result(None)
        if self._idle:
            self._idle.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._touch()
        self._advance()

    def drain(self) -> None:
        """The server is going: what has been taken is answered, then the connection closes."""
        self.draining = True
        if not self._busy:
            self._close(f"421 4.3.2 {NAME} is going down\r\n".encode())

    def _touch(self) -> None:
        loop = asyncio.get_running_loop()
        if self._idle is None:
            self._last = loop.time()
            self._idle = loop.call_later(IDLE_SECONDS, self._look)
        self._last = loop.time()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._last + IDLE_SECONDS - loop.time()
        if left <= 0 and not self._busy:
            self._close(b"421 4.4.2 Idle for too long\r\n")
        else:
            self._idle = loop.call_later(max(left, 1.0), self._look)

    def _flush(self, *more: bytes) -> None:
        """Replies leave in the order of their commands, those to pipelined commands in one write."""
        replies = b"".join([*self._replies, *more])
        self._replies.clear()
        if replies and not self._transport.is_closing():
            self._transport.write(replies)

    def _close(self, last: bytes) -> None:
        self._flush(last)
        self._transport.close()
        self._buffer.clear()

    # ---- commands ----------------------------------------------------------------------------------------------------
    def _advance(self) -> None:
        """Does what the buffer holds."""
        while not self._busy and not self._transport.is_closing():
            if self._in_data:
                if not self._take_data():
                    break
                continue
            end = self._buffer.find(b"\r\n")
            if max(end, len(self._buffer) if end < 0 else 0) > MAX_LINE:
                self._close(b"500 5.5.2 Line too long\r\n")
                return
            if end < 0:
                break
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            reply = self._command(line)
            if reply:
                self._replies.append(reply)
                self._errors += reply[:3] in _WRONG
            if self._errors > MAX_ERRORS:
                self._close(b"421 4.7.0 Too many errors\r\n")
                return
        self._flush()
        if self._busy and len(self._buffer) > 2 * MAX_LINE:
            self._transport.pause_reading()

    def _command(self, line: bytes) -> bytes:
        verb, _, rest = line.partition(b" ")
        step = _VERBS.get(verb.upper())
        return b"500 5.5.2 Command not known\r\n" if step is None else step(self, rest)

    def _ehlo(self, rest: bytes) -> bytes:
        if not rest.strip():
            return b"501 5.5.4 EHLO needs a name\r\n"
        self._reset()
        self._hello = rest.strip()
        lines = [NAME, "PIPELINING", "8BITMIME", "SMTPUTF8", f"SIZE {MAX_SIZE}", "ENHANCEDSTATUSCODES"]
        if self._context:
            lines.append("REQUIRETLS" if self._tls else "STARTTLS")  # RFC 8689 §2: within TLS only
        return "".join(f"250{'-' if n < len(lines) - 1 else ' '}{text}\r\n" for n, text in enumerate(lines)).encode()

    def _helo(self, rest: bytes) -> bytes:
        if not rest.strip():
            return b"501 5.5.4 HELO needs a name\r\n"
        self._reset()
        self._hello = rest.strip()
        return f"250 {NAME}\r\n".encode()

    def _mail(self, rest: bytes) -> bytes:
        if self._hello is None:
            return b"503 5.5.1 EHLO first\r\n"
        if self._mail_from is not None:
            return b"503 5.5.1 A mail is under way\r\n"
        path = _PATH.fullmatch(rest)
        if path is None or path[1].upper() != b"FROM":
            return b"501 5.5.4 Syntax: MAIL FROM:<address>\r\n"
        for parameter in (path[3] or b"").split():
            key, _, value = parameter.upper().partition(b"=")
            if key == b"SIZE" and value.isdigit():
                if int(value) > MAX_SIZE:  # RFC 1870 §6.1
                    return b"552 5.3.4 Message too big\r\n"
            elif key not in (b"BODY", b"SMTPUTF8", b"SIZE") and not (key == b"REQUIRETLS" and self._tls and not value):
                return b"555 5.5.4 Parameter not known\r\n"
        address = _text(path[2])
        if address is None:
            return b"553 5.1.7 Address is not UTF-8\r\n"
        self._mail_from = address
        return b"250 2.1.0 OK\r\n"

    def _rcpt(self, rest: bytes) -> bytes:
        if self._mail_from is None:
            return b"503 5.5.1 MAIL first\r\n"
        path = _PATH.fullmatch(rest)
        if path is None or path[1].upper() != b"TO" or not path[2]:
            return b"501 5.5.4 Syntax: RCPT TO:<address>\r\n"
        if path[3]:
            return b"555 5.5.4 Parameter not known\r\n"
        if len(self._rcpt_to) >= MAX_RECIPIENTS:
            return b"452 4.5.3 Too many recipients\r\n"
        address = _text(path[2])
        if address is None:
            return b"553 5.1.3 Address is not UTF-8\r\n"
        scripted = _SCRIPTED.match(address)
        if scripted:
            code = int(scripted[1])
            reply = f"{code} {_ENHANCED.get(code, f'{scripted[1][0]}.0.0')} Scripted by the recipient's address\r\n".encode()
            if code == 421:
                self._close(reply)  # RFC 5321 §3.8: it goes with the end of the connection
                return b""
            return reply
        self._rcpt_to.append(address)
        return b"250 2.1.5 OK\r\n"

    def _data(self, rest: bytes) -> bytes:
        if rest.strip():
            return b"501 5.5.4 DATA takes no argument\r\n"
        if not self._rcpt_to:
            return b"503 5.5.1 No valid recipient\r\n" if self._mail_from is not None else b"503 5.5.1 MAIL first\r\n"
        self._in_data = True
        self._searched = 0
        return b"354 End with <CR><LF>.<CR><LF>\r\n"

    def _rset(self, rest: bytes) -> bytes:
        self._reset()
        return b"250 2.0.0 OK\r\n"

    def _noop(self, rest: bytes) -> bytes:
        return b"250 2.0.0 OK\r\n"

    def _vrfy(self, rest: bytes) -> bytes:
        return b"252 2.1.5 Send some mail and see\r\n"  # RFC 5321 §3.5.3

    def _quit(self, rest: bytes) -> bytes:
        self._close(b"221 2.0.0 Bye\r\n")
        return b""

    def _starttls(self, rest: bytes) -> bytes:
        if self._context is None or self._tls:
            return b"503 5.5.1 TLS is not to be had\r\n"
        # RFC 3207 §4.2: nothing that came in the clear counts afterwards
        self._buffer.clear()
        self._reset()
        self._hello = None
        self._busy = True
        self._transport.pause_reading()  # what comes next belongs to TLS
        self._flush(b"220 2.0.0 Go ahead\r\n")
        self._upgrade = asyncio.get_running_loop().create_task(self._start_tls(self._context))
        return b""

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._transport, self, context, server_side=True, ssl_handshake_timeout=30
            )
        except (OSError, TimeoutError):
            self._transport.abort()
            return
        assert transport is not None
        self._transport = transport
        self._tls = True
        self._busy = False
        self._advance()

    def _reset(self) -> None:
        self._mail_from = None
        self._rcpt_to = []

    # ---- the mail ----------------------------------------------------------------------------------------------------
    def _take_data(self) -> bool:
        """Whether the whole mail is here. Only CR LF . CR LF ends it: bare CR and LF are content (RFC 5321 §4.1.1.4)."""
        buffer = self._buffer
        if buffer.startswith(b".\r\n"):
            raw, end = b"", 3
        else:
            at = buffer.find(b"\r\n.\r\n", max(0, self._searched - 4))
            if at < 0:
                self._searched = len(buffer)
                if len(buffer) > MAX_SIZE + 1024:
                    self._close(b"552 5.3.4 Message too big\r\n")
                return False
            raw, end = bytes(buffer[: at + 2]), at + 5
        del buffer[:end]
        # RFC 5321 §4.5.2: the first dot of a line is not content
        raw = (raw[1:] if raw.startswith(b".") else raw).replace(b"\r\n.", b"\r\n")
        self._in_data = False
        assert self._mail_from is not None
        mail = NewMail(self._mail_from, tuple(self._rcpt_to), raw, self._peer, datetime.now(UTC))
        self._reset()
        if len(raw) > MAX_SIZE:
            self._replies.append(b"552 5.3.4 Message too big\r\n")
            return True
        self._busy = True
        if any(address.lower().startswith("slow-") for address in mail.rcpt_to):
            asyncio.get_running_loop().call_later(SLOW_SECONDS, self._keeper.keep, mail, self._kept)
        else:
            self._keeper.keep(mail, self._kept)
        return True

    def _kept(self, kept: bool) -> None:
        self._busy = False
        if self._transport.is_closing():
            return
        reply = b"250 2.0.0 OK, it is on disk\r\n" if kept else b"451 4.3.0 It could not be written, try again\r\n"
        self._flush(reply)
        self._transport.resume_reading()
        if self.draining:
            self.drain()
        else:
            self._advance()


_VERBS: dict[bytes, Callable[[Session, bytes], bytes]] = {
    b"EHLO": Session._ehlo,
    b"HELO": Session._helo,
    b"MAIL": Session._mail,
    b"RCPT": Session._rcpt,
    b"DATA": Session._data,
    b"RSET": Session._rset,
    b"NOOP": Session._noop,
    b"VRFY": Session._vrfy,
    b"QUIT": Session._quit,
    b"STARTTLS": Session._starttls,
}


def _text(address: bytes) -> str | None:
    try:
        return address.decode("utf-8")
    except UnicodeDecodeError:
        return None


async def serve(host: str, port: int, folder: str, context: ssl.SSLContext | None, stop: asyncio.Event) -> None:
    """Until `stop` is set; then mails that were taken are still answered."""
    keeper = Keeper(folder)
    keeping = asyncio.create_task(keeper.run())
    sessions: set[Session] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Session(keeper, context, sessions), host, port, backlog=1024)
    log.info("catcher listens", host=host, port=port)
    await stop.wait()
    server.close()
    for session in list(sessions):
        session.drain()
    await asyncio.wait([session.closed for session in sessions], timeout=SLOW_SECONDS + 5) if sessions else None
    keeping.cancel()


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m postroom.local.catcher", description="Catches mail on loopback.")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--dir", required=True)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    given = parser.parse_args()
    host, _, port = given.listen.rpartition(":")
    configure("catcher")
    context = tls_context(given.certificate, given.key) if given.certificate else None

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(host, int(port), given.dir, context, stop)

    uvloop.run(run())


if __name__ == "__main__":
    main()
