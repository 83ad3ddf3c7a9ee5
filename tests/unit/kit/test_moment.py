from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from mailcore.kit.errors import Invalid
from mailcore.kit.moment import MAX_TEXT, duration, moment

NOW = datetime(2026, 8, 5, 10, 30, tzinfo=UTC)
"""A Wednesday."""


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-08-05T11:52:01.858Z", "2026-08-05 11:52:01.858"),
        ("2026-08-05T11:52:01+02:00", "2026-08-05 09:52:01"),
        ("2026-08-06", "2026-08-06 00:00"),
        ("2026-08-06 15:00", "2026-08-06 15:00"),
        ("2026-08-06T15:00 Europe/Berlin", "2026-08-06 13:00"),
        ("2026-08-06 at 3pm ET", "2026-08-06 19:00"),
        ("now", "2026-08-05 10:30"),
        ("in 1 min", "2026-08-05 10:31"),
        ("In 2 hours", "2026-08-05 12:30"),
        ("in an hour", "2026-08-05 11:30"),
        ("in half an hour", "2026-08-05 11:00"),
        ("in 1 hour and 30 minutes", "2026-08-05 12:00"),
        ("in 1h 30m", "2026-08-05 12:00"),
        ("in 1.5 hours", "2026-08-05 12:00"),
        ("two days from now", "2026-08-07 10:30"),
        ("in 3 days at 9am", "2026-08-08 09:00"),
        ("in one week at 14:00 PT", "2026-08-12 21:00"),
        ("tomorrow at 9am", "2026-08-06 09:00"),
        ("9am tomorrow", "2026-08-06 09:00"),
        ("tomorrow 9:15 PM EST", "2026-08-07 02:15"),
        ("tomorrow at noon", "2026-08-06 12:00"),
        ("tomorrow at 12am", "2026-08-06 00:00"),
        ("tomorrow at 12:30pm", "2026-08-06 12:30"),
        ("tomorrow at 9 a.m.", "2026-08-06 09:00"),
        ("today at 23:59:59", "2026-08-05 23:59:59"),
        # 23:00 in Auckland is 11:00 UTC of the same day, and there it is Wednesday still
        ("today at 23:00 Pacific/Auckland", "2026-08-05 11:00"),
        ("Friday at 3pm ET", "2026-08-07 19:00"),
        ("on friday at 3pm utc-5", "2026-08-07 20:00"),
        ("Wednesday at 11am", "2026-08-05 11:00"),
        ("Wednesday at 10am", "2026-08-12 10:00"),
        ("next monday 10:30", "2026-08-10 10:30"),
        ("next wednesday at 9am", "2026-08-12 09:00"),
        ("this friday at 9am", "2026-08-07 09:00"),
        ("Aug 5 at 3pm", "2026-08-05 15:00"),
        ("August 6th at 3pm CEST", "2026-08-06 13:00"),
        ("the 6th of August at 15:00+05:30", "2026-08-06 09:30"),
        ("Fri, Aug 7, 2026 at 8am america/new_york", "2026-08-07 12:00"),
        ("Fri, 07 Aug 2026 11:52:01 +0000", "2026-08-07 11:52:01"),
        ("Jan 5 at 8am", "2027-01-05 08:00"),
        ("Nov 1 at 1:30am -04:00", "2026-11-01 05:30"),
    ],
)
def test_it_reads(text: str, utc: str) -> None:
    assert moment(text, NOW) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "ISO 8601"),
        ("soon", "ISO 8601"),
        ("in 5", "ISO 8601"),
        ("in a while", "ISO 8601"),
        ("in 1 month", "Months"),
        ("in 2 hours at 9am", "ISO 8601"),
        ("in 3 days tomorrow at 9am", "ISO 8601"),
        ("tomorrow", "no time"),
        ("friday", "no time"),
        ("9am", "no day"),
        ("at 9 tomorrow", "several ways"),
        ("tomorrow at 9", "several ways"),
        ("5 at 9am", "several ways"),
        ("8/5 at 9am", "two dates"),
        ("05.08.2026 9:00", "two dates"),
        ("tonight", "no exact time"),
        ("tomorrow morning", "no exact time"),
        ("tomorrow at midnight", "no exact time"),
        ("next friday at 9am", "can be two days"),
        ("this monday at 9am", "can be two days"),
        ("tomorrow friday at 9am", "each once"),
        ("tomorrow at 9am 10am", "each once"),
        ("tomorrow at 9am UTC ET", "each once"),
        ("friday aug 6 at 9am", "is a Thursday"),
        ("feb 30 at 9am", "no such day"),
        ("tomorrow at 25:00", "no such time"),
        ("tomorrow at 13pm", "1 to 12"),
        ("tomorrow at 9am IST", "Asia/Kolkata"),
        ("tomorrow at 9am BST", "Europe/London"),
        ("tomorrow at 9am +25:00", "no such offset"),
        ("tomorrow at 9am Mars/Base", "ISO 8601"),
        ("tomorrow at 9am ../../etc/passwd", "ISO 8601"),
        ("today at 9am", "has passed"),
        ("Nov 1 at 1:30am ET", "comes twice"),
        ("Mar 14 at 2:30am ET", "does not exist"),
        ("in 999999999 weeks", "too far"),
        ("in 999999999 weeks at 9am", "too far"),
        ("tomorrow at 9am\0", "ISO 8601"),
        ("demain à 9h", "ISO 8601"),
        ("x" * (MAX_TEXT + 1), "too long"),
    ],
)
def test_what_is_not_clear_is_refused(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        moment(text, NOW)


def test_on_a_saturday_next_friday_is_one_day_and_this_friday_two() -> None:
    saturday = NOW + timedelta(days=3)
    assert moment("next friday at 9am", saturday) == datetime(2026, 8, 14, 9, tzinfo=UTC)
    with pytest.raises(Invalid, match="two days"):
        moment("this friday at 9am", saturday)


def test_the_day_is_that_of_the_zone() -> None:
    # 03:00 UTC on Thursday is Wednesday evening in New York
    late = datetime(2026, 8, 6, 3, tzinfo=UTC)
    assert moment("tomorrow at 9am ET", late) == datetime(2026, 8, 6, 13, tzinfo=UTC)
    assert moment("tomorrow at 9am", late) == datetime(2026, 8, 7, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("2 hours", 7200), ("1 day", 86_400), ("1 hour and 30 min", 5400), ("90s", 90), ("an hour", 3600)],
)
def test_durations(text: str, seconds: int) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "soon", "-5 minutes", "2 hours later", "1 month", "9" * 60 + "d"])
def test_no_durations(text: str) -> None:
    with pytest.raises(Invalid):
        duration(text)


@pytest.mark.parametrize(
    "text", ["in " + "1 " * 48, "9" * 100, "a " * 50, "9am" * 33, "in " + "and " * 24, "aug " * 25]
)
def test_nonsense_costs_little(text: str) -> None:
    began = time.process_time()
    for _ in range(20):
        with pytest.raises(Invalid):
            moment(text, NOW)
    assert time.process_time() - began < 1
