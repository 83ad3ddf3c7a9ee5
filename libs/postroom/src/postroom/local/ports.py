"""The ports of a local stack, counted from one base.

    base+0 api · +1 MX · +2 submission · +3 submissions (TLS) · +4 relay · +5 catcher · +6 metrics of all · +7 DNS
    base+20 Postgres · base+21 Redis · base+22 and up: the operations port of each service process, in starting order

+8 to +19 are kept for later listeners. Everything is checked before anything is started.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from postroom.console import CannotStart

HIGHEST_OFFSET = 22 + 160


@dataclass(frozen=True, slots=True)
class Ports:
    base: int

    def __post_init__(self) -> None:
        if not 1 <= self.base <= 65535 - HIGHEST_OFFSET:
            raise CannotStart(
                f"--port-base {self.base} leaves no room: choose a base between 1024 and {65535 - HIGHEST_OFFSET}."
            )

    @property
    def api(self) -> int:
        return self.base

    @property
    def mx(self) -> int:
        return self.base + 1

    @property
    def submission(self) -> int:
        return self.base + 2

    @property
    def submissions(self) -> int:
        return self.base + 3

    @property
    def catcher(self) -> int:
        return self.base + 5

    @property
    def metrics(self) -> int:
        return self.base + 6

    @property
    def dns(self) -> int:
        return self.base + 7

    @property
    def postgres(self) -> int:
        return self.base + 20

    @property
    def redis(self) -> int:
        return self.base + 21

    def ops(self, place: int) -> int:
        """The operations port of the service process that starts at this place (0 = the first)."""
        return self.base + 22 + place


@dataclass(frozen=True, slots=True)
class Wanted:
    """A port that a part is going to listen on."""

    what: str
    host: str
    port: int
    udp: bool = False


def check(wanted: Sequence[Wanted]) -> None:
    """Raises CannotStart for the first port that cannot be had, before anything is started."""
    for item in wanted:
        error = _try(item)
        if error is None:
            continue
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(
                f"Port {item.port} ({item.what}) on {item.host} is taken by another program: stop that program, or start"
                " with another base (postroom up --port-base N, make run PORT_BASE=N)."
            )
        if error.errno == errno.EACCES:
            raise CannotStart(
                f"Port {item.port} ({item.what}) may not be opened by this user: choose a base of 1024 or more"
                " (postroom up --port-base N)."
            )
        raise CannotStart(
            f"Port {item.port} ({item.what}) cannot be opened on {item.host}: {error.strerror}. Correct the address."
        )


def _try(item: Wanted) -> OSError | None:
    family = socket.AF_INET6 if ":" in item.host else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM) if item.udp else (socket.SOCK_STREAM,):
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:
                # a closed connection that still waits (TIME_WAIT) does not make the port taken; a listener does
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((item.host, item.port))
                if kind == socket.SOCK_STREAM:
                    probe.listen(1)
            except OSError as error:
                return error
    return None
