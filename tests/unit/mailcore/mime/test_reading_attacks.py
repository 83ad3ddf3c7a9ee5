"""Mail that wants to look like another's, as it is read and shown (reliability B6, B11)."""

from __future__ import annotations

import unicodedata

import pytest

from mailcore.kit.errors import Invalid
from mailcore.mailauth.dkim.canonical import split_fields
from mailcore.mailauth.dmarc.author import authors
from mailcore.mime.parse import Message, Summary


def _read(*lines: str) -> Summary:
    return Message("\r\n".join((*lines, "", "")).encode()).summary()


# who is honestly named is x@evil.example in each; ceo@bank.test is whom somebody is to see
SPOOFS = {
    "two From fields": ("From: x@evil.example", "From: ceo@bank.test"),
    "two From fields, the other first": ("From: ceo@bank.test", "From: x@evil.example"),
    "two addresses": ("From: ceo@bank.test, x@evil.example",),
    "a blank before the colon": ("From : ceo@bank.test", "From: x@evil.example"),
    "a tab before the colon": ("From: x@evil.example", "From\t: ceo@bank.test"),
    "a folded name": ("From\r\n : ceo@bank.test", "From: x@evil.example"),
    "a leading blank": (" From: ceo@bank.test", "From: x@evil.example"),
    "an encoded address": ("From: =?utf-8?q?ceo=40bank.test?= <x@evil.example>",),
    "an encoded address alone": ("From: =?utf-8?b?Y2VvQGJhbmsudGVzdA==?=",),
    "a source route": ("From: <@bank.test:x@evil.example>",),
    "a source route the other way": ("From: <@evil.example:ceo@bank.test>",),
    "a group": ("From: ceo@bank.test: x@evil.example;",),
    "a group of two": ("From: team: ceo@bank.test, x@evil.example;",),
    "a NUL": ("From: ceo@bank.test\0, x@evil.example",),
    "a NUL in the domain": ("From: ceo@bank.test\0.evil.example",),
    "an address as a name": ("From: ceo@bank.test <x@evil.example>",),
    "a quoted address as a name": ('From: "ceo@bank.test" <x@evil.example>',),
    "a quoted pair": ("From: <ceo@bank.test>\\,<x@evil.example>",),
    "two in angles": ("From: <ceo@bank.test><x@evil.example>",),
    "a comment": ("From: ceo@bank.test(<x@evil.example>)",),
}


@pytest.mark.parametrize("spoof", SPOOFS)
def test_b6_who_is_shown_is_who_was_checked_or_there_is_a_doubt(spoof: str) -> None:
    found = _read(*SPOOFS[spoof])
    try:
        checked = authors(split_fields("\r\n".join((*SPOOFS[spoof], "")).encode()))
    except Invalid:
        return  # nothing is checked of such a header
    shown = found.from_[0] if found.from_ else None
    if checked.wrong or len(checked.domains) != 1:
        return  # DMARC fails, which is told with the message (`authentication`, doubt `another_checked`)
    assert shown is not None
    assert shown.address.rpartition("@")[2] == checked.domains[0]
    assert "ceo@bank.test" not in shown.name or "name_has_address" in found.doubts
    assert "\0" not in shown.address


def test_b6_two_authors_are_doubted_and_both_are_there() -> None:
    for lines in (SPOOFS["two From fields"], SPOOFS["two addresses"], SPOOFS["a blank before the colon"]):
        found = _read(*lines)
        assert {one.address for one in found.from_} == {"x@evil.example", "ceo@bank.test"}
        assert "several_authors" in found.doubts


def test_b11_domains_are_shown_as_they_are_on_the_wire() -> None:
    for written in ("а@аррӏе.example", "a@XN--80AK6AA92E.example", "a@аррӏе。example"):
        (found,) = _read(f"From: Apple <{written}>").from_
        assert found.address.rpartition("@")[2].lower() == "xn--80ak6aa92e.example"
    assert _read("From: <x@аррӏе.example>").doubts == ["looks_alike"]
    assert _read("From: <x@xn--80ak6aa92e.example>").doubts == ["looks_alike"]
    assert _read("From: <x@gооgle.example>").doubts == ["mixed_scripts"]
    assert "mixed_scripts" in _read("From: <раypal@bank.test>").doubts
    for honest in (
        "müller@bücher.example",
        "x@пример.example",
        "x@日本語テスト.example",
        "x@한국어漢字.example",
        "x@example.com",
    ):
        assert _read(f"From: <{honest}>").doubts == [], honest


def test_b11_one_account_however_it_is_written() -> None:
    for form in ("NFC", "NFD", "NFKC"):
        (found,) = _read("To: " + unicodedata.normalize(form, "x@BÜCHER.example")).to
        assert found.address == "x@xn--bcher-kva.example"


def test_b11_nothing_turns_a_name_around() -> None:
    found = _read(
        "From: =?utf-8?q?=E2=80=AEtset.knab_OEC?= <x@evil.example>",
        'Content-Type: application/pdf; name="invoice\u202egpj.exe"',
        "Content-Disposition: attachment",
    )
    assert found.from_[0].name == "tset.knab OEC"
    assert [one.filename for one in found.attachments] == ["invoicegpj.exe"]
    assert found.doubts == ["turned_around"]
    assert _read("From: אבג <x@evil.example>").doubts == [], "who writes from right to left is nobody's double"
