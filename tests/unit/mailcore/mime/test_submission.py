from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.flow.parse import IN_A_THREAD, Reader
from mailcore.kit.errors import Refused
from mailcore.mime.compose import is_7bit
from mailcore.mime.submission import Submission, prepare

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
FROM = b"From: Us <us@us.test>\r\n"


def prepared(raw: bytes) -> Submission:
    return prepare(raw, id_=ID, by="mx.us.test", protocol="ESMTPSA", now=NOW)


def read(raw: bytes) -> EmailMessage:
    return BytesParser(policy=policy.default).parsebytes(raw)


def refused(raw: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        prepared(raw)
    return caught.value


def test_what_is_complete_stays_octet_for_octet_below_one_received_line() -> None:
    raw = (
        FROM + b"To: You <you@you.test>, x@y.test\r\nCc: c@us.test\r\nReply-To: r@us.test\r\nSubject: s\r\n"
        b"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@us.test>\r\nDKIM-Signature: v=1; d=other\r\n\r\nbody\r\n"
    )
    done = prepared(raw)
    received = b"Received: by mx.us.test (Postroom) with ESMTPSA;\r\n Sat, 21 Nov 2026 12:00:00 +0000\r\n"
    assert done.raw == received + raw
    assert (done.from_, done.domain, done.subject, done.message_id) == (
        "Us <us@us.test>",
        "us.test",
        "s",
        "<1@us.test>",
    )
    assert (done.to, done.cc, done.reply_to) == (["You <you@you.test>", "x@y.test"], ["c@us.test"], ["r@us.test"])


@pytest.mark.parametrize("given_id", [b"", b"Message-ID: <[\r\n", b"Message-ID:\r\n", b"Message-ID: 1@us.test\r\n"])
def test_date_and_message_id_are_added(given_id: bytes) -> None:
    done = prepared(FROM + given_id + b"\r\nbody\r\n")
    found = read(done.raw)
    assert found["message-id"] == done.message_id == f"<{ID}@us.test>"
    assert found["date"].datetime == NOW
    assert done.raw.count(b"essage-ID") == 1


def test_bcc_and_return_path_and_our_own_fields_go() -> None:
    done = prepared(
        b"Return-Path: <x@y.test>\r\nBcc: secret@you.test,\r\n hidden@you.test\r\nresend-idempotency-key: k 1\r\n"
        b"Resend-Tags: a=b\r\nResend-Whatever: 1\r\nResent-Bcc: q@you.test\r\n" + FROM + b"\r\nbody\r\n"
    )
    assert done.options == {"idempotency-key": "k 1", "tags": "a=b", "whatever": "1"}
    for gone in (b"secret", b"hidden", b"esend-", b"Return-Path", b"q@you"):
        assert gone not in done.raw


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"Subject: x\r\n",
        FROM + FROM,
        FROM + b"from : b@us.test\r\n",
        FROM + b" \r\nFrom : b@us.test\r\n",
        b"From : a@us.test\r\n",
        b"From: a@us.test, b@us.test\r\n",
        b"From: a@us.test (comment)\r\n",
        b"From: Group: a@us.test;\r\n",
        b"From: <@x.test:a@us.test>\r\n",
        b"From: a@us.test\x00\r\n",
        b"From: <a@us.test> <b@us.test>\r\n",
        b"From: b@bank.test, x <a@us.test>\r\n",
        b"From: \xff <a@us.test>\r\n",
        "From: jürgen@us.test\r\n".encode(),
        b" folded: x\r\n" + FROM,
        b"no field\r\n" + FROM,
        b"From a@us.test Sat Nov 21\r\n" + FROM,
        FROM + b"Subject: a\r\nSubject: b\r\n",
        FROM + b"Resend-Tags: a=b\r\nResend-tags: a=b\r\n",
        FROM + b"Sender: a@x.test, b@x.test\r\n",
        FROM + b"X: " + b"y" * 103_000 + b"\r\n",
    ],
)
def test_a_header_that_readers_may_read_differently_is_refused(head: bytes) -> None:
    error = refused(head + b"\r\nbody\r\n")
    assert error.code in (550, 552, 553)
    assert error.public


def test_a_name_that_looks_like_an_address_is_put_in_quotes() -> None:
    done = prepared(b"From: ceo@bank.test <us@us.test>\r\n\r\nbody\r\n")
    assert b'\r\nFrom: "ceo@bank.test" <us@us.test>\r\n' in done.raw
    assert read(done.raw)["from"].addresses[0].addr_spec == "us@us.test"


def test_a_name_in_encoded_words_is_shown_decoded_and_sent_as_it_is() -> None:
    done = prepared(b"From: =?utf-8?q?J=C3=BCrgen?= <us@us.test>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nx\r\n")
    assert (done.from_, done.subject) == ('"Jürgen" <us@us.test>', "Grüße")
    assert b"From: =?utf-8?q?J=C3=BCrgen?= <us@us.test>\r\n" in done.raw


def test_raw_utf_8_becomes_7_bit() -> None:
    done = prepared("From: Jürgen <us@us.test>\r\nSubject: Grüße\r\n\r\nGrüße\r\n".encode())
    assert is_7bit(done.raw)
    assert done.subject == read(done.raw)["subject"] == "Grüße"


def test_the_fingerprint_is_of_what_the_mail_says() -> None:
    def mail(boundary: bytes, date: bytes, text: bytes = b"hi", subject: bytes = b"s") -> str:
        return prepared(
            b"Resend-Idempotency-Key: k\r\n"
            + FROM
            + b"Subject: %b\r\nDate: %b\r\nMessage-ID: <%b@us.test>\r\nMIME-Version: 1.0\r\n"
            b"Content-Type: multipart/mixed; boundary=%b\r\n\r\n--%b\r\n\r\n%b\r\n--%b--\r\n"
            % (subject, date, boundary, boundary, boundary, text, boundary)
        ).fingerprint

    one = mail(b"one", b"Sat, 21 Nov 2026 10:00:00 +0000")
    assert mail(b"two", b"Sat, 21 Nov 2026 10:00:07 +0000") == one
    assert mail(b"one", b"Sat, 21 Nov 2026 10:00:00 +0000", text=b"ho") != one
    assert mail(b"one", b"Sat, 21 Nov 2026 10:00:00 +0000", subject=b"t") != one


def test_a_large_message_is_read_in_a_process_of_its_own_to_the_same_end() -> None:
    raw = FROM + b"Subject: \xc3\xbc\r\n\r\n" + "Grüße\r\n".encode() * (IN_A_THREAD // 8)
    assert len(raw) > IN_A_THREAD

    async def both() -> None:
        reader = Reader()
        done = await reader.submission(raw, id_=ID, by="mx.us.test", protocol="ESMTPSA", now=NOW)
        assert done == prepared(raw)
        with pytest.raises(Refused, match="no From"):
            await reader.submission(raw[len(FROM) :], id_=ID, by="x", protocol="ESMTPSA", now=NOW)

    asyncio.run(both())


@given(st.binary(max_size=300))
def test_no_input_ends_in_an_unforeseen_error(octets: bytes) -> None:
    raw = octets.replace(b"\r", b"").replace(b"\n", b"\r\n")
    for message in (raw, FROM + raw, FROM + b"\r\n" + raw, b"From: " + raw):
        try:
            assert is_7bit(prepared(message).raw)
        except Refused as error:
            assert error.code in (550, 552, 553, 554)
