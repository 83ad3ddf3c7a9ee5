from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.kit.errors import Invalid
from mailcore.mailauth.dkim.tags import number, octets, parse_tags, without_value, words


def test_blanks_and_folds_around_names_and_values_mean_nothing() -> None:
    assert parse_tags(b" v = 1 ;\r\n\ta=b=c ; e=;\r\n ") == {b"v": b"1", b"a": b"b=c", b"e": b""}
    assert parse_tags(b"") == {}


@pytest.mark.parametrize(
    "text",
    [b"a", b"a=1;;b=2", b";a=1", b"=1", b"a=1; a=2", b"1a=2", b"a b=2", b"a=\x00", b"a=1;\x7f=2", "ü=1".encode()],
)
def test_what_is_no_list(text: bytes) -> None:
    with pytest.raises(Invalid):
        parse_tags(text)


@given(st.binary(max_size=200) | st.text(alphabet="ab=; \t\r\n", max_size=80).map(str.encode))
def test_anything_is_a_list_or_invalid(text: bytes) -> None:
    try:
        tags = parse_tags(text)
    except Invalid:
        return
    assert parse_tags(b";".join(b"%b=%b" % each for each in tags.items())) == tags


def test_numbers() -> None:
    assert number({b"t": b"007"}, b"t") == 7
    assert number({}, b"t") is None
    for wrong in (b"", b"-1", b"1.5", b"1 2", b"x", b"9" * 13, "٣".encode()):
        with pytest.raises(Invalid):
            number({b"t": wrong}, b"t")


def test_base64() -> None:
    assert octets(b"aG\r\n k=") == b"hi"
    for wrong in (b"aGk", b"a*k=", b"aGk=aGk="):
        with pytest.raises(Invalid):
            octets(wrong)


def test_words() -> None:
    assert words(b"From : to::\r\n SUBJECT ") == [b"from", b"to", b"subject"]
    assert words(b"") == []


@pytest.mark.parametrize(
    ("field", "emptied"),
    [
        (b"A: a=1; b=xyz", b"A: a=1; b="),
        (b"A: b = x=\r\n y ; bh=b", b"A: b =; bh=b"),
        (b"A:b=1;bb=b=2", b"A:b=;bb=b=2"),
        (b"A: a=1", b"A: a=1"),
        (b"A: b", b"A: b"),
    ],
)
def test_only_one_value_is_taken_out(field: bytes, emptied: bytes) -> None:
    assert without_value(field, b"b") == emptied
