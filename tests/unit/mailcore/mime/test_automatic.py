"""Who may answer a mail by itself: nobody a mail that nobody wrote (RFC 3834 §2); and which way a mail has come."""

from __future__ import annotations

import pytest

from mailcore.mime.automatic import automatic, hops, passed_on_for
from mailcore.mime.fields import Field, read_fields

FROM = b"From: Jane <jane@x.example>\r\nSubject: x\r\n"


def fields(raw: bytes) -> list[Field]:
    return read_fields(raw + b"\r\n", 0, 100_000, [])[0]


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Auto-Submitted: no\r\n",
        b"Auto-Submitted: No (really)\r\n",
        b"Precedence: first-class\r\n",
        b"X-Auto-Response-Suppress: none\r\n",
        b"Content-Type: multipart/mixed; boundary=report\r\n",
    ],
)
def test_what_a_person_wrote(header: bytes) -> None:
    assert automatic(fields(FROM + header), "jane@x.example") is None


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (b"Auto-Submitted: auto-replied\r\n", "auto-replied"),
        (b"auto-submitted: AUTO-GENERATED; owner-email=x\r\n", "auto-generated"),
        (b"Auto-Submitted:\r\n auto-notified\r\n", "auto-notified"),
        (b"Precedence: bulk\r\n", "bulk"),
        (b"Precedence: List\r\n", "list"),
        (b"List-Id: <x.example>\r\n", "list"),
        (b"List-Unsubscribe: <mailto:x@y>\r\n", "list"),
        (b"X-Auto-Response-Suppress: DR, OOF, AutoReply\r\n", "x-auto-response-suppress"),
        (b"X-Autoreply: yes\r\n", "x-autoreply"),
        (b"Content-Type: multipart/report; report-type=delivery-status\r\n", "report"),
        (b"Content-Type: message/disposition-notification\r\n", "report"),
    ],
)
def test_a14_what_a_machine_wrote_is_not_answered(header: bytes, word: str) -> None:
    assert word in (automatic(fields(FROM + header), "jane@x.example") or "")


@pytest.mark.parametrize(
    "mail_from",
    [
        "",
        "MAILER-DAEMON@x.example",
        "owner-list@x.example",
        "list-request@x.example",
        "noreply@x.example",
        "no-reply@x.example",
        "bounces+abc=de@x.example",
        "list-bounces@x.example",
    ],
)
def test_a14_nor_what_comes_from_its_return_path(mail_from: str) -> None:
    assert automatic(fields(FROM), mail_from) is not None


def test_a13_the_way_a_mail_has_come() -> None:
    way = b"Received: from a by b\r\nDelivered-To: A@X.example\r\nReceived: from c by a\r\nPostroom-Relayed-For: b@x.example\r\n"
    found = fields(way + FROM)
    assert hops(found) == 2
    own = "postroom-relayed-for"
    assert passed_on_for(found, ["a@x.example"], own) == "a@x.example"
    assert passed_on_for(found, ["b@x.example"], own) == "b@x.example"
    assert passed_on_for(found, ["c@x.example", ""], own) is None
