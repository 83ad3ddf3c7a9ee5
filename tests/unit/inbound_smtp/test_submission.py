from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from inbound_smtp.submission import options
from inbound_smtp.submission.failures import WINDOW_SECONDS, Failures
from mailcore.kit.errors import Invalid


def test_failures_count_by_address_until_the_window_ends() -> None:
    now = 0.0
    failures = Failures(2, lambda: now)
    for ip in ("192.0.2.1", "2001:db8::1", "2001:db8::2", "192.0.2.1"):
        assert not failures.too_many(ip)
        failures.note(ip)
    assert failures.too_many("192.0.2.1")
    assert failures.too_many("::ffff:192.0.2.1")
    assert failures.too_many("2001:db8::ffff"), "one /64 is one client"
    assert not failures.too_many("192.0.2.2")
    now = WINDOW_SECONDS
    assert not failures.too_many("192.0.2.1")


def test_options_are_read() -> None:
    assert options.read({}) == options.Options(None, None, None, None)
    given = {
        "tags": "a=b,c=, d-1=E_2",
        "scheduled-at": "2000-01-01T00:00:00Z",
        "track-opens": "YES",
        "track-clicks": "off",
    }
    assert options.read(given) == options.Options(
        [{"name": "a", "value": "b"}, {"name": "c", "value": ""}, {"name": "d-1", "value": "E_2"}], None, True, False
    )
    at = options.read({"scheduled-at": "in 1 hour"}).scheduled_at
    assert at is not None
    assert timedelta(minutes=59) < at - datetime.now(UTC) <= timedelta(hours=1)
    assert options.idempotency_key({}) is None
    assert options.idempotency_key({"idempotency-key": "k" * 256}) == "k" * 256


@pytest.mark.parametrize(
    "given",
    [
        {"tags": "a"},
        {"tags": "a=b c"},
        {"tags": "ä=b"},
        {"tags": "a=" + "b" * 257},
        {"tags": ",".join(f"t{n}=x" for n in range(76))},
        {"scheduled-at": ""},
        {"scheduled-at": "sometime"},
        {"scheduled-at": "in 31 days"},
        {"track-opens": ""},
        {"track-clicks": "perhaps"},
    ],
)
def test_options_that_cannot_be_read_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(Invalid, match="Resend-"):
        options.read(given)


@pytest.mark.parametrize("key", ["", "k" * 257])
def test_an_idempotency_key_has_1_to_256_characters(key: str) -> None:
    with pytest.raises(Invalid):
        options.idempotency_key({"idempotency-key": key})
