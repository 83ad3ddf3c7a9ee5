"""Every row A, B and C of the plan of reliability has a test of its name, or a reason why there is nothing to test."""

from __future__ import annotations

import pytest

import rows


def test_every_row_is_shown_by_a_test() -> None:
    if not rows.SPEC.exists():
        pytest.skip("the plan of reliability is not beside the checkout (set POSTROOM_SPEC)")
    wanted, shown = rows.wanted(), rows.shown()
    assert [sum(row.startswith(letter) for row in wanted) for letter in "ABC"] == [17, 11, 10]
    assert [row for row in wanted if row not in shown and row not in rows.NOTHING_THERE] == [], "rows without a test"
    assert [row for row in rows.NOTHING_THERE if row in shown] == [], "rows that have a test and an excuse"
