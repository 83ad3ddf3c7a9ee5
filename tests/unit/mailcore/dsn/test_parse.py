"""Delivery reports of servers that exist, in the forms they have; and that nothing in one can stop or stall its reader."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import suites
from mailcore.dsn import feedback
from mailcore.dsn.classify import classify
from mailcore.dsn.parse import parse
from mailcore.dsn.report import Action, reply_of
from mailcore.smtp.reply import Reply

HEAD = (
    "From: MAILER-DAEMON@mx.example (Mail Delivery System)\r\nSubject: Undelivered Mail\r\n"
    "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
    "--b\r\n\r\nThis is the mail system.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
)
TAIL = "\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\nMessage-ID: <1@you.example>\r\nSubject: hi\r\n--b--\r\n"


def _status(*blocks: str) -> bytes:
    return (HEAD + "\r\n".join(blocks) + TAIL).encode()


def _plain(text: str, sender: str = "MAILER-DAEMON@mx.example") -> bytes:
    return f"From: {sender}\nSubject: failure notice\n\n{text}".encode()


def test_a_report_for_programs() -> None:
    report = parse(
        _status(
            "Reporting-MTA: dns; mx.example\r\nOriginal-Envelope-Id: QQ314159\r\nArrival-Date: Fri, 1 May 2026 10:00:00 +0000\r\n",
            "Original-Recipient: rfc822;you@you.example\r\nFinal-Recipient: rfc822; <YOU@inner.example>\r\nAction: failed\r\n"
            "Status: 5.1.1\r\nRemote-MTA: dns; inner.example\r\n"
            "Diagnostic-Code: smtp; 550-5.1.1 who\r\n 550 5.1.1 is that?\r\n",
            "Final-Recipient: rfc822;full@you.example\r\nAction: delayed\r\nStatus: 4.2.2 (mailbox full)\r\n",
            "Final-Recipient: rfc822;taken@you.example\r\nAction: relayed\r\nStatus: 2.0.0\r\n",
        )
    )
    assert report is not None
    assert (report.form, report.reporting_mta, report.envelope_id) == ("rfc3464", "mx.example", "QQ314159")
    assert report.arrived_at is not None
    assert report.message_id == "<1@you.example>"
    first, second, third = report.recipients
    assert (first.address, first.final, first.permanent) == ("you@you.example", "YOU@inner.example", True)
    assert (first.reply, first.remote_mta) == (Reply(550, "who is that?", "5.1.1"), "inner.example")
    assert classify(first.reply).hard
    assert (second.action, second.reply) == (Action.DELAYED, Reply(450, "mailbox full", "4.2.2"))
    assert (third.action, third.permanent) == (Action.RELAYED, False)


@pytest.mark.parametrize(
    ("fields", "action", "reply"),
    [
        (
            "Action: failed (bad mailbox)\r\nStatus: 5.1.1",
            Action.FAILED,
            Reply(550, "This is the mail system.", "5.1.1"),
        ),
        ("Action: error\r\nStatus: 5.0.0", Action.FAILED, Reply(550, "This is the mail system.", "5.0.0")),
        ("Action: DELAYED\r\nStatus: 4.4.1", Action.DELAYED, Reply(450, "This is the mail system.", "4.4.1")),
        ("Status: 4.4.1", Action.DELAYED, Reply(450, "This is the mail system.", "4.4.1")),
        ("Action: failed", Action.FAILED, None),
        # what the words say more exactly counts, and a status that disagrees with the reply does not
        (
            "Action: failed\r\nStatus: 5.0.0\r\nDiagnostic-Code: smtp; 550 5.2.2 full",
            Action.FAILED,
            Reply(550, "full", "5.2.2"),
        ),
        (
            "Action: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 who",
            Action.FAILED,
            Reply(550, "who", "5.1.1"),
        ),
        ("Action: failed\r\nStatus: 5.0.0\r\nDiagnostic-Code: smtp; 450 later", Action.FAILED, Reply(450, "later")),
        (
            "Action: failed\r\nStatus: 4.4.7\r\nDiagnostic-Code: x-exim; expired",
            Action.FAILED,
            Reply(450, "expired", "4.4.7"),
        ),
    ],
)
def test_fields_as_servers_write_them(fields: str, action: Action, reply: Reply | None) -> None:
    report = parse(_status("Reporting-MTA: mx.example\r\n", f"Final-Recipient: rfc822;a@b.example\r\n{fields}\r\n"))
    assert report is not None
    (one,) = report.recipients
    assert (one.action, one.reply) == (action, reply)


def test_internationalized_recipients() -> None:
    """RFC 6533 §3: utf-8 address types, written in ASCII or not."""
    for written in ("utf-8; \\x{fc}ser@b.example", "utf-8; üser@b.example"):
        report = parse(
            _status("Reporting-MTA: dns; x\r\n", f"Final-Recipient: {written}\r\nAction: failed\r\nStatus: 5.1.1\r\n")
        )
        assert report is not None
        assert report.recipients[0].address == "üser@b.example"


@pytest.mark.parametrize(
    ("text", "form", "address", "permanent", "category"),
    [
        (
            "Hi. This is the qmail-send program at mx.example.\nI'm afraid I wasn't able to deliver your message to the following "
            "addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<a@b.example>:\nSorry, no mailbox "
            "here by that name. (#5.1.1)\n\n--- Below this line is a copy of the message.\n\nTo: c@d.example\n",
            *("qmail", "a@b.example", True, "hard"),
        ),
        (
            "This is the mail system at host mx.example.\n\nI'm sorry to have to inform you that your message could not\n"
            "be delivered to one or more recipients. It's attached below.\n\n<a@b.example>: host mx.b.example[192.0.2.1] said:\n"
            "    552 5.2.2 over quota (in reply to RCPT TO command)\n",
            *("postfix", "a@b.example", True, "recipient"),
        ),
        (
            "This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered "
            "to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n  a@b.example\n"
            "    host mx.b.example [192.0.2.1]\n    SMTP error from remote mail server after RCPT TO:<a@b.example>:\n"
            "    554 5.7.1 blocked using zen.spamhaus.org\n\n------ This is a copy of the message ------\n\nFrom: <x@y.example>\n",
            *("postfix", "a@b.example", True, "block"),
        ),
        (
            "   ----- The following addresses had permanent fatal errors -----\n<a@b.example>\n    (reason: 550 5.1.1 "
            "<a@b.example>... User unknown)\n\n   ----- Transcript of session follows -----\n... while talking to mx.b.example.:\n",
            *("sendmail", "a@b.example", True, "hard"),
        ),
        (
            "Your message\n\n  To:      c@d.example\n  Subject: hi\n  Sent:    Fri, 1 May 2026 10:00:00 +0000\n\ndid not reach the "
            "following recipient(s):\n\na@b.example on Fri, 1 May 2026 10:00:01 +0000\n    The recipient name is not recognized\n",
            *("exchange", "a@b.example", True, "hard"),
        ),
        (
            "Delivery to the following recipient has been delayed:\n\n     a@b.example\n\n"
            "Message will be retried for 2 more day(s)\n",
            *("google", "a@b.example", False, "soft"),
        ),
    ],
    ids=["qmail", "postfix", "exim", "sendmail", "exchange", "google"],
)
def test_reports_in_words(text: str, form: str, address: str, permanent: bool, category: str) -> None:
    report = parse(_plain(text))
    assert report is not None
    (one,) = report.recipients
    assert (report.form, one.address, one.permanent) == (form, address, permanent)
    assert one.reply is not None
    assert classify(one.reply).category == category


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        _plain("Hello, could you send me the report? My address is a@b.example.", "someone@b.example"),
        _plain("<a@b.example>:\nthis is what he wrote", "someone@b.example"),
        _plain("I am out of the office until Monday. In urgent cases write to b@b.example.", "a@b.example"),
        _status("Reporting-MTA: dns; x\r\n"),
    ],
)
def test_other_mail_is_no_report(raw: bytes) -> None:
    assert parse(raw) is None


def test_a_reply_in_words() -> None:
    assert reply_of("host x[192.0.2.1] said: 550-5.7.1 a 550 5.7.1 b") == Reply(
        550, "host x[192.0.2.1] said: a b", "5.7.1"
    )
    assert reply_of("gave up (#5.1.2)") == Reply(550, "gave up (#5.1.2)", "5.1.2")
    assert reply_of("no port 4650 on 192.0.2.450") == Reply(550, "no port 4650 on 192.0.2.450")
    assert reply_of("later", permanent=False) == Reply(450, "later")


def _bombs() -> list[bytes]:
    return [
        _status("Reporting-MTA: dns; x\r\n", *[f"Final-Recipient: rfc822;a{n}@b.example\r\n" for n in range(5_000)]),
        _status("Reporting-MTA: dns; x\r\n", "Final-Recipient: " + "(" * 100_000 + "\r\n"),
        _status("Final-Recipient: rfc822;a@b.example\r\nDiagnostic-Code: smtp; " + "550 5.1.1 " * 50_000 + "\r\n"),
        _status("\r\n" * 200_000),
        _plain("could not be delivered to the following\n" + "<a@b.example>\n" * 100_000),
        _plain("could not be delivered to the following\n" + "a" * 1_000_000 + "@"),
        _plain("could not be delivered to the following\n" + "<" * 500_000 + "a@b.example"),
        _plain("delivery failed " * 60_000 + "attempts: a@b.example"),
        _plain("your message to " * 60_000 + "a@b.example"),
        b"Content-Type: text/html\r\n\r\n" + b"<" * 500_000 + b"&lt;" * 100_000,
        b"From: MAILER-DAEMON@x.example\r\n\r\n" + b"\xff\x00<a@b.example>:\r\n" * 10_000,
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(500)),
    ]


@pytest.mark.parametrize("raw", _bombs())
def test_what_is_made_to_stall_is_read(raw: bytes) -> None:
    report = parse(raw)
    assert report is None or len(report.recipients) <= 1_000
    feedback.parse(raw)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2_000))
def test_whatever_stands_in_a_status_is_read(raw: bytes) -> None:
    for wrapped in (
        HEAD.encode() + raw + TAIL.encode(),
        b"From: MAILER-DAEMON@x\r\n\r\ncould not be delivered to\r\n" + raw,
        raw,
    ):
        report = parse(wrapped)
        for one in report.recipients if report else ():
            assert "@" in one.address
            assert "\n" not in one.address
            if one.reply is not None:
                assert classify(one.reply)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_reports_of_others_with_octets_changed_are_read(data: st.DataObject) -> None:
    files = sorted((suites.suite("flufl-bounce") / "data").glob("*.txt"))
    raw = bytearray(data.draw(st.sampled_from(files)).read_bytes()[:20_000])
    for _ in range(data.draw(st.integers(1, 20))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    parse(bytes(raw))
    feedback.parse(bytes(raw))
