"""Lifetimes by class, and when a delay is told."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from mailcore.kit.ids import uuid7
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store.deliveries import Leased
from outbound.retry import BROADCAST, TRANSACTIONAL, Retries
from outbound.settings import HOUR, SCHEDULE

LATER = Outcome(Result.DEFERRED, Reply(450, "later"))
RETRIES = Retries(SCHEDULE, {BROADCAST: 48 * HOUR}, notice_seconds=4 * HOUR)


def _row(attempt: int) -> Leased:
    return Leased(uuid7(), 0, attempt, 1, UUID(int=1), 1, "a@b.test", False, datetime.now(UTC))


def test_attempts_by_class_are_those_that_fall_into_the_lifetime() -> None:
    assert RETRIES.attempts(TRANSACTIONAL) == len(SCHEDULE) + 1
    attempts = RETRIES.attempts(BROADCAST)
    assert sum(SCHEDULE[: attempts - 1]) <= 48 * HOUR < sum(SCHEDULE[:attempts])


def test_a_schedule_shorter_than_the_lifetime_decides() -> None:
    retries = Retries([1.0, 2.0], {BROADCAST: 48 * HOUR}, notice_seconds=0)
    assert retries.attempts(BROADCAST) == retries.attempts(TRANSACTIONAL) == 3
    assert Retries([], {}, notice_seconds=0).attempts(TRANSACTIONAL) == 1


def test_a_mail_that_waited_longer_than_it_lives_has_had_its_last_attempt() -> None:
    now = 1_000_000_000.0
    tried = RETRIES.attempt(_row(2), LATER, "mx:x", BROADCAST, now - 60 * HOUR, now)
    assert tried.attempts == 2
    young = RETRIES.attempt(_row(2), LATER, "mx:x", BROADCAST, now - HOUR, now)
    assert young.attempts == RETRIES.attempts(BROADCAST)


def test_a_delay_is_told_when_it_has_lasted() -> None:
    now = 1_000_000_000.0
    assert not RETRIES.attempt(_row(1), LATER, None, TRANSACTIONAL, now - 3.9 * HOUR, now).notice
    assert RETRIES.attempt(_row(1), LATER, None, TRANSACTIONAL, now - 4 * HOUR, now).notice
    assert not RETRIES.attempt(_row(1), LATER, None, TRANSACTIONAL, None, now).notice
    at_once = Retries(SCHEDULE, {}, notice_seconds=0)
    assert at_once.attempt(_row(1), LATER, None, TRANSACTIONAL, now, now).notice
    assert at_once.attempt(_row(1), LATER, None, TRANSACTIONAL, None, now).notice
