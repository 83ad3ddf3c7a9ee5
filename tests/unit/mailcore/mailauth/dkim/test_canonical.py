import hashlib

import pytest
from dkim.canonicalization import Relaxed, Simple
from hypothesis import given
from hypothesis import strategies as st

from mailcore.kit.errors import Invalid
from mailcore.mailauth.dkim.canonical import relaxed_body, relaxed_field, simple_body, simple_field, split_fields

LINES = st.lists(st.text(alphabet="ab \t\xe9.", max_size=12), max_size=12)
BODIES = LINES.map(lambda lines: "".join(line + "\r\n" for line in lines).encode())


@pytest.mark.parametrize(
    ("body", "relaxed", "simple"),
    [
        (b"", b"", b"\r\n"),
        (b"\r\n", b"", b"\r\n"),
        (b"\r\n\r\n\r\n", b"", b"\r\n"),
        (b" \t \r\n \r\n", b"", b" \t \r\n \r\n"),
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n", b" C \r\nD \t E\r\n"),  # RFC 6376 §3.4.5
        (b"a", b"a\r\n", b"a\r\n"),
        (b"a ", b"a\r\n", b"a \r\n"),
        (b"a\t\t", b"a\r\n", b"a\t\t\r\n"),
        (b"a\r\n \t", b"a\r\n", b"a\r\n \t\r\n"),
        (b"a\r\n\n\r\n\r\n", b"a\r\n\n\r\n", b"a\r\n\n\r\n"),
        (b"a\r\r\n\r\n", b"a\r\r\n", b"a\r\r\n"),
    ],
)
def test_bodies(body: bytes, relaxed: bytes, simple: bytes) -> None:
    assert relaxed_body(body) == relaxed
    assert simple_body(body) == simple


@given(BODIES)
def test_bodies_as_dkimpy_sees_them(body: bytes) -> None:
    assert relaxed_body(body) == Relaxed.canonicalize_body(body)
    assert simple_body(body) == Simple.canonicalize_body(body)


@given(BODIES)
def test_relaxing_twice_changes_nothing(body: bytes) -> None:
    assert relaxed_body(relaxed_body(body)) == relaxed_body(body)


def test_fields() -> None:
    # RFC 6376 §3.4.5
    fields = split_fields(b"A: X\r\nB : Y\t\r\n\tZ  \r\n")
    assert [name for name, _ in fields] == [b"a", b"b"]
    assert [relaxed_field(*field) for field in fields] == [b"a:X", b"b:Y Z"]
    assert [simple_field(field) for _, field in fields] == [b"A: X", b"B : Y\t\r\n\tZ  "]


@pytest.mark.parametrize(
    "head",
    [
        b" a: b\r\n",
        b"a\r\n",
        b": b\r\n",
        b"a: b\r\n\r\n",
        b"a: b\n",
        b"a: b\r",
        b"a: b\r\nc: d\ne: f\r\n",
        b"\r\n",
        b"a: b\n\r",
    ],
)
def test_what_is_no_header(head: bytes) -> None:
    with pytest.raises(Invalid):
        split_fields(head)


@given(st.binary(max_size=100) | st.text(alphabet="ab: \t\r\n", max_size=60).map(str.encode))
def test_anything_is_a_header_or_invalid(head: bytes) -> None:
    try:
        fields = split_fields(head)
    except Invalid:
        return
    assert b"\r\n".join(field for _, field in fields) == head.removesuffix(b"\r\n")


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize(
    ("body", "digest_of"),
    [
        (b" \t" * 100_000 + b"x\r\n", b" x\r\n"),
        (b" \t" * 100_000, b""),
        ((b" " * 900 + b"x\r\n") * 1_000, b" x\r\n" * 1_000),
        (b" x" * 5_000_000 + b"\r\n", b" x" * 5_000_000 + b"\r\n"),
        (b" \t" * 5_000_000 + b"\r\n", b""),
        (b"\r\n" * 2_500_000, b""),
        (b"x" + b"\r\n" * 2_500_000, b"x\r\n"),
        (b"\n" + b"\r\n" * 2_500_000 + b"\n", b"\n" + b"\r\n" * 2_500_000 + b"\n\r\n"),
        (b" \r\n" * 1_700_000, b""),
        (
            b"An ordinary line of an ordinary mail.\r\n" * 125_000,
            b"An ordinary line of an ordinary mail.\r\n" * 125_000,
        ),
        (b"A line  with\tblanks \r\n" * 230_000, b"A line with blanks\r\n" * 230_000),
    ],
    ids=lambda value: f"{len(value)}",
)
def test_hostile_bodies_take_linear_time(body: bytes, digest_of: bytes) -> None:
    assert hashlib.sha256(relaxed_body(body)).digest() == hashlib.sha256(digest_of).digest()
    simple_body(body)


@pytest.mark.usefixtures("linear")
def test_hostile_headers_take_linear_time() -> None:
    [(name, field)] = split_fields(b"X: " + b"\r\n \t" * 1_000_000 + b"y\r\n")
    assert relaxed_field(name, field) == b"x:y"
    assert len(split_fields(b"a: b\r\n" * 500_000)) == 500_000
