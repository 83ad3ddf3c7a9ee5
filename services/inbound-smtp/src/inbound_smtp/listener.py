"""What the connections of one port share."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from inbound_smtp.connections import Connections
from inbound_smtp.verbs import Verb
from inbound_smtp.wire import Memory

if TYPE_CHECKING:
    from inbound_smtp.session import Session


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
    """Those of the process: all its listeners count together."""
    memory: Memory
    """Of the process, too."""
    tls: ssl.SSLContext | None = None
    proxy_version: int | None = None
    """1 or 2: each connection begins with a PROXY header of that version."""
    draining: bool = False
    _sessions: set[Session[Any]] = field(default_factory=set)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, session: Session[Any]) -> None:
        self._sessions.add(session)

    def end(self, session: Session[Any]) -> None:
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
