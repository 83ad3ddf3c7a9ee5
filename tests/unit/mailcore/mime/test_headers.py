from email import message_from_bytes, policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.kit.errors import Invalid
from mailcore.mime import headers
from mailcore.mime.headers import address_header, encode_text, filename_parameters, format_mailbox, header
from mailcore.smtp.address import Address, Mailbox, parse_mailbox

# reliability.md C1
FORBIDDEN = [
    "\r",
    "\n",
    "\r\n",
    "\x00",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x1d",
    "\x1e",
    "\x1f",
    "\x7f",
    "\x85",
    "\u2028",
    "\u2029",
]
TEXT = st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=300)
ASCII = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=1_200)


@pytest.mark.parametrize("bad", [*FORBIDDEN, "\ud800", "\x9b"])
@pytest.mark.parametrize("form", ["{}", "a{}", "{}a", "a{}Bcc: x@y.z", "é{}é"])
def test_forbidden_characters_are_refused_with_the_fields_name(form: str, bad: str) -> None:
    value = form.format(bad)
    for check in (headers.check_text, headers.check_filename, headers.check_content_type, headers.check_content_id):
        with pytest.raises(Invalid) as caught:
            check(value, "the_field")
        assert caught.value.field == "the_field"
        assert value not in caught.value.public
    with pytest.raises(Invalid):
        headers.check_headers({"X-A": value})
    with pytest.raises(Invalid):
        headers.check_header_name(value)


def test_percent_forms_and_tabs_are_text() -> None:
    headers.check_text("a%0d%0aBcc: x@y.z\tb", "subject")
    headers.check_filename("a%0d%0a.pdf")
    assert encode_text("a%0d%0aBcc: x@y.z") == b"a%0d%0aBcc: x@y.z"


@pytest.mark.parametrize("name", ["X-Entity-Ref-ID", "x", "List-Unsubscribe", "X_1!#$%&'*+.^`|~", "h" * 76])
def test_header_names(name: str) -> None:
    headers.check_header_name(name)
    headers.check_headers({name: "v"})


@pytest.mark.parametrize(
    "name", ["", " ", "X A", "X:A", "X-A:", "X-A ", " X-A", "X-A\r\nBcc", "X-A\n", "é", "X\x00", "X\x7f", "h" * 77]
)
def test_what_is_no_header_name(name: str) -> None:
    with pytest.raises(Invalid):
        headers.check_header_name(name)
    with pytest.raises(Invalid):
        headers.check_headers({name: "v"})


PLATFORM = (
    "From TO cc Bcc SUBJECT Date Message-Id Sender DKIM-Signature Return-Path Received MIME-Version Content-Type "
    "content-transfer-encoding Content-X Authentication-Results ARC-Seal Resent-From Delivered-To"
)


@pytest.mark.parametrize("name", PLATFORM.split())
def test_headers_of_the_platform(name: str) -> None:
    with pytest.raises(Invalid):
        headers.check_headers({name: "v"})


def test_headers_given_twice() -> None:
    headers.check_headers({"X-A": "1", "x-a": "2", "Reply-To": "a@b.c"})
    with pytest.raises(Invalid):
        headers.check_headers({"References": "<1@a>", "references": "<2@a>"})
    with pytest.raises(Invalid):
        headers.check_headers({"Reply-To": "a@b.c"}, taken={"reply-to"})


def test_limits() -> None:
    with pytest.raises(Invalid):
        headers.check_text("a" * 16_385, "subject")
    with pytest.raises(Invalid):
        headers.check_headers({f"X-{i}": "v" for i in range(101)})
    with pytest.raises(Invalid):
        headers.check_filename("a" * 256)
    with pytest.raises(Invalid):
        headers.check_content_id("a" * 129)


@pytest.mark.parametrize("value", ["", "  ", "invoice\u202egpj.exe", "a\u2066b"])
def test_what_is_no_file_name(value: str) -> None:
    with pytest.raises(Invalid):
        headers.check_filename(value)


@pytest.mark.parametrize(
    "value", ["application/pdf", "image/svg+xml", 'text/plain; charset="utf-8"', "text/html;charset=utf-8; x=y", "a/b"]
)
def test_content_types(value: str) -> None:
    headers.check_content_type(value)


@pytest.mark.parametrize(
    "value", ["", "pdf", "a/", "/b", "a/b;", "a/b; c", "a/b c", 'a/b; c="', "a/b\r\nX: y", "é/b", "a/b/c"]
)
def test_what_is_no_content_type(value: str) -> None:
    with pytest.raises(Invalid):
        headers.check_content_type(value)


@pytest.mark.parametrize("value", ["", "<>", "a b", "<a", "é", "a>b<", "<a><b>"])
def test_what_is_no_content_id(value: str) -> None:
    with pytest.raises(Invalid):
        headers.check_content_id(value)


def lines_fit(field: bytes, limit: int = 998) -> bool:
    lines = field.removesuffix(b"\r\n").split(b"\r\n")
    return all(len(line) <= limit and b"\r" not in line and b"\n" not in line for line in lines) and all(
        line.startswith((b" ", b"\t")) and line.strip() for line in lines[1:]
    )


def read_back(field: bytes, name: str) -> str:
    message = message_from_bytes(field + b"\r\n", policy=policy.SMTP)
    assert message.keys() == [name]
    return str(message[name])


def test_plain_text_stays_as_it_is() -> None:
    assert header("Subject", "Hello, world") == b"Subject: Hello, world\r\n"
    assert header("Subject", "") == b"Subject:\r\n"


def test_the_shorter_of_b_and_q() -> None:
    assert encode_text("Zoë") == b"=?utf-8?q?Zo=C3=AB?="
    assert encode_text("請求書のご案内") == b"=?utf-8?b?6KuL5rGC5pu444Gu44GU5qGI5YaF?="


@given(TEXT)
def test_any_subject_is_read_back(value: str) -> None:
    field = header("Subject", value)
    assert field.isascii()
    assert lines_fit(field, 78 if not value.isascii() else 998)
    assert read_back(field, "Subject") == value


@given(ASCII | st.text(alphabet="a =?_utf-8q\t", max_size=100))
def test_any_ascii_is_read_back(value: str) -> None:
    field = header("X-Text", value)
    assert lines_fit(field)
    assert read_back(field, "X-Text") == value


LONG = ["a" * 3_000, "a " * 3_000 + "b", "é" * 3_000, "a" * 990, " " * 3_000, f"<https://x.example/{'y' * 900}>"]


@pytest.mark.parametrize("value", LONG)
def test_long_text_stays_under_998(value: str) -> None:
    field = header("X-" + "h" * 74, value)
    assert lines_fit(field)
    assert read_back(field, "X-" + "h" * 74) == value


def test_references_fold_at_78() -> None:
    value = " ".join(f"<{i:020}@mail.example.org>" for i in range(40))
    field = header("References", value)
    assert lines_fit(field, 78)
    assert field.replace(b"\r\n", b"") == b"References: " + value.encode()


@pytest.mark.parametrize(
    ("mailbox", "form"),
    [
        ("a@b.c", b"a@b.c"),
        ("Acme Corp <a@b.c>", b"Acme Corp <a@b.c>"),
        ("Acme, Inc. <a@b.c>", b'"Acme, Inc." <a@b.c>'),
        ('"A \\"B\\"" <a@b.c>', b'"A \\"B\\"" <a@b.c>'),
        ("Zoë <a@b.c>", b"=?utf-8?q?Zo=C3=AB?= <a@b.c>"),
        ("a@bank.test <a@b.c>", b'"a@bank.test" <a@b.c>'),
        ("A <用户@例え.テスト>", "A <用户@xn--r8jz45g.xn--zckzah>".encode()),
    ],
)
def test_mailboxes(mailbox: str, form: bytes) -> None:
    assert format_mailbox(parse_mailbox(mailbox)) == form


NAMES = st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=120)


LOCALS = st.from_regex(r"\A[a-z0-9+_]{1,20}(\.[a-z0-9]{1,20})?\Z")
MAILBOXES = st.lists(st.builds(Mailbox, NAMES, st.builds(Address, LOCALS, st.just("example.org"))), min_size=1)


@given(MAILBOXES)
def test_any_address_list_is_read_back(mailboxes: list[Mailbox]) -> None:
    field = address_header("To", mailboxes)
    assert lines_fit(field)
    parsed = message_from_bytes(field + b"\r\n", policy=policy.SMTP)["To"].addresses
    assert [a.addr_spec for a in parsed] == [str(m.address) for m in mailboxes]
    # this reader makes one blank of several, and one of the fold between encoded words, against RFC 2047 §6.2
    assert ["".join(a.display_name.split()) for a in parsed] == ["".join(m.name.split()) for m in mailboxes]


def test_a_long_address_list_folds_at_78() -> None:
    mailboxes = [Mailbox(f"Person number {i}", Address(f"person.number.{i}", "example.org")) for i in range(50)]
    field = address_header("To", mailboxes)
    assert lines_fit(field, 78)
    assert field.count(b"@") == 50


@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=255))
def test_any_file_name_is_read_back(filename: str) -> None:
    name, disposition = filename_parameters(filename)
    field = b"Content-Type: application/pdf" + name + b"\r\nContent-Disposition: attachment" + disposition + b"\r\n"
    assert field.isascii()
    assert all(len(line) <= 140 for line in field.split(b"\r\n"))
    message = message_from_bytes(field + b"\r\n", policy=policy.SMTP)
    assert message.keys() == ["Content-Type", "Content-Disposition"]
    assert message["Content-Disposition"].params["filename"] == filename
    # what stands beside it is plain
    assert message["Content-Type"].params["name"].isascii()
