"""Request bodies on their way in: the size of one, the memory of all, and the time one may take.

    body = bodies.body(declared, receive)     # declared: Content-Length; None: it comes in chunks
    … body.receive() in place of receive …
    body.close()                              # when the request is answered: until then the body is held

The server stops reading from a connection while nobody asks for more of its body, so what is not asked for here costs nothing:
a request that is refused for its key or its rate is not counted and not timed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Message, Receive

from api.errors import ApiError
from mailcore.kit.log import logger

log = logger(__name__)

UNCOUNTED_BYTES = 1_000_000
"""A body up to this is not counted: a connection and what a request needs besides cost as much."""
IDLE_SECONDS = 60.0
"""How long a client may be silent inside a body."""
GRACE_SECONDS = 60.0
BYTES_PER_SECOND = 500
"""What a client must manage inside a body, once the grace is over: as in a message by SMTP."""


class Bodies:
    """One a process."""

    def __init__(
        self, limit: int, total: int, *, idle_seconds: float = IDLE_SECONDS, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        """Bytes: `limit` of one body, `total` of all that are larger than UNCOUNTED_BYTES."""
        self.limit = limit
        self.total = total
        self.idle_seconds = idle_seconds
        self.grace_seconds = grace_seconds
        self.held = 0

    def body(self, declared: int | None, receive: Receive) -> Body:
        """Raises ApiError 413."""
        if declared is not None and declared > self.limit:
            raise _too_large(self.limit)
        return Body(self, declared, receive)

    def take(self, octets: int) -> None:
        """Raises ApiError 503: so much is not free just now."""
        if self.held + octets > self.total:
            log.warning("no memory for another request body", held=self.held, wanted=octets, total=self.total)
            raise ApiError(
                503,
                "service_unavailable",
                "Too many large requests are coming in just now. Try again in a moment.",
                {"retry-after": "1"},
            )
        self.held += octets


class Body:
    __slots__ = ("_bodies", "_came", "_declared", "_ended", "_given_up", "_grace_ends", "_held", "_receive", "_task")

    def __init__(self, bodies: Bodies, declared: int | None, receive: Receive) -> None:
        self._bodies = bodies
        self._declared = declared
        self._receive = receive
        self._came = 0
        self._held = 0
        self._grace_ends = 0.0
        self._ended = False
        self._task: asyncio.Task[Any] | None = None
        self._given_up = False

    @property
    def small(self) -> bool:
        """It is said to be so small that it is not counted: where it is all there, it need not be received here."""
        return self._declared is not None and self._declared <= UNCOUNTED_BYTES

    async def receive(self) -> Message:
        """Raises ApiError 408, 413, 503."""
        if self._ended:
            return await self._receive()  # that the client has gone: it may stay as long as it likes
        bodies = self._bodies
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._grace_ends:
            self._grace_ends = now + bodies.grace_seconds
            if self._declared is not None and self._declared > UNCOUNTED_BYTES:
                # all of it at once: of many that come at a time some are read to their end, not each to its half
                self._take(self._declared)
        # by hand what asyncio.timeout does: that costs more than all the rest here, at every small body
        deadline = min(now + bodies.idle_seconds, self._grace_ends + self._came / BYTES_PER_SECOND)
        self._task = asyncio.current_task(loop)
        timer = loop.call_at(deadline, self._give_up)
        try:
            message: Any = await self._receive()
        except asyncio.CancelledError:
            if not self._given_up or self._task is None or self._task.uncancel() > 0:
                raise  # by somebody else
            raise _too_slow() from None
        finally:
            timer.cancel()
        self._came += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._came > bodies.limit:
            raise _too_large(bodies.limit)
        if self._came > UNCOUNTED_BYTES and self._came > self._held:
            self._take(self._came - self._held)
        return message  # type: ignore[no-any-return]

    def close(self) -> None:
        self._bodies.held -= self._held
        self._held = 0

    def _give_up(self) -> None:
        if self._task is not None:
            self._given_up = True
            self._task.cancel()

    def _take(self, octets: int) -> None:
        self._bodies.take(octets)
        self._held += octets


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413, "validation_error", f"The request body is larger than {limit // 1_000_000} MB, the most that is taken."
    )


def _too_slow() -> ApiError:
    # RFC 9110 §15.5.9: the rest of the body is not waited for, so the connection is of no more use
    return ApiError(
        408, "validation_error", "The request body came too slowly. Send the request again.", {"connection": "close"}
    )
