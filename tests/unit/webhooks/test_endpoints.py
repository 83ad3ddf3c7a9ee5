from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from webhooks.endpoints import REMEMBERED, START, Endpoints, Flight

A, B = UUID(int=1), UUID(int=2)


def _endpoints() -> Endpoints:
    return Endpoints(limit=8, concurrency=4, slow_concurrency=2)


def test_answers_open_the_window_and_silence_closes_it() -> None:
    endpoints = _endpoints()
    assert endpoints.rooms() == {}
    for window in (4, 8, 8):
        endpoints.ended(endpoints.begin(A), answered=True, prompt=True)
        assert endpoints.rooms() == {A: window}
    endpoints.ended(endpoints.begin(A), answered=False, prompt=True)
    assert (endpoints.rooms(), endpoints.slow_rooms()) == ({A: 0}, {A: 1})
    endpoints.ended(endpoints.begin(A), answered=True, prompt=True)
    assert (endpoints.rooms(), endpoints.slow_rooms()) == ({}, {})  # a window of START is not worth a word


def test_slow_posts_do_not_take_the_places_of_others() -> None:
    endpoints = _endpoints()
    flights = [endpoints.begin(A) for _ in range(3)]
    assert (endpoints.free, endpoints.free_slow) == (1, 2)
    for flight in flights:
        endpoints.turned_slow(flight)
        endpoints.turned_slow(flight)
    assert (endpoints.free, endpoints.free_slow) == (4, 0)
    assert endpoints.rooms() == {A: 0}
    for flight in flights:
        endpoints.ended(flight, answered=True, prompt=False)
    assert (endpoints.free, endpoints.free_slow) == (4, 2)
    assert endpoints.slow_rooms() == {A: 8}  # slow, but it answers: several at a time, among the slow ones


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["begin", "slow", "answer", "late", "silence"])), max_size=60)
)
def test_the_counts_come_back_to_nothing(steps: list[tuple[int, str]]) -> None:
    endpoints = _endpoints()
    flying: dict[int, list[Flight]] = {n: [] for n in range(4)}
    for n, step in steps:
        if step == "begin":
            flying[n].append(endpoints.begin(UUID(int=n)))
        elif flying[n] and step == "slow":
            endpoints.turned_slow(flying[n][0])
        elif flying[n]:
            endpoints.ended(flying[n].pop(), answered=step != "silence", prompt=step == "answer")
        assert all(room >= 0 for room in endpoints.rooms().values())
        assert all(room > 0 for room in endpoints.slow_rooms().values())
    for flights in flying.values():
        for flight in flights:
            endpoints.ended(flight, answered=True, prompt=True)
    assert (endpoints.free, endpoints.free_slow) == (4, 2)


def test_not_every_endpoint_is_remembered_for_ever() -> None:
    endpoints = _endpoints()
    held = endpoints.begin(B)
    for n in range(10, 10 + REMEMBERED * 2):
        endpoints.ended(endpoints.begin(UUID(int=n)), answered=True, prompt=True)
    assert len(endpoints.rooms()) <= REMEMBERED
    assert endpoints.rooms()[B] == START - 1
    endpoints.ended(held, answered=True, prompt=True)
