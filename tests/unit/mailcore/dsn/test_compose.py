"""The reports that we write: by our own reader, and by the standard library's."""

from __future__ import annotations

import email
from datetime import UTC, datetime
from email.message import Message

from hypothesis import given
from hypothesis import strategies as st

from mailcore.dsn.compose import Notice, Told, compose
from mailcore.dsn.parse import parse
from mailcore.dsn.report import Action
from mailcore.dsn.wishes import Wishes
from mailcore.smtp.dsn import DsnRequest, Notify, Ret
from mailcore.smtp.reply import Reply

AT = datetime(2026, 5, 1, 10, tzinfo=UTC)
ORIGINAL = b"From: me@me.example\r\nTo: you@you.example\r\nSubject: hi\r\nMessage-ID: <1@me.example>\r\n\r\nHello.\r\n"
REFUSED = Told(
    "you@you.example",
    Action.FAILED,
    "5.1.1",
    Reply(550, "no such user: <you@you.example> " + "x" * 2_000 + " ünknown\r\nSubject: injected", "5.1.1"),
    peer=True,
    orcpt="rfc822;you+tag@you.example",
    remote_mta="mx.you.example",
    last_attempt_at=AT,
)


def _notice(*told: Told, full: bool = False, original: bytes = ORIGINAL) -> Notice:
    return Notice(
        reporter="mx.me.example",
        from_="mailer-daemon@me.example",
        to="me@me.example",
        message_id="<2@me.example>",
        at=AT,
        arrived_at=AT,
        original=original,
        original_message_id="<1@me.example>",
        told=told,
        full=full,
        envid="QQ314159",
    )


def _parts(raw: bytes) -> list[Message]:
    message = email.message_from_bytes(raw)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    return message.get_payload()  # type: ignore[return-value]


def test_a_failure() -> None:
    raw = compose(_notice(REFUSED, Told("b@b.example", Action.FAILED, "5.4.7", Reply(451, "no answer"))))
    assert raw.isascii()
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    message = email.message_from_bytes(raw)
    assert (message["To"], message["Auto-Submitted"], message["In-Reply-To"]) == (
        "<me@me.example>",
        "auto-replied",
        "<1@me.example>",
    )
    text, status, head = _parts(raw)
    assert "you@you.example" in text.get_payload()
    assert [part.get_content_type() for part in (status, head)] == ["message/delivery-status", "text/rfc822-headers"]
    assert "Subject: hi" in head.get_payload()
    assert "Hello" not in head.get_payload()
    report = parse(raw)
    assert report is not None
    first, second = report.recipients
    assert (report.reporting_mta, report.envelope_id, report.message_id) == (
        "mx.me.example",
        "QQ314159",
        "<1@me.example>",
    )
    assert (first.original, first.final, first.action) == ("you+tag@you.example", "you@you.example", Action.FAILED)
    assert first.reply is not None
    assert (first.reply.code, first.reply.enhanced, first.remote_mta) == (550, "5.1.1", "mx.you.example")
    assert second.address == "b@b.example"
    # our own words are not passed off as a peer's
    assert "Diagnostic-Code: x-postroom; no answer" in str(status)


def test_only_a_failure_brings_the_mail_back() -> None:
    *_, returned = _parts(compose(_notice(REFUSED, full=True)))
    assert returned.get_content_type() == "message/rfc822"
    assert "Hello." in str(returned)
    delayed = Told("you@you.example", Action.DELAYED, "4.4.1", Reply(451, "busy", "4.4.1"), retry_until=AT)
    *_, status, returned = _parts(compose(_notice(delayed, full=True)))
    assert "Will-Retry-Until" in str(status)
    assert returned.get_content_type() == "text/rfc822-headers"


def test_a_mail_cannot_end_its_part() -> None:
    """Content that holds the border it would get, gets another."""
    first = compose(_notice(REFUSED, full=True))
    boundary = email.message_from_bytes(first).get_boundary() or ""
    evil = ORIGINAL + f"--{boundary}--\r\n\r\nafter\r\n".encode()
    assert len(_parts(compose(_notice(REFUSED, full=True, original=evil)))) == 3


@given(
    st.text(max_size=50).filter(lambda text: text == text.strip()),
    st.sampled_from([None, Ret.FULL, Ret.HDRS]),
    st.lists(
        st.tuples(
            st.sets(st.sampled_from([Notify.SUCCESS, Notify.FAILURE, Notify.DELAY])), st.none() | st.just("a;b@c.d")
        ),
        max_size=4,
    ),
)
def test_wishes_are_kept_as_they_were(
    mail_from: str, ret: Ret | None, recipients: list[tuple[set[Notify], str | None]]
) -> None:
    made = Wishes(mail_from, tuple(DsnRequest(ret, "e", frozenset(n), "rfc822", o) for n, o in recipients))
    kept = Wishes.from_json(made.as_json())
    assert kept.mail_from == mail_from
    for n in range(5):
        assert kept.of(n).orcpt == made.of(n).orcpt
        for what in (Notify.SUCCESS, Notify.FAILURE, Notify.DELAY):
            assert kept.wants(n, what) == made.wants(n, what)
    assert (kept.full, kept.envid) == (made.full, made.envid)


def test_what_is_not_said_means_failure() -> None:
    usual = Wishes("me@me.example", (DsnRequest(),))
    assert usual.as_json() == {"from": "me@me.example"}
    assert usual.wants(0, Notify.FAILURE)
    assert not usual.wants(0, Notify.DELAY)
    assert not usual.wants(0, Notify.SUCCESS)
    assert not Wishes("").wants(0, Notify.FAILURE)  # an empty return path: nobody
    never = Wishes("me@me.example", (DsnRequest(notify=frozenset((Notify.NEVER,))),))
    assert not never.wants(0, Notify.FAILURE)
