"""A call as its row in the log."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from api.auth import Principal
from api.logs import masking
from mailcore.store.logs import NewLog

MAX_ENDPOINT = 500
MAX_AGENT = 300
SENDING = frozenset(("/emails", "/emails/batch"))


class Captured:
    """A body in passing: whole up to a limit, beyond it only its size."""

    __slots__ = ("parts", "size")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if self.size <= masking.CAPTURE_BYTES:
            self.parts.append(part)
        else:
            self.parts.clear()


@dataclass(slots=True)
class Call:
    id: str
    who: Principal
    method: str
    path: str
    status: int
    seconds: float
    user_agent: bytes | None
    client: tuple[str, int] | None
    request_id: str | None
    """The client's own."""
    asked: Captured
    answer: Captured


def sent(
    id_: str,
    who: Principal,
    path: str,
    seconds: float,
    agent: bytes | None,
    client: Any,
    given: str | None,
    answer: bytes,
) -> NewLog:
    """An accepted send, whose request is not kept: its emails are what it asked for (api.logs.rebuilt)."""
    ip = client[0] if client else None
    agent_text = None if agent is None else _agent(agent)
    milliseconds = round(seconds * 1000, 1)
    return (  # once for every mail: nothing that is not needed
        *(id_, who.org_id, who.key_id, who.user_id, "POST", path, 200, milliseconds, agent_text, ip, given, None),
        answer.decode(),
    )


def record(call: Call, limit: int) -> NewLog:
    """Any other call. `limit`: characters kept of a body."""
    return (
        *(call.id, call.who.org_id, call.who.key_id, call.who.user_id),
        *(call.method, _clean(call.path[:MAX_ENDPOINT]), call.status, round(call.seconds * 1000, 1)),
        *(None if call.user_agent is None else _agent(call.user_agent), call.client[0] if call.client else None),
        *(call.request_id, _body(call.asked, limit), _body(call.answer, limit)),
    )


def is_accepted_send(method: str, path: str, status: int) -> bool:
    return status == 200 and path in SENDING and method == "POST"


@lru_cache(maxsize=256)
def _agent(octets: bytes) -> str:
    return _clean(octets[:MAX_AGENT].decode("latin-1"))


def _body(captured: Captured, limit: int) -> str | None:
    if captured.size > masking.CAPTURE_BYTES:
        return masking.too_large(captured.size)
    return masking.kept(b"".join(captured.parts), limit)


def _clean(text: str) -> str:
    """Postgres takes no NUL; who puts a key into a path shall not find it here."""
    return masking.mask(text.replace("\0", "\\0"))
