"""How much of the process routing gets: little while a burst comes in, all once its mail has waited long enough."""

from __future__ import annotations

import asyncio

import pytest

from inbound_smtp.pace import LEAST, MOST_SECONDS, PATIENCE_SECONDS, Pace, pause


def share(lag: float) -> float:
    took = 0.001
    return took / (took + pause(took, lag))


def test_a_burst_leaves_routing_the_least() -> None:
    assert share(0.0) == pytest.approx(LEAST)
    assert share(1.0) == pytest.approx(LEAST)


def test_the_longer_mail_has_waited_the_more_it_gets() -> None:
    shares = [share(PATIENCE_SECONDS * tenth / 10) for tenth in range(11)]
    assert shares == sorted(shares)
    assert shares[5] < 0.5 and shares[8] > 0.5


@pytest.mark.parametrize("lag", [PATIENCE_SECONDS, 3600.0])
def test_mail_that_has_waited_long_gives_way_to_nobody(lag: float) -> None:
    assert pause(0.2, lag) == 0.0


def test_no_pause_is_longer_than_a_second() -> None:
    assert pause(10.0, 0.0) == MOST_SECONDS


@pytest.mark.parametrize(
    ("found", "came", "used", "waits"),
    [(True, True, 0.9, True), (True, False, 0.9, False), (False, True, 0.9, False), (True, True, 0.1, False)],
)
async def test_it_waits_only_behind_mail_that_comes_in_meanwhile_and_on_a_busy_processor(
    monkeypatch: pytest.MonkeyPatch, found: bool, came: bool, used: float, waits: bool
) -> None:
    """`used`: of the processor."""
    slept: list[float] = []
    began = asyncio.get_running_loop().time()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    taken = iter((1, 2 if came else 1))

    async def work(_: frozenset[str] | None) -> bool:
        return found

    monkeypatch.setattr("inbound_smtp.pace.asyncio.sleep", sleep)
    monkeypatch.setattr("inbound_smtp.pace.time.process_time", lambda: 100.0 + used)
    pace = Pace(work, taken=lambda: next(taken), lag=lambda: 0.0)
    pace._since = began - 1.0, 100.0
    assert await pace(None) is found
    assert len(slept) == waits
