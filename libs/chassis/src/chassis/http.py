"""uvicorn's HTTP protocol with two limits that it lacks: how long and how large a request's head may be; and with a short way.

httptools gathers a header until it is complete, whatever its size; anybody who can connect could fill the memory.

A request that offers another protocol (RFC 9110 §7.8) is one like others: httptools would leave its body to that protocol, and
then take it for the next request. Java's client offers HTTP/2 with all that it asks of a server without TLS.

The short way (`Whole`) is for routes that run thousands of times a second: where a request's body came together with its head it
is taken without waiting, and an answer that is there as a whole goes out in one write. By ASGI's messages both take longer than
the rest of such a request (bench/README.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES = 64 * 1024
"""Request line and headers together, give or take one read of the socket."""

WHOLE = "chassis.whole"
"""The name of the extension: `scope["extensions"][WHOLE]` is a `Whole`."""

_REASONS = {400: "Bad Request", 431: "Request Header Fields Too Large"}


class _HeadTooLargeError(Exception):
    pass


class _TunnelError(Exception):
    """CONNECT, which is asked of proxies."""


class Whole:
    """A request of which nothing was received and to which nothing was sent by ASGI's messages; for those this is the other way."""

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    def body(self) -> bytes | None:
        """The request's body, once; None: it has not come to its end, and is to be received."""
        cycle = self._cycle
        if cycle.more_body or cycle.waiting_for_100_continue or cycle.disconnected:
            return None
        octets = bytes(cycle.body)
        cycle.body = bytearray()
        cycle.message_event.clear()
        return octets

    def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """Sends head and body. `headers`: sound and in lower case, with Content-Length and without Connection.

        False: nothing was sent, and ASGI's messages must be used (the client reads slowly, HTTP/1.0, or its last request).
        """
        cycle = self._cycle
        if cycle.flow.write_paused or not cycle.keep_alive or cycle.response_started:
            return False
        if cycle.disconnected:
            return True
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        head = b"".join([b"%b: %b\r\n" % each for each in (*cycle.default_headers, *headers)])
        cycle.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], head, body))
        cycle.message_event.set()
        cycle.on_response()
        return True


class HttpProtocol(HttpToolsProtocol):
    head_seconds = 30.0
    """From the connection, or from a request's first byte, to the end of its head."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_head = True
        self._began = False
        self._head_bytes = 0
        self._fields_bytes = 0
        self._without_offer = b""
        self._late: asyncio.TimerHandle | None = self.loop.call_later(self.head_seconds, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._began = False
        self._unset_keepalive_if_required()
        self._parse(data)
        if not self._in_head or self.transport.is_closing():
            return
        if not self._began:  # the read in which a head begins may hold the end of the body before it
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, "The request's headers are too large.")
                return
        if self._late is None:
            self._late = self.loop.call_later(self.head_seconds, self._too_late)

    def _parse(self, data: bytes) -> None:
        octets = memoryview(data)
        try:
            while True:
                try:
                    self.parser.feed_data(octets)
                    return
                except httptools.HttpParserUpgrade as offer:
                    octets = octets[offer.args[0] :]
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
                    self.parser.feed_data(self._without_offer)
        except httptools.HttpParserError:
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._in_head = self._began = True
        self._head_bytes = self._fields_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            method = self.parser.get_method()
            if method == b"CONNECT":
                raise _TunnelError
            first = b"%b %b HTTP/%b\r\n" % (method, self.url, self.parser.get_http_version().encode())
            fields = [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
            self._without_offer = b"".join([first, *fields, b"\r\n"])
            return
        self._in_head = False
        self._in_time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.scope["extensions"] = {WHOLE: Whole(cycle)}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        if self._fields_bytes > HEAD_BYTES:
            self._refuse(431, "The request's headers are too large.")
        else:
            self._refuse(400, "This is no proper HTTP request.")

    def _count(self, octets: int) -> None:
        self._fields_bytes += octets
        if self._fields_bytes > HEAD_BYTES:
            raise _HeadTooLargeError  # the parser passes it on as its own error, and send_400_response answers

    def _refuse(self, status: int, message: str) -> None:
        body: dict[str, Any] = {"statusCode": status, "name": "validation_error", "message": message}
        content = orjson.dumps(body)
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\nconnection: close\r\nx-content-type-options: nosniff\r\n"
            "x-frame-options: DENY\r\nreferrer-policy: same-origin\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        self.transport.close()
