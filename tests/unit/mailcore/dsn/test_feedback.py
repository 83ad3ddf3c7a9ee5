"""ARF (RFC 5965): what complaints say. The examples of the RFC and of others: tests/conformance/test_reports.py."""

from __future__ import annotations

from mailcore.dsn.feedback import parse

REPORT = (
    "From: <abusedesk@example.com>\r\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n"
    "--b\r\nContent-Type: text/plain\r\n\r\nThis is an email abuse report.\r\n"
    "--b\r\nContent-Type: message/feedback-report\r\n\r\n{fields}\r\n"
    "--b\r\nContent-Type: message/rfc822\r\n\r\nReturn-Path: <b+abc@send.you.example>\r\nMessage-ID: <1@you.example>\r\n"
    "\r\nhi\r\n--b--\r\n"
)


def test_a_complaint() -> None:
    report = parse(
        REPORT.format(
            fields="Feedback-Type: Abuse\r\nUser-Agent: x/1\r\nVersion: 1\r\nOriginal-Rcpt-To: <a@b.example>\r\n"
            "Original-Rcpt-To: c@d.example\r\nIncidents: 3\r\nSource-IP: 192.0.2.1\r\nArrival-Date: Fri, 1 May 2026 10:00:00 +0000"
        ).encode()
    )
    assert report is not None
    assert (report.kind, report.complaint, report.incidents, report.source_ip) == ("abuse", True, 3, "192.0.2.1")
    assert report.rcpt_to == ("a@b.example", "c@d.example")
    # without Original-Mail-From the mail that came back says it
    assert (report.mail_from, report.message_id) == ("b+abc@send.you.example", "<1@you.example>")


def test_what_is_no_complaint() -> None:
    for kind in ("not-spam", "auth-failure", "other", "opt in", ""):
        report = parse(REPORT.format(fields=f"Feedback-Type: {kind}\r\nVersion: 1").encode())
        assert report is not None
        assert not report.complaint
    assert parse(b"From: a@b.example\r\n\r\nabuse!") is None


def test_the_form_of_jmrp() -> None:
    raw = (
        b"From: staff@hotmail.com\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n"
        b"X-HmXmrOriginalRecipient: <a@hotmail.com>\r\nReturn-Path: b+abc@send.you.example\r\nSubject: hi\r\n\r\nhi\r\n--b--\r\n"
    )
    report = parse(raw)
    assert report is not None
    assert (report.complaint, report.rcpt_to, report.mail_from) == (True, ("a@hotmail.com",), "b+abc@send.you.example")
