"""What several scanners say, as one verdict for the next server (B-40 to B-44)."""

from __future__ import annotations

import pytest

from mailcore.flow.marking import Marks, marks_from, unmarked, verdict_of
from mailcore.flow.scan_policy import Policy
from mailcore.scanners.base import Finding, Kind, Verdict


def spamd(score: float | None, verdict: Verdict = Verdict.CLEAN, reason: str = "") -> Finding:
    return Finding("spamd", verdict, score, reason=reason, kind=Kind.SPAM)


def ai(verdict: Verdict, score: float | None = None, reason: str = "") -> Finding:
    return Finding("ai", verdict, score, reason=reason, kind=Kind.OPINION)


CLAMD = Finding("clamd", Verdict.CLEAN, kind=Kind.MALWARE)
CASES = {
    "clean": ([spamd(1.5), CLAMD], ("clean", "not_spam", 1.5, None, False)),
    "by points": ([spamd(15.3), CLAMD], ("spam", "spam_score", 15.3, None, False)),
    "gtube": ([spamd(1000, Verdict.SPAM, "gtube")], ("spam", "gtube", 1000.0, None, False)),
    "unsure": ([spamd(7.0)], ("unsure", "not_spam", 7.0, None, False)),
    "confirmed": ([spamd(7.0), ai(Verdict.SPAM, 8, "phishing")], ("spam", "phishing", 7.0, 8, True)),
    "not confirmed": ([spamd(7.0), ai(Verdict.CLEAN, 1, "not_spam")], ("unsure", "not_spam", 7.0, 1, False)),
    "no opinion": ([spamd(7.0), ai(Verdict.UNAVAILABLE)], ("unsure", "not_spam", 7.0, None, False)),
    "opinion alone": (
        [spamd(None, Verdict.UNAVAILABLE), ai(Verdict.SPAM, 9, "scam")],
        ("spam", "scam", None, 9, True),
    ),
    "listed": (
        [Finding("spamhaus", Verdict.LISTED, reason="spamhaus", kind=Kind.SENDER), spamd(0.0)],
        ("listed", "spamhaus", 0.0, None, False),
    ),
    "infected": (
        [spamd(15.0), Finding("clamd", Verdict.INFECTED, kind=Kind.MALWARE)],
        ("infected", "malware", 15.0, None, False),
    ),
    "nobody": ([spamd(None, Verdict.UNAVAILABLE)], ("unavailable", "not_spam", None, None, False)),
    "too large": ([spamd(None, Verdict.SKIPPED)], ("skipped", "not_spam", None, None, False)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_worst_of_it_counts_and_says_why(case: str) -> None:
    findings, (what, reason, score, probability, confirmed) = CASES[case]
    told = verdict_of(findings, Policy())
    assert (told.what, told.reason, told.score, told.probability, told.confirmed) == (
        what,
        reason,
        score,
        probability,
        confirmed,
    )


def test_a_domain_says_from_how_many_points() -> None:
    assert verdict_of([spamd(7.0)], Policy(spam_score=6)).what == "spam"
    assert verdict_of([spamd(7.0)], Policy(unsure_score=8)).what == "clean"


def test_who_was_away_is_not_named() -> None:
    assert verdict_of([spamd(None, Verdict.UNAVAILABLE), CLAMD], Policy()).scanners == ("clamd",)


def test_marks_are_told_and_read_again() -> None:
    marks = Marks("X-Postroom-Verdict: spam\r\n", "[SPAM]", others=True)
    assert marks_from(marks.as_json()) == marks
    assert marks_from(None) == Marks()


def test_without_anything_to_do_the_mail_is_the_same_object() -> None:
    raw = b"Subject: a\r\nX-Spam-Flag: NO\r\n\r\n"
    assert unmarked(raw, Marks()) is raw
    assert unmarked(raw, Marks("", "[SPAM]", others=True)) == b"Subject: [SPAM] a\r\n\r\n"
