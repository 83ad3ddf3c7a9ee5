"""Before every route, as pure ASGI: one form of path, the limits of bodies and of strangers, headers of every answer, the log of
calls, the last net under errors.

The routes that run for every mail are called from here: FastAPI's routing, dependencies and tracing take longer than the rest
of a submit together (bench/README.md). They are registered as routes too, for /openapi.json.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from starlette.datastructures import Headers as RequestHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.auth import WHO
from api.bodies import Bodies, Body
from api.errors import ApiError
from api.limits import RATE, Headers, Limits, network
from api.logs.record import Call, Captured, record, sent
from api.logs.writer import LogWriter
from chassis.http import WHOLE, Whole
from mailcore.kit.ids import uuid7_text
from mailcore.kit.log import REQUEST_ID, logger
from mailcore.kit.metrics import AUTH_FAILURES
from mailcore.store.logs import NewLog

log = logger(__name__)

Hot: TypeAlias = Callable[[Request], Awaitable[Response]]

_NONE: Mapping[str, Whole] = {}
_SLASHES = re.compile("/{2,}")
_SANE_ID = re.compile(rb"(?!.*re_)[0-9A-Za-z._-]{1,128}")


class Edge:
    def __init__(
        self,
        app: ASGIApp,
        *,
        hot: Mapping[tuple[str, str], Hot],
        bodies: Bodies,
        limits: Limits | None = None,
        logs: LogWriter | None = None,
        log_bytes: int = 16_384,
        allowed: Callable[[str], list[str]] = lambda _: [],
        https: bool = False,
    ) -> None:
        """`hot`: method and path → the route's function, which takes the request and nothing else.

        `allowed`: the methods of a path; `log_bytes`: what the log keeps of a body; `https`: whether people reach us so.
        """
        self._app = app
        self._hot = hot
        self._bodies = bodies
        self._limits = limits
        self._logs = logs
        self._log_bytes = log_bytes
        self._allowed = allowed
        self._security: Headers = [
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"same-origin"),
        ]
        if https:
            self._security.append((b"strict-transport-security", b"max-age=31536000"))
        self._security_names = {name for name, _ in self._security}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if "//" in path or (path.endswith("/") and path != "/"):
            # `//emails` comes from a base URL with a slash at its end, `/audiences/` from older SDKs (resend.md §1)
            path = scope["path"] = _SLASHES.sub("/", path).rstrip("/") or "/"
        headers = dict(reversed(scope["headers"]))  # of several of a name, the first
        exchange = _Exchange(self, scope, headers, receive, send)
        if scope["method"] == "HEAD":
            # RFC 9110 §9.3.2: what GET answers, without the content
            exchange.scope = scope = {**scope, "method": "GET", "postroom.head": True}
            exchange.head = True
        REQUEST_ID.set(exchange.request_id)
        body: Body | None = None
        try:
            if self._limits is not None and not exchange.known:
                await self._limits.count_stranger(scope)
            if b"%00" in scope["query_string"]:
                # Postgres takes no NUL in a text
                raise ApiError(422, "invalid_parameter", "The query must not contain NUL characters.")
            body = self._bodies.body(_declared(headers), receive)
            hot = self._hot.get((scope["method"], path))
            if hot is not None:
                await exchange.hot(hot, body)
            elif scope["method"] == "OPTIONS" and (methods := self._allowed(path)):
                await exchange.answer(Response(None, 204, {"allow": ", ".join(methods)}))
            else:
                exchange.receive = body.receive
                await self._app(scope, exchange.received, exchange.send)
        except Exception as error:
            if exchange.ended:
                return  # FastAPI answers by errors.install, which logs, and raises nevertheless
            if exchange.started:
                raise
            await exchange.answer(errors.response(errors.from_exception(error)))
        finally:
            if body is not None:
                body.close()
            if exchange.started and self._logs is not None and WHO in scope:
                self._note(exchange)

    def headers(self, scope: Scope, given: Headers, status: int, request_id: str) -> Headers:
        """Of an answer: the route's own go before ours."""
        ours = self._security
        if len(given) > 2:  # more than type and length
            names = {name for name, _ in given}
            if not self._security_names.isdisjoint(names):
                ours = [each for each in ours if each[0] not in names]
        if status == 405 and (methods := self._allowed(scope["path"])):
            # RFC 9110 §15.5.6: all of them; the router names those of one route
            given = [*(each for each in given if each[0] != b"allow"), (b"allow", ", ".join(methods).encode())]
        rate = [] if self._limits is None else self._limits.headers(scope)
        return [*given, *ours, *rate, (b"x-request-id", request_id.encode())]

    async def opened_nothing(self, scope: Scope, status: int) -> Response | None:
        """Of a request with a key, token or cookie that no organization answers for: counts it as its client's.

        Returns the answer to give instead of its own when there were too many.
        """
        if self._limits is not None and RATE not in scope:
            try:
                await self._limits.count_stranger(scope)
            except ApiError as refused:
                return errors.response(refused)
        if status in (400, 401, 403):
            AUTH_FAILURES.inc()
            log.info("a key, token or cookie opened nothing", client=network(scope), status=status)
        return None

    def _note(self, exchange: _Exchange) -> None:
        assert self._logs is not None
        try:
            self._logs.note(exchange.row(self._log_bytes))
        except Exception:
            log.exception("a call could not be written to the log of calls")


class _Fields(RequestHeaders):
    """A request's header, found by name; Starlette's looks through all of it each time."""

    def __init__(self, raw: list[tuple[bytes, bytes]], by_name: Mapping[bytes, bytes]) -> None:
        self._list = raw
        self._by_name = by_name

    def get(self, key: str, default: Any = None) -> Any:
        value = self._by_name.get(key.encode("latin-1"))
        return default if value is None else value.decode("latin-1")


class _Exchange:
    """One request and its answer, as they pass."""

    __slots__ = (
        *(
            "_agent",
            "_asked",
            "_began",
            "_edge",
            "_fields",
            "_given",
            "_id",
            "_replied",
            "_send",
            "_swallow",
            "ended",
            "head",
            "known",
        ),
        *("receive", "request", "request_id", "scope", "started", "status"),
    )

    def __init__(self, edge: Edge, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        self._began = time.perf_counter()
        self._edge = edge
        self.scope = scope
        self.receive = receive
        self._send = send
        self._id = self.request_id = uuid7_text()
        self._given: str | None = None
        given = headers.get(b"x-request-id")
        if given is not None and _SANE_ID.fullmatch(given):
            self._given = self.request_id = given.decode()
        self._fields = headers
        self._agent = headers.get(b"user-agent")
        self.known = b"authorization" in headers or b"cookie" in headers
        """Whether it says who asks."""
        self.request: Request | None = None
        """Of a hot route, which reads its body whole."""
        self.head = self.started = self.ended = self._swallow = False
        self.status = 0
        self._asked: Captured | None = None
        self._replied: Captured | bytes = b""

    async def received(self) -> Message:
        message = await self.receive()
        if self._asked is None:
            self._asked = Captured()
        self._asked.add(message.get("body", b""))
        return message

    async def hot(self, route: Hot, body: Body) -> None:
        """Where the server offers it, the request's body and its answer go the short way (chassis.http)."""
        request = self.request = Request(self.scope, body.receive)
        request._headers = _Fields(self.scope["headers"], self._fields)
        whole: Whole | None = self.scope.get("extensions", _NONE).get(WHOLE)
        if whole is not None and body.small and (octets := whole.body()) is not None:
            request._body = octets  # where Starlette keeps what it has received
        response = await route(request)
        if whole is None or response.status_code != 200 or not self._sent_whole(whole, response):
            await self.answer(response)

    def _sent_whole(self, whole: Whole, response: Response) -> bool:
        content = bytes(response.body)
        headers = self._edge.headers(self.scope, response.raw_headers, 200, self.request_id)
        if not whole.answer(200, headers, content):
            return False
        self.started = self.ended = True
        self.status, self._replied = 200, content
        return True

    async def answer(self, response: Response) -> None:
        """A plain one, which is there as a whole."""
        await self.send(
            {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        )
        if not self._swallow:
            self._replied = bytes(response.body)
            await self._send({"type": "http.response.body", "body": b"" if self.head else self._replied})
            self.ended = True

    async def send(self, message: Message) -> None:
        if self._swallow:
            return
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            if self.known and WHO not in self.scope:
                instead = await self._edge.opened_nothing(self.scope, self.status)
                if instead is not None:
                    self.known = False
                    await self.answer(instead)
                    self._swallow = True
                    return
            message["headers"] = self._edge.headers(self.scope, message["headers"], self.status, self.request_id)
            await self._send(message)
            return
        if isinstance(self._replied, bytes):
            self._replied = Captured()
        self._replied.add(message.get("body", b""))
        await self._send({**message, "body": b""} if self.head else message)
        self.ended = not message.get("more_body", False)

    def row(self, limit: int) -> NewLog:
        scope, replied = self.scope, self._replied
        seconds, client = time.perf_counter() - self._began, scope.get("client")
        if self.request is not None:
            if self.status == 200 and isinstance(replied, bytes) and b'"errors":[{' not in replied:
                return sent(self._id, scope[WHO], scope["path"], seconds, self._agent, client, self._given, replied)
            self._asked = Captured()
            self._asked.add(getattr(self.request, "_body", b""))  # where it was read at all
        if isinstance(replied, bytes):
            whole = Captured()
            whole.add(replied)
            replied = whole
        return record(
            Call(
                id=self._id,
                who=scope[WHO],
                method="HEAD" if self.head else scope["method"],
                path=scope["path"],
                status=self.status,
                seconds=seconds,
                user_agent=self._agent,
                client=client,
                request_id=self._given,
                asked=self._asked or Captured(),
                answer=replied,
            ),
            limit,
        )


def _declared(headers: Mapping[bytes, bytes]) -> int | None:
    """Content-Length: the server reads no more than that, and has refused what is no number."""
    length = headers.get(b"content-length")
    return int(length[:18]) if length is not None else None
