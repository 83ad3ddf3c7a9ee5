import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.mime.compose import Message, Part, compose, format_date

AT = datetime(2026, 11, 21, 6, 7, 8, tzinfo=UTC)
CLEAN = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
BODY = st.text(alphabet=st.characters(exclude_categories=("Cs",)) | st.sampled_from("\n\r .\tFé"), max_size=400)


def message(**values: object) -> Message:
    given: dict[str, object] = {
        "from_": "Acme <a@example.com>",
        "to": ["b@example.org"],
        "subject": "Hello",
        "message_id": "1@example.com",
        "date": AT,
        "boundary_seed": b"seed",
    }
    return Message(**{**given, **values})  # type: ignore[arg-type]


def parse(raw: bytes) -> EmailMessage:
    parsed = message_from_bytes(raw, policy=policy.SMTP)
    assert isinstance(parsed, EmailMessage)
    assert not parsed.defects
    return parsed


def assert_wire_safe(raw: bytes) -> None:
    assert raw.isascii()
    assert b"\0" not in raw
    assert raw.count(b"\r") == raw.count(b"\n") == raw.count(b"\r\n")
    assert raw.endswith(b"\r\n")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert b"\r\nFrom " not in raw


def lines(text: str) -> str:
    """Any line ends as `\\n`, one at the end: what composing does to text."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.endswith("\n") else text + "\n"


def body(part: EmailMessage) -> str:
    """Exact text: get_content() would take the universal line ends of str.splitlines for line ends."""
    raw = part.get_payload(decode=True)
    assert isinstance(raw, bytes)
    return raw.decode("utf-8").replace("\r\n", "\n")


def shape(part: EmailMessage) -> object:
    if part.is_multipart() and part.get_content_type() != "message/rfc822":
        return (part.get_content_type(), [shape(p) for p in part.iter_parts()])  # type: ignore[arg-type]
    return part.get_content_type()


def test_the_bytes_of_a_plain_mail() -> None:
    composed = compose(message(text="Hi,\nline two", headers={"X-Entity-Ref-ID": "7"}, cc=["C <c@example.org>"]))
    assert bytes(composed) == (
        b"From: Acme <a@example.com>\r\nTo: b@example.org\r\nCc: C <c@example.org>\r\nSubject: Hello\r\n"
        b"Date: Sat, 21 Nov 2026 06:07:08 +0000\r\nMessage-ID: <1@example.com>\r\nX-Entity-Ref-ID: 7\r\n"
        b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n"
        b"\r\nHi,\r\nline two\r\n"
    )


def test_equal_messages_make_equal_bytes_and_other_seeds_other_boundaries() -> None:
    one = message(text="t", html="h", attachments=[Part(b"x", "a/b", "f")])
    assert compose(one) == compose(message(text="t", html="h", attachments=[Part(b"x", "a/b", "f")]))
    other = compose(message(text="t", html="h", attachments=[Part(b"x", "a/b", "f")], boundary_seed=b"other"))
    assert compose(one) != other


IMAGE = Part(b"png", "image/png", "i.png", "img1", "inline")
FILE = Part(b"pdf", "application/pdf", "f.pdf")


@pytest.mark.parametrize(
    ("text", "html", "parts", "expected"),
    [
        ("t", None, [], "text/plain"),
        (None, "h", [], "text/html"),
        ("", "h", [], "text/html"),
        (None, None, [], "text/plain"),
        ("t", "h", [], ("multipart/alternative", ["text/plain", "text/html"])),
        ("t", "", [], "text/plain"),
        (None, "h", [IMAGE], ("multipart/related", ["text/html", "image/png"])),
        ("t", None, [FILE], ("multipart/mixed", ["text/plain", "application/pdf"])),
        ("t", None, [IMAGE], ("multipart/mixed", ["text/plain", "image/png"])),
        (
            "t",
            "h",
            [FILE, IMAGE],
            (
                "multipart/mixed",
                [
                    ("multipart/alternative", ["text/plain", ("multipart/related", ["text/html", "image/png"])]),
                    "application/pdf",
                ],
            ),
        ),
    ],
)
def test_structure(text: str | None, html: str | None, parts: Sequence[Part], expected: object) -> None:
    assert shape(parse(bytes(compose(message(text=text, html=html, attachments=parts))))) == expected


@given(
    subject=st.text(CLEAN, max_size=200),
    name=st.text(CLEAN, max_size=30),
    text=st.none() | BODY,
    html=st.none() | BODY,
    attachments=st.lists(
        st.builds(
            Part,
            st.binary(max_size=300),
            st.sampled_from(["application/pdf", "text/plain", "image/png; x=1"]),
            st.text(CLEAN, min_size=1, max_size=100).filter(str.strip),
            st.none() | st.just("cid-1"),
            st.sampled_from(["inline", "attachment"]),
        ),
        max_size=3,
    ),
)
def test_any_message_is_read_back(
    subject: str, name: str, text: str | None, html: str | None, attachments: list[Part]
) -> None:
    quoted_name = name.replace("\\", "\\\\").replace('"', '\\"')
    given_message = message(
        from_=f'"{quoted_name}" <a@example.com>', subject=subject, text=text, html=html, attachments=attachments
    )
    raw = bytes(compose(given_message))
    assert_wire_safe(raw)
    parsed = parse(raw)
    assert str(parsed["Subject"]) == subject
    assert parsed["From"].addresses[0].addr_spec == "a@example.com"
    assert parsed["To"].addresses[0].addr_spec == "b@example.org"
    assert parsed["Date"].datetime == AT
    leaves = [part for part in parsed.walk() if not part.is_multipart()]
    bodies = [leaf for leaf in leaves if leaf.get_filename() is None]
    files = [leaf for leaf in leaves if leaf.get_filename() is not None]
    expected = ([lines(text or "")] if text or not html else []) + ([lines(html)] if html else [])
    assert [body(b) for b in bodies] == expected  # type: ignore[arg-type]
    assert sorted(str(f["Content-Disposition"].params["filename"]) for f in files) == sorted(
        str(a.filename) for a in attachments
    )
    assert sorted(bytes(f.get_payload(decode=True)) for f in files) == sorted(a.content for a in attachments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("plain", "7bit"),
        ("a" * 990, "7bit"),
        ("a" * 991, "quoted-printable"),
        ("Zoë was here, and so were many plain letters", "quoted-printable"),
        ("請求書のご案内", "base64"),
        ("From me\nto you", "quoted-printable"),
        ("x\nFrom me", "quoted-printable"),
        ("a nul\0", "quoted-printable"),
        ("=" * 1_000, "base64"),
        (".\n..\n.x", "7bit"),
    ],
)
def test_the_encoding_of_text(text: str, encoding: str) -> None:
    raw = bytes(compose(message(text=text)))
    assert_wire_safe(raw)
    parsed = parse(raw)
    assert parsed["Content-Transfer-Encoding"] == encoding
    assert body(parsed) == lines(text)


def test_quoted_printable_keeps_its_columns() -> None:
    raw = compose(message(text="é\n" + ("From " + "x" * 71 + "\n") * 3 + "From " * 100 + "é\n")).body
    assert max(map(len, raw.split(b"\r\n"))) <= 76
    assert not any(line.startswith(b"From ") for line in raw.split(b"\r\n"))


def test_line_ends_are_made_one_kind() -> None:
    assert compose(message(text="a\rb\nc\r\nd\r\r\ne")).body == b"a\r\nb\r\nc\r\nd\r\n\r\ne\r\n"


def test_text_without_utf8_form_is_marked() -> None:
    assert compose(message(text="a\ud800 long enough é")).body == b"a? long enough =C3=A9\r\n"


def test_attachments_are_base64_in_76_columns() -> None:
    content = hashlib.sha256(b"x").digest() * 100
    raw = bytes(compose(message(text="t", attachments=[Part(content, "application/pdf", "f.pdf")])))
    assert_wire_safe(raw)
    assert max(map(len, raw.split(b"\r\n"))) <= 78
    [part] = parse(raw).iter_attachments()
    assert part.get_content() == content
    assert part["Content-Transfer-Encoding"] == "base64"


def test_an_inline_image_carries_its_id() -> None:
    raw = bytes(compose(message(html='<img src="cid:img1">', attachments=[IMAGE])))
    image = next(iter(parse(raw).iter_attachments()))
    assert (image["Content-ID"], image.get_content_disposition()) == ("<img1>", "inline")


INNER = b"From: x@y.z\r\nSubject: inner\r\n\r\nbody\r\n"


@pytest.mark.parametrize(
    ("content", "content_type", "expected"),
    [
        (INNER, "message/rfc822", "message/rfc822"),
        (INNER + b"\xe9\r\n", "message/rfc822", "application/octet-stream"),
        (INNER + b"bare\n", "message/rfc822", "application/octet-stream"),
        (INNER + b"\0\r\n", "message/rfc822", "application/octet-stream"),
        (INNER + b"a" * 999 + b"\r\n", "message/rfc822", "application/octet-stream"),
        (INNER, "multipart/mixed; boundary=x", "application/octet-stream"),
    ],
)
def test_attached_messages(content: bytes, content_type: str, expected: str) -> None:
    raw = bytes(compose(message(text="t", attachments=[Part(content, content_type, "m.eml")])))
    assert_wire_safe(raw)
    [part] = parse(raw).iter_attachments()
    assert (part.get_content_type(), part.get_filename()) == (expected, "m.eml")
    assert part["Content-Transfer-Encoding"] == ("7bit" if expected == "message/rfc822" else "base64")
    if expected == "message/rfc822":
        assert content in raw
    else:
        assert part.get_content() == content


def test_many_recipients_fold() -> None:
    to = [f"Person {i} <person{i}@example.org>" for i in range(50)]
    composed = compose(message(to=to, text="t"))
    assert max(map(len, composed.head.split(b"\r\n"))) <= 78
    assert [a.addr_spec for a in parse(bytes(composed))["To"].addresses] == [
        f"person{i}@example.org" for i in range(50)
    ]


def test_nobody_to_show() -> None:
    assert b"\r\nTo: undisclosed-recipients:;\r\n" in compose(message(to=[], text="t")).head
    assert b"\r\nTo:" not in compose(message(to=[], cc=["c@example.org"], text="t")).head


def test_only_a_non_ascii_local_part_needs_smtputf8() -> None:
    assert not compose(message(from_="Zoë <a@münchen.example>", text="é")).smtputf8
    assert compose(message(to=["用户@example.org"], text="t")).smtputf8


def test_dates() -> None:
    assert format_date(datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))) == (
        "Fri, 02 Jan 2026 03:04:05 -0330"
    )
    assert format_date(AT.astimezone(timezone(timedelta(hours=5, minutes=45)))) == "Sat, 21 Nov 2026 11:52:08 +0545"
