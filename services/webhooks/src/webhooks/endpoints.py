"""Who may have how many posts in flight.

An endpoint starts with a window of START posts. An answer doubles the window up to the limit, none at all makes it 1. A post
that takes longer than SLOW_SECONDS makes its endpoint slow until it answers promptly again: posts to slow endpoints have a
budget of their own. So a thousand endpoints that hang hold up each other; those that answer wait for none of them longer than
SLOW_SECONDS.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

START = 2
SLOW_SECONDS = 1.0
REMEMBERED = 2_000


@dataclass(slots=True)
class _Endpoint:
    window: int
    slow: bool = False
    in_flight: int = 0


class Endpoints:
    def __init__(self, *, limit: int, concurrency: int, slow_concurrency: int) -> None:
        self._limit = limit
        self._concurrency = concurrency
        self._slow_concurrency = slow_concurrency
        self._known: dict[UUID, _Endpoint] = {}
        self._fast = 0
        self._slow = 0

    @property
    def start(self) -> int:
        return min(START, self._limit)

    @property
    def free(self) -> int:
        """Posts that may be begun to endpoints that are not slow."""
        return max(0, self._concurrency - self._fast)

    @property
    def free_slow(self) -> int:
        return max(0, self._slow_concurrency - self._slow)

    def rooms(self) -> dict[UUID, int]:
        """Endpoint → posts it may have more now, where that is not `start`; 0 for slow ones, which `slow_rooms` has."""
        rooms = {id_: 0 if one.slow else max(0, one.window - one.in_flight) for id_, one in self._known.items()}
        return {id_: room for id_, room in rooms.items() if room != self.start}

    def slow_rooms(self) -> dict[UUID, int]:
        return {
            id_: one.window - one.in_flight
            for id_, one in self._known.items()
            if one.slow and one.in_flight < one.window
        }

    def begin(self, id_: UUID) -> Flight:
        endpoint = self._known.get(id_)
        if endpoint is None:
            self._make_room()
            endpoint = self._known[id_] = _Endpoint(self.start)
        endpoint.in_flight += 1
        if endpoint.slow:
            self._slow += 1
        else:
            self._fast += 1
        return Flight(self, endpoint, slow=endpoint.slow)

    def turned_slow(self, flight: Flight) -> None:
        """A post has been in flight for SLOW_SECONDS."""
        flight.endpoint.slow = True
        if not flight.slow:
            flight.slow = True
            self._fast -= 1
            self._slow += 1

    def ended(self, flight: Flight, *, answered: bool, prompt: bool) -> None:
        """`answered`: whatever the answer was. `prompt`: within SLOW_SECONDS."""
        endpoint = flight.endpoint
        endpoint.in_flight -= 1
        if flight.slow:
            self._slow -= 1
        else:
            self._fast -= 1
        endpoint.slow = not (answered and prompt)
        endpoint.window = min(self._limit, endpoint.window * 2) if answered else 1

    def _make_room(self) -> None:
        """Forgets endpoints with nothing in flight, longest known first, when there are too many."""
        if len(self._known) < REMEMBERED:
            return
        idle = [id_ for id_, one in self._known.items() if not one.in_flight]
        for id_ in idle[: REMEMBERED // 10]:
            del self._known[id_]


@dataclass(slots=True)
class Flight:
    """One post in flight."""

    endpoints: Endpoints
    endpoint: _Endpoint
    slow: bool
