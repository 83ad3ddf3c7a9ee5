"""What an outcome says of the site, and what of the mail."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mailcore.smtp.outcome import Line, Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.transport import TlsPolicy
from outbound.rest import is_cut_off, is_down, is_turned_away, of_site

CLOSING = Reply(421, "later", "4.7.0")
OPENING = (Line(1, None, "220 hi"), Line(1, "EHLO us"), Line(1, None, "250 hi"))
MAIL, RCPT, DATA = Line(2, "MAIL FROM:<a@b.test>"), Line(2, "RCPT TO:<c@d.test>"), Line(2, "DATA")


def _heard(*texts: str) -> tuple[Line, ...]:
    return tuple(Line(3, None, text) for text in texts)


@pytest.mark.parametrize(
    ("lines", "turned_away", "down"),
    [
        (_heard("421 later"), True, True),
        ((), True, True),
        ((*OPENING, MAIL, RCPT, DATA, *_heard("421 4.7.0 later")), True, False),
        ((*OPENING, MAIL, RCPT, DATA, *_heard("421-4.7.0 later", "421 4.7.0 much")), True, False),
        ((*OPENING, MAIL, *_heard("421 4.7.0 later")), True, False),
        ((*OPENING, MAIL, RCPT, DATA, *_heard("250 ok", "421 4.7.0 later")), False, False),
        ((MAIL, *_heard("250 ok"), RCPT, *_heard("421 4.7.0 later")), False, False),
    ],
)
def test_a_421_is_about_the_connection_until_the_recipient_was_answered(
    lines: Sequence[Line], turned_away: bool, down: bool
) -> None:
    outcome = Outcome(Result.DEFERRED, CLOSING, rule="closing", conversation=tuple(lines))
    assert (is_turned_away(outcome), is_down(outcome, TlsPolicy.OPPORTUNISTIC)) == (turned_away, down)


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(
            Result.DEFERRED, CLOSING, conversation=(MAIL, RCPT, DATA, *_heard("250 ok", "250 ok", "354 go", "421 no"))
        ),
        Outcome(Result.DEFERRED, Reply(451, "cut", "4.4.2"), rule="connection-lost", conversation=(MAIL,)),
        Outcome(Result.DEFERRED, Reply(450, "later"), conversation=(MAIL, *_heard("450 later"))),
        Outcome(Result.DEFERRED, CLOSING, rule="way-down", conversation=(Line(1, "POST https://api.test"),)),
        Outcome(Result.DEFERRED, CLOSING, rule="closing", conversation=(MAIL,), dot_sent=True),
    ],
)
def test_other_refusals_count(outcome: Outcome) -> None:
    assert not is_turned_away(outcome)


@pytest.mark.parametrize(
    ("lines", "rule", "cut_off"),
    [
        ((*OPENING, MAIL, RCPT, DATA), "connection-lost", True),
        ((*OPENING, MAIL, RCPT, DATA, *_heard("250 ok")), "connection-lost", False),
        ((*OPENING, MAIL, RCPT, DATA), "timeout", False),
        (OPENING, "connection-lost", False),
    ],
)
def test_a_connection_that_ends_behind_mail_without_a_word(lines: Sequence[Line], rule: str, cut_off: bool) -> None:
    outcome = Outcome(Result.DEFERRED, Reply(451, "cut", "4.4.2"), rule=rule, conversation=tuple(lines))
    assert is_cut_off(outcome) is cut_off
    assert not is_cut_off(outcome._replace(dot_sent=True))


@pytest.mark.parametrize("rule", ["tls-off", "closing"])
def test_words_behind_mail_stay_with_that_mail(rule: str) -> None:
    """The site's are read by all who send there, and these may name its sender."""
    reply = Reply(451, "the host takes mail under TLS only (530 a@b.test: STARTTLS first)", "4.7.10")
    down = Outcome(Result.DEFERRED, reply, rule=rule, conversation=(*OPENING, MAIL))
    assert "a@b.test" not in of_site(down)
    assert ("set `tls` of the way out" in of_site(down)) is (rule == "tls-off")
