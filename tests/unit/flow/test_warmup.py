"""The decisions of a warm-up, day by day: pure functions of what was counted."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import pytest

from mailcore.flow.warmup import (
    MAX_PAUSES,
    decide,
    explain,
    pace,
    room_of,
    signal,
)
from mailcore.kit.settings import WarmUp
from mailcore.smtp.outcome import Line, Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store.sources import KnownWarmup
from mailcore.store.warmups import Day, Decision, Warmup

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
TODAY = NOON.date()
YESTERDAY = TODAY - timedelta(days=1)


def _warmup(**changes: object) -> Warmup:
    new = Warmup(uuid4(), uuid4(), None, "warming", [50, 100, 200], 0, TODAY, 0, None, None, "")
    return replace(new, **changes)  # type: ignore[arg-type]


def _day(day: date = TODAY, cap: int | None = 50, **counts: object) -> Day:
    return replace(Day(day, cap, 0, 0, 0, 0, 0, 0, 0, None, {}), **counts)  # type: ignore[arg-type]


def _decided(*args: object) -> Decision:
    found = decide(*args)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_the_first_day_begins_with_the_first_cap() -> None:
    first = _decided(_warmup(day=None), None, None, NOON)
    assert (first.what, first.state, first.step, first.cap, first.day) == (None, "warming", 0, 50, TODAY)


def test_a_day_that_was_used_makes_the_next_one_larger() -> None:
    last = _day(YESTERDAY, attempts=25, delivered=25)
    grown = _decided(_warmup(day=YESTERDAY), last, None, NOON)
    assert (grown.what, grown.step, grown.cap) == ("grew", 1, 100)


def test_a_day_that_was_not_used_does_not() -> None:
    held = _decided(_warmup(day=YESTERDAY, step=1), _day(YESTERDAY, 100, attempts=49, delivered=49), None, NOON)
    assert (held.what, held.step, held.cap) == ("held", 1, 100)
    assert "49 of 100" in held.why


def test_after_the_last_step_it_is_warm() -> None:
    last = _day(YESTERDAY, 200, attempts=200, delivered=198)
    warm = _decided(_warmup(day=YESTERDAY, step=2), last, None, NOON)
    assert (warm.what, warm.state, warm.cap) == ("warm", "warm", None)
    after = _decided(_warmup(day=YESTERDAY, state="warm"), _day(YESTERDAY, None, attempts=10**6), None, NOON)
    assert (after.what, after.state, after.cap) == (None, "warm", None)


def test_half_of_a_bad_sign_holds_the_cap() -> None:
    last = _day(YESTERDAY, 200, attempts=200, delivered=190, blocked=2)
    held = _decided(_warmup(day=YESTERDAY, step=2), last, None, NOON)
    assert (held.what, held.state, held.cap) == ("held", "warming", 200)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"attempts": 100, "delivered": 97, "blocked": 3}, "because of who sends"),
        ({"attempts": 100, "delivered": 70, "deferred": 30}, "put off"),
        ({"attempts": 100, "delivered": 90, "bounced": 10}, "do not exist"),
        ({"attempts": 800, "delivered": 800, "complaints": 2}, "complained"),
    ],
)
def test_bad_signs_pause(counts: dict[str, int], words: str) -> None:
    paused = _decided(_warmup(), _day(**counts), None, NOON)  # type: ignore[arg-type]
    assert (paused.what, paused.state, paused.paused_until) == ("paused", "paused", NOON + timedelta(hours=24))
    assert words in paused.why


@pytest.mark.parametrize(
    "counts",
    [
        {"attempts": 200, "delivered": 197, "blocked": 3},  # 1.5 %
        {"attempts": 20, "delivered": 18, "blocked": 2},  # two are chance
        {"attempts": 100, "delivered": 71, "deferred": 29},
        {"attempts": 1000, "delivered": 1000, "complaints": 2},
        {"attempts": 10, "delivered": 9, "complaints": 1},
    ],
)
def test_a_few_bad_signs_do_not(counts: dict[str, int]) -> None:
    assert decide(_warmup(), _day(**counts), None, NOON) is None  # type: ignore[arg-type]


def test_who_complains_in_the_morning_got_the_mail_yesterday() -> None:
    morning = _day(attempts=5, delivered=5, complaints=2)
    assert decide(_warmup(), morning, _day(YESTERDAY, attempts=1000, delivered=1000), NOON) is None
    assert _decided(_warmup(), morning, _day(YESTERDAY, attempts=100, delivered=100), NOON).what == "paused"


def test_a_pause_ends_one_step_lower_and_what_was_counted_is_forgiven() -> None:
    paused = _warmup(state="paused", step=2, paused_at=NOON - timedelta(hours=24), paused_until=NOON, pauses=1)
    assert decide(paused, _day(), None, NOON - timedelta(seconds=1)) is None
    back = _decided(paused, _day(attempts=100, blocked=50), None, NOON)
    assert (back.what, back.state, back.step, back.cap, back.excuse) == ("resumed", "warming", 1, 100, True)
    forgiven = _day(attempts=100, blocked=50, excused={"attempts": 100, "blocked": 50})
    assert decide(_warmup(), forgiven, None, NOON) is None
    again = _day(attempts=110, blocked=53, excused={"attempts": 100, "blocked": 50})
    assert _decided(_warmup(), again, None, NOON).what == "paused"


def test_each_pause_is_longer_until_only_the_operator_ends_it() -> None:
    bad = _day(attempts=10, blocked=9)
    ends = [_decided(_warmup(pauses=n), bad, None, NOON).paused_until for n in range(MAX_PAUSES + 1)]
    assert ends == [NOON + timedelta(hours=24), NOON + 2 * timedelta(hours=24), NOON + 4 * timedelta(hours=24), None]
    stays = _warmup(state="paused", paused_at=NOON, paused_until=None, day=YESTERDAY)
    assert _decided(stays, None, None, NOON).state == "paused"
    assert decide(replace(stays, day=TODAY), None, None, NOON) is None
    assert _decided(_warmup(day=YESTERDAY, pauses=2), _day(YESTERDAY, attempts=50), None, NOON).pauses == 0


def test_broadcasts_have_a_part_of_the_day_from_its_beginning() -> None:
    midnight = NOON.replace(hour=0)
    assert pace(midnight) == pytest.approx(4 / 24)
    assert pace(NOON) == pytest.approx(16 / 24)
    assert pace(midnight.replace(hour=20)) == 1.0
    known = KnownWarmup(uuid4(), "warming", True, 240, 30)
    assert room_of(known, midnight) == (210, 10)
    assert room_of(replace(known, state="paused"), midnight) == (0, 0)
    assert room_of(replace(known, begun=False, cap=None, leased=0), midnight) == (0, 0)
    assert room_of(replace(known, state="warm", cap=None), midnight)[0] > 1000


SAID_MAIL = (Line(0.0, said="MAIL FROM:<a@b.example>"),)


@pytest.mark.parametrize(
    ("outcome", "means"),
    [
        (Outcome(Result.DELIVERED, Reply(250, "ok")), "delivered"),
        (Outcome(Result.BOUNCED, Reply(550, "user unknown", "5.1.1")), "bounced"),
        (Outcome(Result.BOUNCED, Reply(554, "192.0.2.1 listed at Spamhaus", "5.7.1")), "blocked"),
        (Outcome(Result.BOUNCED, Reply(550, "5.1.1 blocked using zen.spamhaus.org", "5.1.1")), "blocked"),
        (
            Outcome(Result.DEFERRED, Reply(554, "your IP is on a blocklist"), rule="greeting-refused"),
            "blocked",
        ),
        (Outcome(Result.DEFERRED, Reply(421, "too many messages, slow down", "4.7.0")), "deferred"),
        (Outcome(Result.DEFERRED, Reply(450, "Greylisted, try again", "4.2.0")), None),
        (Outcome(Result.DEFERRED, Reply(452, "mailbox full", "4.2.2")), None),
        (Outcome(Result.DEFERRED, Reply(451, "no connection", "4.4.1"), rule="connect-failed"), None),
        (Outcome(Result.BOUNCED, Reply(552, "message too large", "5.3.4")), None),
        (Outcome(Result.FAILED, Reply(554, "the domain has been removed", "5.7.1"), rule="domain-deleted"), None),
    ],
)
def test_what_an_outcome_says_of_us(outcome: Outcome, means: str | None) -> None:
    assert signal(outcome) == signal(outcome, of_domain=True) == means


@pytest.mark.parametrize(
    ("outcome", "means"),
    [
        (Outcome(Result.BOUNCED, Reply(554, "Sender address blocked using dbl.spamhaus.org", "5.7.1")), "blocked"),
        (Outcome(Result.DEFERRED, Reply(421, "the domain has a low reputation: later", "4.7.0")), "deferred"),
    ],
)
def test_what_is_said_of_a_domain_says_nothing_of_the_address(outcome: Outcome, means: str) -> None:
    assert signal(outcome, of_domain=True) == means
    assert signal(outcome) is None


def test_the_operator_reads_what_comes_next() -> None:
    said = explain(_warmup(step=1), _day(cap=100, attempts=20), NOON)
    assert (
        said
        == "Step 2 of 3: at most 100 mails today, 20 left so far. When 50 have left, tomorrow the cap is 200; else it stays."
    )
    assert "there is no cap" in explain(_warmup(step=2), _day(cap=200, attempts=150), NOON)
    paused = _warmup(state="paused", step=1, paused_until=NOON, why="3 of 50 attempts were refused.")
    assert explain(paused, None, NOON).startswith("Paused until 2026-03-10 12:00 UTC: 3 of 50")


def test_the_schedule_grows_without_leaps() -> None:
    assert list(WarmUp().schedule) == sorted(set(WarmUp().schedule))
    assert all(after <= 2 * before for before, after in itertools.pairwise(WarmUp().schedule))


def test_the_operator_sets_the_limits() -> None:
    patient = WarmUp(used_share=0.9, deferred_limit=0.8, pause_hours=6)
    half = _day(YESTERDAY, attempts=30, delivered=30)
    assert _decided(_warmup(day=YESTERDAY), half, None, NOON).what == "grew"
    held = _decided(_warmup(day=YESTERDAY), half, None, NOON, patient)
    assert held.what == "held" and "45 must for the next step" in held.why
    slow = _day(attempts=40, delivered=20, deferred=20)
    assert _decided(_warmup(), slow, None, NOON).what == "paused"
    assert decide(_warmup(), slow, None, NOON, patient) is None
    worse = _decided(_warmup(), _day(attempts=40, deferred=40), None, NOON, patient)
    assert worse.paused_until == NOON + timedelta(hours=6)
    assert "When 45 have left" in explain(_warmup(), _day(attempts=1, delivered=1), NOON, patient)
