"""Reading strangers' mail: what it says, and that nothing it holds can stop or stall its reader (reliability C2 to C4, C8)."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import suites
from mailcore.mime.parse import Limits, Message, Summary, content_as_json


def _read(raw: bytes) -> Summary:
    message = Message(raw)
    summary = message.summary()
    message.bodies()
    content_as_json(message, "data_uri")
    for attachment in summary.attachments:
        found = message.attachment(attachment.n)
        assert found is not None
        assert found[0] == attachment
    text = json.dumps(summary.as_json())
    assert "\\u0000" not in text.replace("\\\\", "")  # no NUL; a backslash before `u0000` is text
    assert Summary.from_json(json.loads(text)) == summary
    return summary


def test_c3_every_mail_of_the_suite_is_read() -> None:
    files = [path for path in suites.suite("mail-parser-stalwart").rglob("*") if path.is_file()]
    assert len(files) > 300
    for path in files:
        _read(path.read_bytes())


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [
                    *(
                        b"\r\n",
                        b"\n",
                        b"\r\n\r\n",
                        b"--b",
                        b"--b--",
                        b"\r\n--b\r\n",
                        b"--c\r\n",
                        b" ",
                        b"\t",
                        b":",
                        b";",
                        b'"',
                    ),
                    *(b"Content-Type: multipart/mixed; boundary=b\r\n", b"Content-Type: multipart/x; boundary=c\r\n"),
                    *(b"Content-Transfer-Encoding: base64\r\n", b"Content-Disposition: attachment; filename="),
                    *(
                        b"=?utf-8?q?",
                        b"?=",
                        b"=?x?b?",
                        b"filename*0*=utf-8''",
                        b"To: ",
                        b"From: ",
                        b"<",
                        b">",
                        b"(",
                        b"\\",
                        b"@",
                    ),
                    *(b"Date: ", b"Received: x for <", b"Message-ID: <[", b"Content-ID: <", b"cid:", b"text/html"),
                ]
            ),
        ),
        max_size=60,
    ).map(b"".join)
)
def test_c3_whatever_it_holds_it_is_read(raw: bytes) -> None:
    _read(raw)


def _deep(n: int) -> bytes:
    return b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i) for i in range(n))


_BOMBS: dict[str, Callable[[], bytes]] = {
    "nested multiparts": lambda: _deep(800),
    "nested messages": lambda: b"Content-Type: message/rfc822\r\n\r\n" * 1_000,
    "parts": lambda: b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 50_000,
    "addresses": lambda: b"To: " + b"a@b.c,\r\n " * 50_000 + b"\r\n\r\n",
    "encoded words": lambda: b"Subject: " + b"=?utf-8?q?x?= " * 20_000 + b"\r\n\r\n",
    "open comments": lambda: b"To: " + b"(" * 90_000 + b"\r\n\r\n",
    "open quotes": lambda: b"To: " + b'"' * 90_001 + b"\r\n\r\n",
    "open angles": lambda: b"To: " + b'<"' * 45_000 + b"\r\n\r\n",
    "backslashes": lambda: b"To: " + b'"\\' * 45_000 + b"\r\n\r\n",
    "parameters": lambda: b"Content-Type: a/b" + b'; a="' * 15_000 + b"\r\n\r\n",
    "continuations": lambda: b"A: b\r\n" + b" x\r\n" * 25_000 + b"\r\n",
    "delimiters of nobody": lambda: b"Content-Type: multipart/x; boundary=b\r\n\r\n--b\r\n\r\n" + b"--c\n" * 500_000,
    "one long line": lambda: b"Content-Type: text/html\r\n\r\n" + b" " * 5_000_000 + b"x",
    "quoted-printable": lambda: b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b"=41" * 1_500_000,
    "a header without end": lambda: b"X: y\r\n" * 800_000,
    "images again and again": lambda: (
        b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n"
        + b'<img src="cid:i">' * 20_000
        + b"\r\n--b\r\nContent-Type: image/png\r\nContent-ID: <i>\r\n\r\n"
        + b"x" * 100_000
        + b"\r\n--b--\r\n"
    ),
}


@pytest.mark.parametrize("bomb", _BOMBS)
def test_c2_no_bomb_takes_two_seconds_of_processor(bomb: str) -> None:
    raw = _BOMBS[bomb]()
    before = resource.getrusage(resource.RUSAGE_SELF)
    summary = _read(raw)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 2.0
    assert len(summary.to) <= 10_240
    assert len(summary.attachments) <= 1_000


def test_c2_beyond_a_limit_is_a_defect_and_what_is_before_it_is_there() -> None:
    summary = Message(b"Subject: x\r\nTo: a@b.example\r\n" + b"X: y\r\n" * 40_000 + b"\r\nbody").summary()
    assert summary.subject == "x"
    assert any("longer than" in defect for defect in summary.defects)
    parts = Message(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 10, Limits(parts=4))
    assert parts.bodies().text == "x\nx\nx"
    assert any("more than 4 parts" in defect for defect in parts.defects)


@pytest.mark.parametrize(
    ("charset", "octets", "text"),
    [
        ("utf-8", "ü€".encode(), "ü€"),
        ("iso-8859-1", b"\xfc\x80", "ü€"),
        ("windows-1251", "привет".encode("cp1251"), "привет"),
        ("iso-2022-jp", "日本".encode("iso2022-jp"), "日本"),
        ("gb2312", "中文".encode("gb18030"), "中文"),
        ("koi8-r", "да".encode("koi8-r"), "да"),
        ("utf-7", b"+AGE-+2AA-\xfc+AAA-\n", "a\N{REPLACEMENT CHARACTER}\n"),
        ("", "ü".encode(), "ü"),
        ("", b"\xfc", "ü"),
        ("us-ascii", b"\xfc", "ü"),
        ("utf-8", b"a\xff", "a\N{REPLACEMENT CHARACTER}"),
        *((name, b"+AGE-\xfc", "+AGE-ü") for name in ("rot13", "zlib", "undefined", "idna", "unicode_escape")),
        *((name, b"x\xfc", "xü") for name in ("punycode", "base64", "hex", "x-unknown", "a" * 1000, "utf-8\0")),
    ],
)
def test_c4_charsets(charset: str, octets: bytes, text: str) -> None:
    label = f'; charset="{charset}"' if charset else ""
    body = Message(f"Content-Type: text/plain{label}\r\n\r\n".encode() + octets).bodies().text
    if charset == "utf-8\0":
        assert body is not None
    else:
        assert body == text


@pytest.mark.parametrize(
    ("written", "filename"),
    [
        (b'filename="a.txt"', "a.txt"),
        (b'filename="../../etc/passwd"', "passwd"),
        (b'filename="C:\\\\x\\\\evil.exe"', "evil.exe"),
        (b"filename*=utf-8''..%2F..%2Fx%00y.txt", "x y.txt"),
        (b'filename="=?utf-8?q?..=2Fp.txt?="', "p.txt"),
        (b'filename="invoice\xe2\x80\xaegpj.exe"', "invoicegpj.exe"),
        (b"filename*0*=utf-8'en'%E2%82; filename*1*=%AC; filename*2=.txt", "€.txt"),
        (b'filename="' + b"x" * 400 + b'.pdf"', "x" * 251 + ".pdf"),
        (b'filename=""', None),
        (b'filename=".."', None),
        (b'filename="/"', None),
    ],
)
def test_c8_names_of_files(written: bytes, filename: str | None) -> None:
    raw = b"Content-Type: application/pdf\r\nContent-Disposition: attachment; " + written + b"\r\n\r\nx"
    assert [one.filename for one in Message(raw).summary().attachments] == [filename]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a@b.example", [("", "a@b.example")]),
        ("<a@b.example>", [("", "a@b.example")]),
        ("Ann <a@b.example>, Bob <b@b.example>", [("Ann", "a@b.example"), ("Bob", "b@b.example")]),
        ('"Ann, B." <a@b.example>', [("Ann, B.", "a@b.example")]),
        ("a@b.example (Ann)", [("", "a@b.example")]),
        ("=?utf-8?q?J=C3=BC?= <a@b.example>", [("Jü", "a@b.example")]),
        ("group: a@b.example, b@b.example;", [("", "a@b.example"), ("", "b@b.example")]),
        ("undisclosed-recipients:;", []),
        ("<@x.example,@y.example:a@b.example>", [("", "a@b.example")]),
        ('"a b"@c.example', [("", '"a b"@c.example')]),
        ("ceo@bank.test\0", [("", "ceo@bank.test")]),
        ("", []),
        ("nobody", []),
        ("<<a@b.example>>, x", [("", "<a@b.example")]),
    ],
)
def test_addresses(value: str, found: list[tuple[str, str]]) -> None:
    summary = Message(b"To: " + value.encode() + b"\r\n\r\n").summary()
    assert [(one.name, one.address) for one in summary.to] == found


def test_parts_bodies_and_attachments() -> None:
    raw = (
        b'Content-Type: multipart/mixed; boundary="out er"\r\n\r\npreamble\r\n--out er\r\n'
        b"Content-Type: multipart/alternative; boundary=in\r\n\r\n--in\r\n\r\ntext\r\n--in  \r\n"
        b"Content-Type: TEXT/HTML\r\n\r\n<b>html</b>\r\n--in--\r\n--out er\r\n"
        b"Content-Type: text/plain; name=notes.txt\r\nContent-Transfer-Encoding: base64\r\n\r\neHg\r\n--out er\r\n"
        b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\n--in\r\nkept\r\n--out er--\r\nepilogue\r\n"
    )
    message = Message(raw)
    assert (message.bodies().text, message.bodies().html) == ("text", "<b>html</b>")
    names = [(one.filename, one.content_type, one.size) for one in message.summary().attachments]
    assert names == [("notes.txt", "text/plain", 2), (None, "message/rfc822", 28)]
    found = message.attachment(1)
    assert found is not None
    assert found[1] == b"Subject: inner\r\n\r\n--in\r\nkept"
    assert message.attachment(2) is None


def test_a_multipart_that_is_none_is_text() -> None:
    for raw in (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\njust text\r\n",
        b"Content-Type: multipart/mixed\r\n\r\njust text\r\n",
    ):
        message = Message(raw)
        assert message.bodies().text == "just text\n"
        assert message.defects


def test_dates_and_received_for() -> None:
    summary = Message(
        b"Received: from a by b for <x@y.example>; Mon, 1 Jan 2024 00:00:00 +0000\r\n"
        b"Received: by c\r\n\tfor z@y.example\r\nDate: Mon, 01 Jan 2024 10:00:00 +0200\r\n\r\n"
    ).summary()
    assert summary.received_for == ["x@y.example", "z@y.example"]
    assert summary.date is not None
    assert summary.date.isoformat() == "2024-01-01T08:00:00+00:00"
    for written in (b"nonsense", b"Mon, 99 Jan 2024", b"1 " * 60):
        assert Message(b"Date: " + written + b"\r\n\r\n").summary().date is None


def test_a_content_id_is_percent_encoded_in_its_url() -> None:
    """RFC 2392 §2."""
    raw = (
        b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: image/png\r\nContent-ID: <a%b@x>\r\n\r\nPNG\r\n"
        b"--b--\r\n"
    )
    embedded = Message(raw).embed_images('<img src="cid:a%25b@x"> <img src="CID:a%25b%40x"> <img src="cid:other">')
    assert (
        embedded
        == '<img src="data:image/png;base64,UE5H"> <img src="data:image/png;base64,UE5H"> <img src="cid:other">'
    )


def test_an_image_that_html_names_often_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 kB that decode to nothing each of 30,000 places read all, for minutes."""
    raw = (
        b"MIME-Version: 1.0\r\nContent-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n"
        + b'<img src="cid:x">' * 50
        + b"\r\n--b\r\nContent-Type: image/png\r\nContent-ID: <x>\r\nContent-Transfer-Encoding: base64\r\n\r\n====\r\n--b--\r\n"
    )
    message = Message(raw)
    decoded = []
    content = Message._content
    monkeypatch.setattr(Message, "_content", lambda self, part: decoded.append(part) or content(self, part))
    html = message.embed_images('<img src="cid:x">' * 50)
    assert html == '<img src="data:image/png;base64,">' * 50
    assert len(decoded) <= 2  # for its size, and for its content
