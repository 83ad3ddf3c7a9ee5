"""How often is looked for bells."""

from __future__ import annotations

from chassis.bells import LONGEST_PAUSE, POLL_SECONDS, Pace


def test_looks_that_all_take_long_are_made_seldom() -> None:
    pace = Pace()
    assert [pace.after(0.02, rang=False) for _ in range(20)][-1] == LONGEST_PAUSE


def test_one_that_was_held_up_does_not_keep_the_next_bell_waiting() -> None:
    pace = Pace()
    for _ in range(20):
        usual = pace.after(0.0005, rang=False)
    assert usual <= POLL_SECONDS
    assert pace.after(0.005, rang=False) <= POLL_SECONDS


def test_one_that_has_found_something_was_worth_its_time() -> None:
    pace = Pace()
    assert all(pace.after(took, rang=took > 0.001) <= POLL_SECONDS for took in (0.0005, 0.002) * 20)
