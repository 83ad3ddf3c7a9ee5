"""How fast mail to guessed addresses is announced (reliability A15)."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

from mailcore.flow import announcing
from mailcore.flow.announcing import Announcing

ORG = UUID(int=1)


def test_a15_ten_thousand_at_once_are_one_batch_a_second() -> None:
    pace = Announcing(batch=50, clock=lambda: 100.0)
    due = [100.0 + pace.wait(ORG, "a.test") for _ in range(10_000)]
    assert due == sorted(due)
    assert Counter(due) == Counter({100.0 + second: 50 for second in range(200)})
    assert pace.wait(ORG, "b.test") == pace.wait(UUID(int=2), "a.test") == 0.0, "others do not wait for it"


def test_a15_of_a_steady_stream_no_batch_is_larger_and_it_ends() -> None:
    now = 0.0
    pace = Announcing(batch=5, clock=lambda: now)
    due = []
    for n in range(100):
        now = n * 0.05  # 20 a second
        due.append(round(now + pace.wait(ORG, "a.test"), 6))
    late = [each for n, each in enumerate(due) if each > n * 0.05 + 1e-5]
    assert set(Counter(late).values()) <= {4, 5}
    assert {round(b - a, 6) for a, b in zip(sorted(set(late)), sorted(set(late))[1:], strict=False)} == {1.0}
    now = max(due) + 1.0
    assert pace.wait(ORG, "a.test") == 0.0


def test_without_a_batch_nothing_is_put_off() -> None:
    pace = Announcing(batch=0, clock=lambda: 1.0)
    assert {pace.wait(ORG, "a.test") for _ in range(1_000)} == {0.0}


def test_few_are_never_put_off() -> None:
    now = 0.0
    pace = Announcing(batch=5, clock=lambda: now)
    for n in range(100):
        now = n * 0.25
        assert pace.wait(ORG, "a.test") == 0.0


def test_it_remembers_only_so_many() -> None:
    pace = Announcing(batch=1, clock=lambda: 5.0)
    for n in range(announcing.MAX_DOMAINS + 10):
        pace.wait(ORG, f"{n}.test")
    assert len(pace._next) <= announcing.MAX_DOMAINS
