"""Connections by feedback, mails by rate, rules by how often they were met."""

from __future__ import annotations

import itertools

import pytest

from mailcore.flow.shaping import Rule, Shaping
from outbound.bearing import CATCH_UP_SECONDS, FLOOR, Hits, Pace, Window


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_refusals_halve_once_a_pause_and_stop_at_the_probes() -> None:
    clock = Clock()
    window = Window(20, clock)
    seen = [int(window)]
    for _ in range(60):
        for _ in range(50):  # all that were under way are refused
            window.refused()
        seen.append(int(window))
        clock.now += 1.0
    assert seen[:5] == [20, 10, 5, 2, 2]
    assert seen[-1] == FLOOR


def test_mails_taken_add_one_connection_a_round() -> None:
    clock = Clock()
    window = Window(20, clock)
    window.fell()
    taken = 0
    while int(window) < 20:
        window.took()
        taken += 1
    assert 150 < taken < 220  # 2 + 3 + … + 19
    assert not window.shrunk
    window.took()
    assert int(window) == 20


def test_a_limit_of_one_is_never_doubled_by_the_floor() -> None:
    window = Window(1, Clock())
    window.fell()
    assert int(window) == 1
    window.resize(10)
    window.refused()
    assert int(window) == 5


def test_a_changed_limit_keeps_what_was_learned() -> None:
    window = Window(20, Clock())
    window.resize(40)
    assert int(window) == 40
    window.fell()
    window.resize(30)
    assert int(window) == FLOOR


def test_slowed_is_half_until_its_end() -> None:
    clock = Clock()
    window = Window(20, clock)
    window.slow_down(600)
    for _ in range(1000):
        window.took()
    assert int(window) == 10
    clock.now += 601
    for _ in range(1000):
        window.took()
    assert int(window) == 20


@pytest.mark.parametrize(
    ("rates", "part", "spans"),
    [
        ([(5, 1.0)], 1.0, [(5, 1.0)]),
        ([(1000, 1.0)], 1.0, [(1000, 1.0)]),
        ([(10, 60.0)], 0.5, [(5, 60.0)]),
        ([(3, 1.0), (20, 60.0)], 1.0, [(3, 1.0), (20, 60.0)]),
    ],
)
def test_no_window_of_a_rate_holds_more_than_its_number(
    rates: list[tuple[int, float]], part: float, spans: list[tuple[int, float]]
) -> None:
    """Whoever asks as early as he may, and late at times."""
    clock = Clock()
    pace = Pace(rates, clock)
    pace.part = part
    left: list[float] = []
    for turn in itertools.count():
        wait = pace.take()
        if wait == 0:
            left.append(clock.now)
        else:
            clock.now += wait + (0.02 if turn % 7 == 0 else 1e-9)
        if clock.now > 1000 + 200 * max(span for _, span in rates) / 60 + 5 or len(left) > 5000:
            break
    for count, span in spans:
        fullest = max(sum(at <= other < at + span for other in left) for at in left)
        assert fullest <= count
    strictest = min(count / span for count, span in spans)
    expected = strictest * (left[-1] - left[0])
    assert len(left) > 0.8 * expected  # and it is not much slower than it may be


def test_without_a_part_nothing_leaves() -> None:
    pace = Pace([(10, 1.0)], Clock())
    pace.part = 0.0
    assert pace.take() == float("inf")
    assert Pace([]).take() == 0.0


def test_what_left_is_owed_until_the_next_is_due() -> None:
    clock = Clock()
    pace = Pace([(1, 3600.0)], clock)
    assert not pace.owes
    assert pace.take() == 0.0
    assert pace.owes
    assert pace.take() == pytest.approx(3600)
    clock.now += 3600
    assert not pace.owes
    assert CATCH_UP_SECONDS < 1


def test_a_rule_acts_when_it_was_met_often_enough_in_its_time() -> None:
    clock = Clock()
    rule = _rule(times=3, within="10m")
    hits = Hits(clock)
    assert [hits.enough(rule, None) for _ in range(4)] == [False, False, True, False]
    clock.now += 601
    assert not hits.enough(rule, None)  # the one before is too old
    assert [hits.enough(rule, "another") for _ in range(3)] == [False, False, True]


def _rule(**asked: object) -> Rule:
    own = {"match": "x", "do": "slow", "for": "1m", **asked}
    return Shaping.load().shape("mx:mx.test", connections=1, mails_per_connection=1, rules=[own]).rules[0]
