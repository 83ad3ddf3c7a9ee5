from __future__ import annotations

import pytest

from mailcore.kit.errors import Refused
from mailcore.providers.base import Letter
from mailcore.providers.mapped import mapped, requests

HEAD = b"From: us@postroom.test\r\nTo: ada@example.com\r\nCc: bob@example.com\r\nSubject: s\r\nMessage-ID: <m@x>\r\n"
PLAIN = HEAD + b"Content-Type: text/plain\r\n\r\nhello\r\n"


def letter(content: bytes, *to: str) -> Letter:
    return Letter("b@x", to, content, "ref", "key")


def test_hidden_recipients_never_learn_of_each_other() -> None:
    hidden = ["x@example.com", "y@example.com"]
    # beside somebody whom the header names they are hidden by the provider
    assert requests(PLAIN, ["ada@example.com", *hidden], 50) == [("ada@example.com", *hidden)]
    # without, each is alone: whoever stood in To would be seen
    assert requests(PLAIN, hidden, 50) == [("x@example.com",), ("y@example.com",)]
    assert [each.address for each in mapped(letter(PLAIN, "x@example.com")).to] == ["x@example.com"]


def test_a_request_holds_no_more_than_the_provider_takes() -> None:
    many = [f"u{n}@example.com" for n in range(5)]
    shares = requests(PLAIN, [*many, "ada@example.com"], 3)
    assert shares[0][0] == "ada@example.com" and len(shares[0]) == 3
    assert sorted(each for share in shares for each in share) == sorted([*many, "ada@example.com"])


def test_who_is_not_in_this_request_is_not_named_in_it() -> None:
    mail = mapped(letter(PLAIN, "bob@example.com"))
    assert [each.address for each in mail.to] == ["bob@example.com"] and mail.cc == [] and mail.bcc == []


@pytest.mark.parametrize(
    "kind",
    [
        b'multipart/signed; protocol="application/pgp-signature"; boundary=b',
        b'multipart/encrypted; protocol="application/pgp-encrypted"; boundary=b',
        b"application/pkcs7-mime; smime-type=enveloped-data",
    ],
)
def test_what_would_lose_its_meaning_is_refused(kind: bytes) -> None:
    content = HEAD + b"Content-Type: " + kind + b"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n"
    with pytest.raises(Refused) as refused:
        mapped(letter(content, "ada@example.com"))
    assert refused.value.name == "not-mappable"


def test_a_mail_without_a_body_gets_a_space() -> None:
    content = (
        HEAD + b'Content-Type: application/pdf; name="a.pdf"\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERg==\r\n'
    )
    mail = mapped(letter(content, "ada@example.com"))
    assert mail.text == " " and [file.filename for file in mail.files] == ["a.pdf"]


def test_header_values_hold_no_line_ends() -> None:
    content = PLAIN.replace(b"Subject: s\r\n", b"Subject: a\r\n b\r\nX-Long: one\r\n\ttwo\r\n")
    mail = mapped(letter(content, "ada@example.com"))
    assert "\n" not in mail.subject and all("\n" not in value for value in mail.headers.values())
