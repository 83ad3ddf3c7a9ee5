"""What the connections of one port share, and the clock that none of them outlives."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from inbound_smtp.body import Room
from inbound_smtp.connections import Connections
from inbound_smtp.proxy import Proxies
from inbound_smtp.tls import Certificate

if TYPE_CHECKING:
    from inbound_smtp.verbs import Verb


class Client(Protocol):
    """A connection, as its listener sees it."""

    def tick(self, now: float, patience: float) -> None: ...
    def hurry(self) -> None: ...


TICK_SECONDS = 0.25
CROWDED = 0.8
"""Of all connections that there may be: from there on a client has HURRIED_SECONDS for a command, as with Postfix under stress."""
HURRIED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    message_bytes: int
    line_bytes: int
    recipients: int
    errors: int
    junk_commands: int
    command_seconds: float
    data_seconds: float
    data_grace_seconds: float
    data_bytes_per_second: int


@dataclass(slots=True, kw_only=True)
class Listener:
    verbs: ClassVar[Mapping[str, Verb]]

    hostname: str
    limits: Limits
    connections: Connections
    room: Room
    """Of the process: all its listeners share it."""
    certificate: Certificate | None = None
    proxies: Proxies = field(default_factory=Proxies)
    greeting: bytes = b""
    """Made of the name."""
    draining: bool = False
    _sessions: set[Client] = field(default_factory=set)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)
    _timer: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self.greeting = f"220 {self.hostname} ESMTP Postroom\r\n".encode()

    def begin(self, session: Client) -> None:
        self._sessions.add(session)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def end(self, session: Client) -> None:
        self._sessions.discard(session)
        if self.draining and not self._sessions:
            self._gone.set()

    async def drain(self) -> None:
        """Connections between two mails are told to come back, the others when theirs is done. Returns when all are gone."""
        self.draining = True
        for session in list(self._sessions):
            session.hurry()
        if self._sessions:
            await self._gone.wait()

    def _tick(self) -> None:
        """One timer for all: a thousand connections that drip cost nobody anything."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        crowded = self.connections.share >= CROWDED
        patience = min(self.limits.command_seconds, HURRIED_SECONDS) if crowded else self.limits.command_seconds
        for session in list(self._sessions):
            session.tick(now, patience)
        self._timer = loop.call_later(TICK_SECONDS, self._tick) if self._sessions else None
