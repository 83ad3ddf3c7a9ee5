from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailcore.kit.ids import uuid7
from outbound import verp

KEY = b"k" * 32


@given(st.uuids(), st.integers(0, 32_767))
def test_a_return_path_names_its_delivery(email_id: object, n: int) -> None:
    local = verp.local_part(KEY, email_id, n)  # type: ignore[arg-type]
    assert len(local) <= 64
    assert local == local.lower()
    assert local.replace("+", "").isalnum()
    assert verp.read(KEY, local) == (email_id, n)
    assert verp.read(KEY, local.upper()) == (email_id, n)


def test_what_is_not_ours_is_told() -> None:
    local = verp.local_part(KEY, uuid7(), 3)
    assert verp.read(b"x" * 32, local) is None
    for position in range(2, len(local)):
        changed = local[:position] + ("a" if local[position] != "a" else "b") + local[position + 1 :]
        found = verp.read(KEY, changed)
        # the last digit carries two bits that mean nothing
        assert found is None or position == len(local) - 1
    for other in ("", "b+", "b+x", "b+" + "a" * 100, "bounce", "b+ü", local[:-1], local + "a"):
        assert verp.read(KEY, other) is None
