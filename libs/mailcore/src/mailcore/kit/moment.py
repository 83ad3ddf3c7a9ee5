"""A moment as people write it: ISO 8601, or English (`in 2 hours`, `tomorrow at 9am`, `Friday at 3pm ET`, `Aug 5 at 3pm`).

Read, never guessed (ADR 0007): text that can mean two moments is refused with what to write instead. Words come in any order, each
kind once: a day, a time of day, a zone; or an amount of time from now. Linear in the length of the text, which is limited.

    moment("Friday at 3pm ET", now)   the next time that it is Friday, 15:00 in New York
    duration("1 hour 30 min")         an amount of time
"""

from __future__ import annotations

import re
from calendar import day_name, month_abbr, month_name
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from mailcore.kit.errors import Invalid

MAX_TEXT = 100

_UNITS: Final = {
    name: seconds
    for seconds, names in {
        1: "s sec secs second seconds",
        60: "m min mins minute minutes",
        3600: "h hr hrs hour hours",
        86_400: "d day days",
        604_800: "w wk wks week weeks",
    }.items()
    for name in names.split()
}
_COUNTED: Final = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBERS: Final = {word: n for n, word in enumerate(_COUNTED.split())} | {
    "a": 1,
    "an": 1,
    "fifteen": 15,
    "twenty": 20,
    "thirty": 30,
}
_DAYS: Final = "mon|tue tues|wed weds|thu thur thurs|fri|sat|sun"
_WEEKDAYS: Final = {name: n for n, names in enumerate(_DAYS.split("|")) for name in names.split()} | {
    day.lower(): n for n, day in enumerate(day_name)
}
_MONTHS: Final = {name.lower(): n for names in (month_name, month_abbr) for n, name in enumerate(names) if n} | {
    "sept": 9
}
# RFC 5322 §4.3 gives the eight of North America their offsets; the others have one meaning each
_OFFSETS: Final = {"utc": 0, "gmt": 0, "z": 0, "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6} | {
    **{"pst": -8, "pdt": -7, "akst": -9, "akdt": -8, "hst": -10, "wet": 0, "west": 1, "cet": 1, "cest": 2, "eet": 2},
    **{"eest": 3, "msk": 3, "jst": 9, "kst": 9, "hkt": 8, "sgt": 8, "aest": 10, "aedt": 11, "nzst": 12, "nzdt": 13},
}
_PLACES: Final = {
    **{"et": "America/New_York", "ct": "America/Chicago", "mt": "America/Denver", "pt": "America/Los_Angeles"},
}
_SEVERAL: Final = {
    **{"ist": "Asia/Kolkata", "bst": "Europe/London", "ast": "America/Halifax", "sst": "Pacific/Pago_Pago"},
    **{"gst": "Asia/Dubai", "pkt": "Asia/Karachi"},
}

_AMOUNT = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([a-z]*)\Z")
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2})(?::(\d{2})(?:\.\d{1,9})?)?)?(am|pm|a\.m\.?|p\.m\.?)?\Z")
_ISO_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})\Z")
_NUMERIC_DATE = re.compile(r"\d{1,4}[/.]\d{1,2}(?:[/.]\d{1,4})?\Z|\d{1,2}-\d{1,2}(?:-\d{2,4})?\Z")
_DAY_NUMBER = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?\Z")
_YEAR = re.compile(r"\d{4}\Z")
_OFFSET = re.compile(r"(?:utc|gmt)?([+-])(\d{1,2})(?::?(\d{2}))?\Z")
_GLUED = re.compile(r"(?<=\d)t(?=\d\d:)|(?<=:\d\d)(?=[z+-])|(?<=\d[ap]m)(?=[+-])")
"""Where ISO 8601 needs no space."""
_HALVES: Final = {"am": 0, "pm": 12}


def moment(text: str, now: datetime) -> datetime:
    """In UTC; one in ISO 8601 may have passed. Text without a zone is UTC. Raises Invalid with what to write instead."""
    if len(text) > MAX_TEXT:
        raise Invalid("It is too long.")
    now = now.astimezone(UTC)
    iso = _iso(text)
    if iso is not None:
        return iso
    words = _GLUED.sub(" ", text.lower().replace(",", " ")).split()
    if words[:1] == ["in"] or words[-2:] == ["from", "now"]:
        return _from_now(words[1:] if words[0] == "in" else words[:-2], now)
    if words == ["now"]:
        return now
    found = _Said.read(words).moment(now)
    if found < now:
        raise Invalid("That moment has passed.")
    return found


def duration(text: str) -> timedelta:
    """`10m`, `2 hours`, `1 day`, `1 hour and 30 minutes`. Raises Invalid."""
    if len(text) > MAX_TEXT:
        raise Invalid("It is too long.")
    found, rest, _ = _amounts(text.lower().replace(",", " ").split())
    if found is None or rest:
        raise Invalid("Write an amount of time such as `10m`, `2 hours` or `1 day`.")
    return found


def _iso(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text.strip())
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# ---- an amount of time from now --------------------------------------------------------------------------------------


def _from_now(words: list[str], now: datetime) -> datetime:
    amount, rest, whole_days = _amounts(words)
    if amount is None:
        raise _unread()
    try:
        if not rest:
            return now + amount
        if not whole_days:  # `in 2 hours at 9am` says two things
            raise _unread()
        said = _Said.read(rest)
        if said.has_day:
            raise _unread()
        said.ahead = amount.days
        return said.moment(now)
    except OverflowError:
        raise Invalid("It is too far ahead.") from None


def _amounts(words: list[str]) -> tuple[timedelta | None, list[str], bool]:
    """`(sum, words that follow, whether it is whole days and weeks)`."""
    seconds, place, whole_days, found = 0.0, 0, True, False
    while place < len(words):
        at = place + (words[place] == "and" and found)
        if words[at : at + 3] == ["half", "an", "hour"]:
            n, unit, after = 0.5, 3600, at + 3
        else:
            read = _amount(words, at)
            if read is None:
                break
            n, unit, after = read
        seconds += n * unit
        whole_days = whole_days and unit >= 86_400 and n == int(n)
        place, found = after, True
    try:
        return (timedelta(seconds=seconds) if found else None), words[place:], whole_days
    except OverflowError:
        raise Invalid("It is too far ahead.") from None


def _amount(words: list[str], at: int) -> tuple[float, int, int] | None:
    """`(number, seconds of the unit, place of the next word)`."""
    word = words[at] if at < len(words) else ""
    if (match := _AMOUNT.match(word)) is not None:
        number, unit, after = float(match[1]), match[2], at + 1
    elif word in _NUMBERS:
        number, unit, after = float(_NUMBERS[word]), "", at + 1
    else:
        return None
    if not unit:
        unit, after = words[after] if after < len(words) else "", after + 1
    if unit in ("month", "months", "mo", "year", "years"):
        raise Invalid("Months and years differ in length. Write days or weeks.")
    return (number, _UNITS[unit], after) if unit in _UNITS else None


# ---- a day, a time of day, a zone ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Said:
    """What the words say, each at most once."""

    at: time | None = None
    zone: tzinfo | None = None
    ahead: int | None = None
    """Days from today: today, tomorrow, `in 3 days`."""
    weekday: int | None = None
    which: str | None = None
    """`this` or `next`, of a weekday."""
    day: int | None = None
    month: int | None = None
    year: int | None = None

    @classmethod
    def read(cls, words: list[str]) -> _Said:
        said = cls()
        place = 0
        while place < len(words):
            place += said._take(words, place)
        return said

    @property
    def has_day(self) -> bool:
        return not (self.ahead is None and self.weekday is None and self.day is None and self.month is None)

    def _take(self, words: list[str], place: int) -> int:
        """How many words it read at `place`. Raises Invalid."""
        word = words[place]
        following = words[place + 1] if place + 1 < len(words) else ""
        if word in ("on", "the", "of", "at", "@") and following:
            pass
        elif word in ("midnight", "tonight", "morning", "afternoon", "evening"):
            raise Invalid(f"`{word}` is no exact time. Write a day and a time such as `today at 20:00`.")
        elif (zone := _zone(word)) is not None:
            self._once("zone", zone)
        elif self._take_day(word, following):
            pass
        elif (clock := _CLOCK.match(word)) is not None:
            return self._take_clock(clock, words, place, following.replace(".", ""))
        elif (number := _DAY_NUMBER.match(word)) is not None and self._near_a_month(words, place):
            self._once("day", int(number[1]))
        elif word.isdigit():
            raise _several_ways(word)
        else:
            raise _unread()
        return 1

    def _take_day(self, word: str, following: str) -> bool:
        if word in ("today", "tomorrow"):
            self._once("ahead", ("today", "tomorrow").index(word))
        elif word in ("this", "next") and following in _WEEKDAYS:
            self._once("which", word)
        elif word in _WEEKDAYS:
            self._once("weekday", _WEEKDAYS[word])
        elif word in _MONTHS:
            self._once("month", _MONTHS[word])
        elif word in ("noon", "midday"):
            self._once("at", time(12))
        elif (iso := _ISO_DATE.match(word)) is not None:
            for name, part in zip(("year", "month", "day"), iso.groups(), strict=True):
                self._once(name, int(part))
        elif _NUMERIC_DATE.match(word):
            raise Invalid(f"`{word}` can be two dates. Write it as 2026-08-05 or Aug 5.")
        elif _YEAR.match(word) and self.month is not None:
            self._once("year", int(word))
        else:
            return False
        return True

    def _take_clock(self, clock: re.Match[str], words: list[str], place: int, following: str) -> int:
        half = (clock[4] or "").replace(".", "")
        if not half and following in _HALVES:
            self._once("at", _time(clock, following))
            return 2
        if half or clock[2]:
            self._once("at", _time(clock, half))
        elif self._near_a_month(words, place):
            self._once("day", int(clock[1]))
        else:
            raise _several_ways(clock[0])
        return 1

    def _near_a_month(self, words: list[str], place: int) -> bool:
        around = words[max(0, place - 1) : place] + [word for word in words[place + 1 : place + 3] if word != "of"][:1]
        return any(word in _MONTHS for word in around)

    def _once(self, name: str, value: object) -> None:
        if getattr(self, name) is not None:
            raise Invalid("It names two days, times or zones. Write each once.")
        setattr(self, name, value)

    def moment(self, now: datetime) -> datetime:
        """Raises Invalid."""
        if not self.has_day and self.at is None:
            raise _unread()
        if not self.has_day:
            raise Invalid("It names no day. Write `today` or `tomorrow`, a weekday or a date as well.")
        if self.at is None:
            raise Invalid("It names no time. Write one such as `9am` or `09:00` as well.")
        if (self.ahead is not None) + (self.weekday is not None or self.month is not None) > 1:
            raise Invalid("It names two days, times or zones. Write each once.")
        zone = self.zone or UTC
        local = now.astimezone(zone)
        try:
            return _in_utc(self._date(local), self.at, zone)
        except (ValueError, OverflowError):
            raise Invalid("There is no such day.") from None

    def _date(self, local: datetime) -> date:
        """The day meant by who says it at `local`."""
        today = local.date()
        if self.ahead is not None:
            return today + timedelta(days=self.ahead)
        if self.month is not None or self.day is not None:
            return self._of_calendar(local)
        assert self.weekday is not None and self.at is not None
        away = (self.weekday - today.weekday()) % 7
        this_week = today + timedelta(days=self.weekday - today.weekday())
        if self.which is None:  # the next time that it is that day and time
            passed = away == 0 and self.at <= local.time()
            return today + timedelta(days=7 if passed else away)
        # people differ: the coming one, or the one of this (the following) week. Where both are one day it is clear
        coming = today + timedelta(days=away if self.which == "this" else away or 7)
        of_week = this_week if self.which == "this" else this_week + timedelta(days=7)
        if coming != of_week:
            name = f"{coming:%A}".lower()
            raise Invalid(f"`{self.which} {name}` can be two days. Write `{name}` or the date, such as {coming}.")
        return coming

    def _of_calendar(self, local: datetime) -> date:
        if self.month is None or self.day is None:
            raise Invalid("A date needs a month and a day, such as `Aug 5`.")
        if self.which is not None:
            raise _unread()
        found = date(self.year or local.year, self.month, self.day)
        if self.year is None and found < local.date():
            found = date(local.year + 1, self.month, self.day)
        if self.weekday is not None and found.weekday() != self.weekday:
            raise Invalid(f"{found} is a {found:%A}. Write the date or the weekday.")
        return found


def _time(clock: re.Match[str], half: str) -> time:
    hour, minute, second = int(clock[1]), int(clock[2] or 0), int(clock[3] or 0)
    if half:
        if not 1 <= hour <= 12:
            raise Invalid("With am or pm the hour is 1 to 12.")
        hour = hour % 12 + _HALVES[half]
    try:
        return time(hour, minute, second)
    except ValueError:
        raise Invalid("There is no such time of day.") from None


def _in_utc(day: date, at: time, zone: tzinfo) -> datetime:
    """Raises Invalid where clocks are set back or forward: a time that comes twice, or never."""
    first, second = (datetime.combine(day, at, zone).replace(fold=fold) for fold in (0, 1))
    found = first.astimezone(UTC)
    if first.utcoffset() != second.utcoffset():
        if found.astimezone(zone).replace(tzinfo=None) != first.replace(tzinfo=None):
            raise Invalid("Clocks are set forward then: that time does not exist in this zone.")
        raise Invalid("Clocks are set back then: that time comes twice in this zone. Write an offset such as -04:00.")
    return found


def _zone(word: str) -> tzinfo | None:
    if word in _OFFSETS:
        return timezone(timedelta(hours=_OFFSETS[word]))
    if word in _PLACES:
        return ZoneInfo(_PLACES[word])
    if word in _SEVERAL:
        raise Invalid(
            f"`{word.upper()}` is not clear everywhere. Write a place such as {_SEVERAL[word]}, or an offset."
        )
    offset = _OFFSET.match(word)
    if offset is not None:
        hours, minutes = int(offset[2]), int(offset[3] or 0)
        if hours > 14 or minutes > 59:
            raise Invalid("There is no such offset.")
        east = timedelta(hours=hours, minutes=minutes)
        return timezone(east if offset[1] == "+" else -east)
    return place(word)


def place(name: str) -> ZoneInfo | None:
    """An IANA zone by its name in any case; None: there is none."""
    known = _places().get(name.lower())
    return None if known is None else ZoneInfo(known)


@cache
def _places() -> dict[str, str]:
    return {name.lower(): name for name in available_timezones() if "/" in name or name == "UTC"}


def _several_ways(word: str) -> Invalid:
    return Invalid(f"`{word}` can be read in several ways. Write a time as `9am` or `09:00`, and a day as `Aug 5`.")


def _unread() -> Invalid:
    return Invalid(
        "Write an ISO 8601 date and time such as 2026-08-05T11:52:01Z, or English such as `in 2 hours`, `tomorrow at 9am`, "
        "`Friday at 3pm ET` or `Aug 5 at 15:00 Europe/Berlin`."
    )
