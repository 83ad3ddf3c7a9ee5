"""DSN parameters: what is asked for is said so that any peer reads the same, and nothing in a value can leave its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.kit.errors import Invalid
from mailcore.smtp.dsn import (
    DsnRequest,
    Notify,
    Ret,
    from_utf8_xtext,
    from_xtext,
    parse_envid,
    parse_notify,
    parse_orcpt,
    parse_ret,
    utf8_xtext,
    xtext,
)


def test_what_is_asked_is_said() -> None:
    assert DsnRequest().on_mail == ""
    assert DsnRequest().on_rcpt(smtputf8=False) == ""
    asked = DsnRequest(Ret.FULL, "QQ314159", frozenset({Notify.DELAY, Notify.SUCCESS}), orcpt="Dana@Ivory.test")
    assert asked.on_mail == " RET=FULL ENVID=QQ314159"
    assert asked.on_rcpt(smtputf8=False) == " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Dana@Ivory.test"
    assert DsnRequest(notify=frozenset({Notify.NEVER})).on_rcpt(smtputf8=True) == " NOTIFY=NEVER"


def test_an_original_recipient_beyond_ascii() -> None:
    """RFC 6533 §3: as UTF-8 where SMTPUTF8 is in force, and in ASCII where it is not."""
    asked = DsnRequest(orcpt_type="utf-8", orcpt="j\u00f6rg+\u0661@b.test")
    assert asked.on_rcpt(smtputf8=True) == " ORCPT=utf-8;j\u00f6rg\\x{2B}\u0661@b.test"
    assert asked.on_rcpt(smtputf8=False) == " ORCPT=utf-8;j\\x{F6}rg\\x{2B}\\x{661}@b.test"


@given(st.text(max_size=60))
def test_no_value_leaves_its_place(text: str) -> None:
    for said in (xtext(text) if text.isascii() else "", utf8_xtext(text, ascii_only=True)):
        assert said.isascii()
        assert not set(said) & set(" =\r\n\t\x00")
    for said in DsnRequest(envid=text.encode("ascii", "replace").decode(), orcpt_type="utf-8", orcpt=text).on_rcpt(
        smtputf8=True
    ):
        assert said == " " or said.isprintable()


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30))
def test_xtext_both_ways(text: str) -> None:
    assert from_xtext(xtext(text)) == text
    assert parse_envid(xtext(text)) == text


@given(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=30), st.booleans())
def test_unicode_xtext_both_ways(text: str, ascii_only: bool) -> None:
    assert from_utf8_xtext(utf8_xtext(text, ascii_only=ascii_only)) == text


def test_what_is_read() -> None:
    assert parse_ret("hdrs") is Ret.HDRS
    assert parse_notify("success,FAILURE") == {Notify.SUCCESS, Notify.FAILURE}
    assert parse_notify("never") == {Notify.NEVER}
    assert parse_orcpt("RFC822;a+2Bb@c.test") == ("rfc822", "a+b@c.test")
    assert parse_orcpt("utf-8;j\u00f6rg\\x{2B}@c.test") == ("utf-8", "j\u00f6rg+@c.test")


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (parse_ret, "BODY"),
        (parse_ret, ""),
        (parse_notify, ""),
        (parse_notify, "NEVER,SUCCESS"),
        (parse_notify, "SUCCESS,,DELAY"),
        (parse_envid, ""),
        (parse_envid, "x" * 101),
        (parse_envid, "a b"),
        (parse_envid, "a=b"),
        (parse_envid, "a+0D+0AMAIL"),
        (parse_envid, "a+0d"),
        (parse_envid, "a+"),
        (parse_envid, "a+FF"),
        (parse_orcpt, "a@b.test"),
        (parse_orcpt, "rfc822;"),
        (parse_orcpt, ";a@b.test"),
        (parse_orcpt, "rf c822;a@b.test"),
        (parse_orcpt, "rfc822;" + "x" * 500),
        (parse_orcpt, "rfc822;a+00b"),
        (parse_orcpt, "utf-8;a\\x{D800}b"),
        (parse_orcpt, "utf-8;a\\x{110000}b"),
        (parse_orcpt, "utf-8;a\\x{2028}b"),
        (parse_orcpt, "utf-8;a+2Bb"),
    ],
)
def test_what_is_refused(parse: object, value: str) -> None:
    with pytest.raises(Invalid):
        parse(value)  # type: ignore[operator]


def test_an_address_type_is_a_word() -> None:
    with pytest.raises(Invalid):
        DsnRequest(orcpt_type="rfc822;a BODY=8BITMIME", orcpt="x")
