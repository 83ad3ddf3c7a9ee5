"""Before every route, as pure ASGI: one form of path, the limits of bodies, rate-limit headers, the last net under errors.

The routes that run for every mail are called from here: FastAPI's routing, dependencies and tracing take longer than the rest
of a submit together (bench/README.md). They are registered as routes too, for /openapi.json.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.bodies import Bodies, Body
from api.errors import ApiError
from mailcore.queue.rate import Rate

Hot: TypeAlias = Callable[[Request], Awaitable[Response]]

_SLASHES = re.compile("/{2,}")


class Edge:
    def __init__(self, app: ASGIApp, *, hot: Mapping[tuple[str, str], Hot], bodies: Bodies, rate_limit: int) -> None:
        """`hot`: method and path → the route's function, which takes the request and nothing else."""
        self._app = app
        self._hot = hot
        self._bodies = bodies
        self._rate_limit = rate_limit
        self._untouched = _rate_headers(Rate(rate_limit, rate_limit, 1, False)) if rate_limit else []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if "//" in path or (path.endswith("/") and path != "/"):
            # `//emails` comes from a base URL with a slash at its end, `/audiences/` from older SDKs (resend.md §1)
            path = scope["path"] = _SLASHES.sub("/", path).rstrip("/") or "/"
        started = ended = False
        body: Body | None = None

        async def send_counted(message: Message) -> None:
            nonlocal started, ended
            if message["type"] == "http.response.start":
                started = True
                if self._rate_limit:
                    rate = scope.get("postroom.rate")
                    message["headers"] = [
                        *message["headers"],
                        *(self._untouched if rate is None else _rate_headers(rate)),
                    ]
            await send(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            if b"%00" in scope["query_string"]:
                # Postgres takes no NUL in a text
                raise ApiError(422, "invalid_parameter", "The query must not contain NUL characters.")
            body = self._bodies.body(_declared(scope), receive)
            receive = body.receive
            hot = self._hot.get((scope["method"], path))
            if hot is not None:
                await (await hot(Request(scope, receive)))(scope, receive, send_counted)
            else:
                await self._app(scope, receive, send_counted)
        except Exception as error:
            if ended:
                return  # FastAPI answers by errors.install, which logs, and raises nevertheless
            if started:
                raise
            answer = errors.response(errors.from_exception(error))
            await answer(scope, receive, send_counted)
        finally:
            if body is not None:
                body.close()


def _declared(scope: Scope) -> int | None:
    """Content-Length: the server reads no more than that, and has refused what is no number."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value[:18])
    return None


def _rate_headers(rate: Rate) -> list[tuple[bytes, bytes]]:
    return [
        (b"ratelimit-limit", b"%d" % rate.limit),
        (b"ratelimit-remaining", b"%d" % rate.remaining),
        (b"ratelimit-reset", b"%d" % rate.reset),
        (b"ratelimit-policy", b"%d;w=1" % rate.limit),
    ]
