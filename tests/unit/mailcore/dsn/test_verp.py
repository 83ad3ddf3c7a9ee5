from __future__ import annotations

import base64
import hashlib
import hmac
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.dsn.verp import COMPLAINT_DAYS, LIFE_DAYS, ReturnPath, Verp
from mailcore.kit.ids import uuid7

KEY = b"k" * 32
NOW = 1_800_000_000.0
DAY = 86_400.0
TODAY = int(NOW // DAY)
OURS = Verp(KEY, clock=lambda: NOW)


@given(st.uuids(), st.integers(0, 32_767))
def test_a_return_path_names_its_delivery(email_id: UUID, n: int) -> None:
    local = OURS.local_part(email_id, n)
    assert len(local) <= 64
    assert local == local.lower()
    assert local.replace("+", "").isalnum()
    assert OURS.read(local) == OURS.read(local.upper()) == ReturnPath(email_id, n, TODAY)


def test_it_is_an_hmac() -> None:
    id_ = uuid7()
    named = id_.bytes + (7).to_bytes(2, "big") + TODAY.to_bytes(2, "big")
    octets = base64.b32decode(OURS.local_part(id_, 7)[2:].upper() + "===")
    assert octets == named + hmac.digest(KEY, named, hashlib.sha256)[:8]


def test_a17_what_is_changed_or_foreign_is_not_ours() -> None:
    local = OURS.local_part(uuid7(), 3)
    assert Verp(b"x" * 32).read(local) is None
    for position in range(2, len(local)):
        changed = local[:position] + ("a" if local[position] != "a" else "b") + local[position + 1 :]
        # the last digit carries bits that mean nothing
        assert OURS.read(changed) is None or position == len(local) - 1
    for other in ("", "b+", "b+x", "b+" + "a" * 100, "bounce", "b+ü", local[:-1], local + "a"):
        assert OURS.read(other) is None


def test_a_key_that_was_replaced_is_still_known() -> None:
    local = OURS.local_part(uuid7(), 1)
    rotated = Verp(b"n" * 32, KEY, clock=lambda: NOW)
    assert rotated.read(local) == OURS.read(local)
    assert OURS.read(rotated.local_part(uuid7(), 1)) is None


@pytest.mark.parametrize(
    ("days", "alive"), [(0, True), (1, True), (LIFE_DAYS, True), (LIFE_DAYS + 1, False), (400, False), (-1, False)]
)
def test_a17_it_is_believed_for_a_week(days: int, alive: bool) -> None:
    local = OURS.local_part(uuid7(), 0)
    later = Verp(KEY, clock=lambda: NOW + days * DAY)
    path = later.read(local)
    assert path is not None
    assert later.alive(path) is alive


@pytest.mark.parametrize(("days", "alive"), [(COMPLAINT_DAYS, True), (COMPLAINT_DAYS + 1, False), (-1, False)])
def test_a_complaint_may_come_later(days: int, alive: bool) -> None:
    later = Verp(KEY, clock=lambda: NOW + days * DAY)
    path = later.read(OURS.local_part(uuid7(), 0))
    assert path is not None
    assert later.alive(path, COMPLAINT_DAYS) is alive
