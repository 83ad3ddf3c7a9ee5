"""What an outcome becomes: state, event, bounce."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from mailcore.flow.settle import Attempt, bounce, settlement
from mailcore.kit.ids import uuid7
from mailcore.smtp.outcome import Line, Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store.deliveries import Leased

ROW = Leased(uuid7(), 0, 1, 7, uuid7(), 3, "you@you.test", False, datetime(2026, 1, 1, tzinfo=UTC))
LATER = Outcome(Result.DEFERRED, Reply(451, "later", "4.2.0"))


@pytest.mark.parametrize(
    ("outcome", "attempt", "state", "event"),
    [
        (Outcome(Result.DELIVERED, Reply(250, "ok")), 1, "delivered", "delivered"),
        (Outcome(Result.BOUNCED, Reply(550, "no")), 1, "bounced", "bounced"),
        (Outcome(Result.FAILED, Reply(554, "no")), 1, "failed", "failed"),
        (LATER, 1, "queued", "delivery_delayed"),
        (LATER, 2, "queued", "delivery_delayed"),
        (LATER, 3, "expired", "bounced"),
    ],
)
def test_states(outcome: Outcome, attempt: int, state: str, event: str) -> None:
    made = settlement(Attempt(ROW._replace(attempt=attempt), outcome, "mx:x", 3))
    assert (made.state, made.last_event, made.worker, made.attempt) == (state, event, 7, attempt)


@pytest.mark.parametrize(
    ("outcome", "unsure"),
    [
        (LATER._replace(dot_sent=True), False),  # the peer said no after the dot
        (LATER._replace(dot_sent=True, rule="reply-lost"), True),
        (LATER._replace(rule="connect-failed"), False),
        (Outcome(Result.DELIVERED, Reply(250, "ok"), dot_sent=True), False),
    ],
)
def test_only_a_dot_without_a_reply_leaves_us_unsure(outcome: Outcome, unsure: bool) -> None:
    assert settlement(Attempt(ROW, outcome, None, 3)).unsure is unsure


def test_what_a_peer_said_can_be_stored() -> None:
    lines = (
        Line(1.23456, said="MAIL"),
        Line(2.0, heard="nul\x00 and \udc80" + "x" * 1000),
        *[Line(3.0, said="x")] * 200,
    )
    outcome = Outcome(Result.DEFERRED, Reply(451, "a\x00b\ud800"), conversation=lines)
    made = settlement(Attempt(ROW, outcome, None, 3))
    assert made.reply == "a\ufffdb\ufffd"
    talk = orjson.loads(made.conversation or "")
    assert talk[0] == [1.235, "said", "MAIL"]
    assert talk[1][2].startswith("nul\ufffd and \ufffd")
    assert len(talk[1][2]) == 500
    assert len(talk) == 100


@pytest.mark.parametrize(
    ("reply", "sub_type"),
    [
        (Reply(550, "who?", "5.1.1"), "NoEmail"),
        (Reply(552, "full", "5.2.2"), "MailboxFull"),
        (Reply(552, "big", "5.3.4"), "MessageTooLarge"),
        (Reply(554, "spam", "5.7.1"), "ContentRejected"),
        (Reply(550, "other", "5.7.26"), "General"),
        (Reply(550, "User unknown"), "NoEmail"),
        (Reply(552, "Mailbox is full"), "MailboxFull"),
        (Reply(552, "Message too large"), "MessageTooLarge"),
        (Reply(550, "go away"), "General"),
    ],
)
def test_kinds_of_bounce(reply: Reply, sub_type: str) -> None:
    said = bounce(Outcome(Result.BOUNCED, reply))["bounce"]
    assert (said["type"], said["subType"], said["diagnosticCode"]) == ("Permanent", sub_type, [f"smtp; {reply}"])


def test_an_expired_mail_bounces_for_a_while() -> None:
    assert bounce(LATER)["bounce"]["type"] == "Transient"


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome(Result.DELIVERED, Reply(250, "ok")), None),
        (Outcome(Result.SUPPRESSED, Reply(550, "on the list"), rule="suppression-list"), None),
        (Outcome(Result.BOUNCED, Reply(550, "who?", "5.1.1")), ("hard", "no-mailbox")),
        (LATER, ("recipient", "mailbox")),
        # a peer that refuses us in its greeting speaks about us
        (
            LATER._replace(reply=Reply(554, "blocked using zen.spamhaus.org"), rule="greeting-refused"),
            ("block", "list-spamhaus"),
        ),
        # our own words are not read as a peer's
        (
            LATER._replace(reply=Reply(451, "no usable key for the sending domain"), rule="no-signing-key"),
            ("infrastructure", "no-signing-key"),
        ),
        (Outcome(Result.FAILED, Reply(552, "too large", "5.3.4"), rule="size"), ("content", "size")),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_a_refusal_is_about_is_kept(outcome: Outcome, kind: tuple[str, str] | None) -> None:
    made = settlement(Attempt(ROW, outcome, "mx:x", 3))
    assert ((made.category, made.category_rule) if made.category else None) == kind
