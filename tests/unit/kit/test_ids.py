from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import RFC_4122, UUID

from mailcore.kit.ids import lower_bound, uuid7, uuid7_text, uuid7_time


def test_ids_are_version_7_and_sort_by_time() -> None:
    ids = [uuid7(ms) for ms in range(1_700_000_000_000, 1_700_000_000_500)]
    assert ids == sorted(ids)
    assert all(id_.version == 7 and id_.variant == "specified in RFC 4122" for id_ in ids)
    assert len({uuid7(5) for _ in range(1000)}) == 1000


def test_an_id_tells_its_time_and_lies_above_the_bound_of_it() -> None:
    at = datetime(2026, 11, 21, 8, 30, 0, 123000, tzinfo=UTC)
    id_ = uuid7(int(at.timestamp() * 1000))
    assert uuid7_time(id_) == at
    assert lower_bound(at) <= id_ < lower_bound(datetime(2026, 11, 21, 8, 30, 0, 124000, tzinfo=UTC))


def test_ids_of_one_process_sort_in_the_order_in_which_they_were_made() -> None:
    """At least a thousandth of a millisecond after each other: faster ones may share all but what is random."""

    def later() -> UUID:
        at = time.time_ns() + 1_000
        while time.time_ns() < at:
            pass
        return uuid7()

    ids = [later() if n % 2 else UUID(str(later())) for n in range(2_000)]
    assert ids == sorted(ids)
    texts = []
    for _ in range(1_000):
        later()
        texts.append(uuid7_text())
    assert texts == sorted(texts)
    assert {UUID(text).version for text in texts} == {7}
    assert {UUID(text).variant for text in texts} == {RFC_4122}
