from __future__ import annotations

from datetime import UTC, datetime

from mailcore.kit.ids import lower_bound, uuid7, uuid7_time


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
