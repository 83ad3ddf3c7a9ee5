from __future__ import annotations

from mailcore.kit.retry import delay


def test_the_schedule_is_followed_and_ends() -> None:
    assert [delay([5, 300], attempt, jitter=0) for attempt in (1, 2, 3)] == [5, 300, None]


def test_jitter_spreads_to_both_sides_within_its_share() -> None:
    assert delay([100], 1, uniform=lambda low, high: low) == 90
    assert delay([100], 1, uniform=lambda low, high: high) == 110.00000000000001
