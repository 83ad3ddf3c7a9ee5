"""Connections by feedback, mails by rate, rules by how often they were met."""

from __future__ import annotations

import itertools
import random
from uuid import UUID

import pytest

from mailcore.flow.shaping import Rule, Shaping
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from outbound.bearing import CATCH_UP_SECONDS, FLOOR, PATIENCE, STORM, Hits, Pace, Window
from outbound.site_share import SiteShare


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_round_of_refusals_halves_down_to_the_probes() -> None:
    window = Window(20, Clock())
    seen = [int(window)]
    for _ in range(60):
        for _ in range(int(window)):
            window.refused()
        seen.append(int(window))
    assert seen[:5] == [20, 10, 5, 2, 2]
    assert seen[-1] == FLOOR


def test_half_comes_back_by_slow_start_and_the_rest_one_a_round() -> None:
    window = Window(20, Clock())
    window.fell()
    taken = [0, 0]
    while int(window) < 20:
        taken[int(window) >= 10] += 1
        window.took()
    assert taken[0] == 8  # 2 … 10
    assert 130 < taken[1] < 160  # 10 + 11 + … + 19
    assert not window.shrunk
    window.took()
    assert int(window) == 20


@pytest.mark.parametrize(("takes", "settles"), [(0.5, (8, 12)), (0.05, (2, 3)), (0.9, (10, 20))])
def test_where_it_settles_is_a_matter_of_what_is_taken(takes: float, settles: tuple[int, int]) -> None:
    window, dice = Window(20, Clock()), random.Random(1)
    seen = []
    for _ in range(5_000):
        window.took() if dice.random() < takes else window.refused()
        seen.append(int(window))
    assert settles[0] <= sum(seen[1_000:]) / 4_000 <= settles[1]


def test_a_storm_is_refusals_in_a_row() -> None:
    window = Window(20, Clock())
    for _ in range(3):
        for _ in range(STORM - 1):
            window.refused()
        assert not window.storm
        window.took()
    for _ in range(STORM):
        window.refused()
    assert window.storm
    window.took()
    assert not window.storm


def test_a_site_with_one_connection_has_no_storm_while_it_takes_mail() -> None:
    share = SiteShare(1, Shaping.load().shape("mx:mx.test", connections=1, mails_per_connection=1))
    closing = Outcome(Result.DEFERRED, Reply(421, "later"), rule="closing")
    for _ in range(2 * STORM):
        share.heard(closing, UUID(int=1))
        share.heard(Outcome(Result.DELIVERED), UUID(int=1))
    assert not share.window.storm


def test_being_turned_away_is_free_so_often_and_then_an_attempt() -> None:
    window = Window(20, Clock())
    assert [window.turn_away("mail") for _ in range(PATIENCE + 2)] == [True] * PATIENCE + [False, True]
    assert window.turn_away("another")
    window.settled("mail")
    assert [window.turn_away("mail") for _ in range(PATIENCE + 1)] == [True] * PATIENCE + [False]


def test_a_limit_of_one_is_never_doubled_by_the_floor() -> None:
    window = Window(1, Clock())
    window.fell()
    assert int(window) == 1
    window.resize(10)
    for _ in range(10):
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


def test_a_rule_that_was_changed_counts_anew() -> None:
    hits = Hits(Clock())
    assert [hits.enough(_rule(times=3), None) for _ in range(2)] == [False, False]
    assert [hits.enough(_rule(times=5), None) for _ in range(5)] == [False, False, False, False, True]
    assert [hits.enough(_rule(times=2), None) for _ in range(2)] == [False, True]
    assert [hits.enough(_rule(times=3, match="y"), None) for _ in range(3)] == [False, False, True]


def _rule(**asked: object) -> Rule:
    own = {"match": "x", "do": "slow", "for": "1m", **asked}
    return Shaping.load().shape("mx:mx.test", connections=1, mails_per_connection=1, rules=[own]).rules[0]
