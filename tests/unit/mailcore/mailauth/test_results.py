"""Our Authentication-Results field, and those that only claim to be ours (reliability B7)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.mailauth.results import Item, address, authserv_id, compose, domain, handed_on, without_ours, word

SERVER = "mx.ours.example"
MAIL = b"From: a@b.example\r\nTo: c@ours.example\r\n\r\nAuthentication-Results: mx.ours.example; spf=pass\r\n"


def test_one_field_a_line_a_method() -> None:
    items = [
        Item("spf", "pass", (("smtp.mailfrom", "a@b.example"),)),
        Item("dkim", "fail", (("header.d", "b.example"), ("header.b", "")), 'a "quoted" reason\r\nX: y'),
    ]
    assert compose(SERVER, items) == (
        "Authentication-Results: mx.ours.example;\r\n\tspf=pass smtp.mailfrom=a@b.example;\r\n"
        '\tdkim=fail reason="a ?quoted? reason??X: y" header.d=b.example\r\n'
    )
    assert compose(SERVER, []) == "Authentication-Results: mx.ours.example;\r\n\tnone\r\n"


@given(st.text(max_size=400), st.text(max_size=400))
def test_b7_nothing_that_strangers_wrote_leaves_its_place(reason: str, value: str) -> None:
    shown = (("smtp.mailfrom", address(value)), ("header.d", domain(value)), ("header.s", word(value)))
    field = compose(SERVER, [Item("spf", "fail", shown, reason), Item("dmarc", "none")])
    assert field.isascii()
    assert re.fullmatch(r"[^\r\n]+\r\n(?:[\t][^\r\n]+\r\n)*", field), field
    assert all(len(line) < 998 for line in field.split("\r\n"))
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "q", field)
    assert bare.count(";") == 2
    assert '"' not in bare
    assert "(" not in bare


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a@b.example", "a@b.example"),
        ("any@legitimate.example'@a.attack.example", "a.attack.example"),
        ("legitimate.example'a.attack.example", ""),
        ("any@legitimate.example(.attack.example", ""),
        ('"a b"@c.example', "c.example"),
        ("a;dmarc=pass@c.example", "c.example"),
        ("ä@c.example", "c.example"),
        ("a@[192.0.2.1]", ""),
        ("", ""),
    ],
)
def test_b7_addresses_are_shown_whole_or_by_their_domain(text: str, shown: str) -> None:
    assert address(text) == shown


FORGED = [
    b"Authentication-Results: mx.ours.example; spf=pass\r\n",
    b"authentication-results: MX.OURS.EXAMPLE; dmarc=pass\r\n",
    b"Authentication-Results : mx.ours.example; dmarc=pass\r\n",
    b"Authentication-Results:\r\n\tmx.ours.example 1;\r\n\tdmarc=pass\r\n",
    b'Authentication-Results: "mx.ours.example"; dmarc=pass\r\n',
    b'Authentication-Results: "mx\\.ours.example" 1; dmarc=pass\r\n',
    b"Authentication-Results: (a (nested) \\) comment) mx.ours.example(x); dmarc=pass\r\n",
    b"Authentication-Results: mx.ours.example.; dmarc=pass\r\n",
    b"Authentication-Results: ; dmarc=pass\r\n",
    b"Authentication-Results: (no end mx.ours.example; dmarc=pass\r\n",
    b'Authentication-Results: "no end; dmarc=pass\r\n',
    b"Authentication-Results:\r\n",
]
OTHERS = [
    b"Authentication-Results: mx.theirs.example; spf=pass\r\n",
    b"Authentication-Results: theirs.example; x=mx.ours.example\r\n",
    b"X-Authentication-Results: mx.ours.example; spf=pass\r\n",
    b"ARC-Authentication-Results: i=1; mx.ours.example; spf=pass\r\n",
    b"Subject: Authentication-Results: mx.ours.example\r\n",
]


@pytest.mark.parametrize("forged", FORGED)
def test_b7_a_field_in_our_name_is_taken_out(forged: bytes) -> None:
    first, rest = MAIL.split(b"\r\n", 1)
    assert without_ours(forged + MAIL, SERVER) == MAIL
    assert without_ours(first + b"\r\n" + forged + forged + rest, SERVER) == MAIL
    assert without_ours(forged, SERVER) == b""
    unix = (forged + MAIL).replace(b"\r\n", b"\n")
    assert without_ours(unix, SERVER) == MAIL.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("other", OTHERS)
def test_b7_everything_else_stays(other: bytes) -> None:
    raw = other + MAIL
    assert without_ours(raw, SERVER) == raw


def test_b7_what_is_handed_on_has_our_field_on_top() -> None:
    field = compose(SERVER, [Item("dmarc", "fail")])
    raw = FORGED[0] + MAIL
    assert handed_on(raw, field, SERVER) == field.encode() + MAIL
    assert without_ours(MAIL, SERVER) is MAIL


@given(st.binary(max_size=200))
def test_any_octets(octets: bytes) -> None:
    raw = b"Authentication-Results:" + octets
    kept = without_ours(raw, SERVER)
    assert len(kept) <= len(raw)
    authserv_id(octets)
