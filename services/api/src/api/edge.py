"""Before every route, as pure ASGI: one form of path, the body limit, rate-limit headers, the last net under errors."""

from __future__ import annotations

import re
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.errors import ApiError
from api.rate import Rate

_SLASHES = re.compile("/{2,}")


class Edge:
    def __init__(self, app: ASGIApp, *, body_limit: int, rate_limit: int) -> None:
        self._app = app
        self._body_limit = body_limit
        self._rate_limit = rate_limit
        self._untouched = _rate_headers(Rate(rate_limit, rate_limit, 1, False)) if rate_limit else []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if "//" in path or (path.endswith("/") and path != "/"):
            # `//emails` comes from a base URL with a slash at its end, `/audiences/` from older SDKs (resend.md §1)
            scope["path"] = _SLASHES.sub("/", path).rstrip("/") or "/"
        started = False

        async def send_head(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self._rate_limit:
                    rate = scope.get("postroom.rate")
                    message["headers"] = [
                        *message["headers"],
                        *(self._untouched if rate is None else _rate_headers(rate)),
                    ]
            await send(message)

        try:
            await self._app(scope, self._limited(scope, receive), send_head)
        except Exception as error:
            answer = errors.response(errors.from_exception(error))
            if started:
                raise
            await answer(scope, receive, send_head)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        limit = self._body_limit
        declared = 0
        for name, value in scope["headers"]:
            if name == b"content-length":
                declared = int(value) if value.isdigit() else 0
        read = 0

        async def receive_some() -> Message:
            nonlocal read
            if declared > limit:
                raise _too_large(limit)
            message: Any = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise _too_large(limit)
            return message  # type: ignore[no-any-return]

        return receive_some


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413, "validation_error", f"The request body is larger than {limit // 1_000_000} MB, the most that is taken."
    )


def _rate_headers(rate: Rate) -> list[tuple[bytes, bytes]]:
    return [
        (b"ratelimit-limit", b"%d" % rate.limit),
        (b"ratelimit-remaining", b"%d" % rate.remaining),
        (b"ratelimit-reset", b"%d" % rate.reset),
        (b"ratelimit-policy", b"%d;w=1" % rate.limit),
    ]
