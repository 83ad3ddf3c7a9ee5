"""What mail is found by, and what a subject is about."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.mime.subjects import base
from mailcore.mime.words import MAX_WORD, MAX_WORDS, Lexemes, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Hello, World-wide 3.14!", ["hello", "world", "wide", "3", "14"]),
        ("MÜLLER müller Mu\u0308ller", ["muller"] * 3),
        ("Straße İstanbul ﬁne", ["strasse", "istanbul", "fine"]),
        ("ann@mail.example.com", ["ann", "mail", "example", "com"]),
        ("東京タワー と 本", ["東京", "京タ", "タワ", "ワー", "と", "本"]),
        ("iPhone15を買う", ["iphone15", "を買", "買う"]),
        ("한국어 메일", ["한국어", "메일"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("שָׁלוֹם", ["שלום"]),
        ("x_y z", ["x", "y", "z"]),
        ("a" * 100, ["a" * MAX_WORD]),
        ("\0\ud800 ~'\\:", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


@given(st.text())
def test_a_word_can_stand_in_a_tsvector(text: str) -> None:
    for word in words(text):
        assert word
        assert not set(word) & set("'\\:~&|!<>() \t\r\n\0")
        assert len(word) <= MAX_WORD


def test_lexemes_have_their_fields_and_places() -> None:
    made = Lexemes("abc123")
    made.add("Big offer", "s")
    made.add_addresses([("Ann", "ann@mail.x.example"), ("", "it's@evil'.example")], "f")
    made.add("offer")
    found = dict(piece.rpartition("'")[::2] for piece in made.tsvector().split(" "))
    assert found["'abc123offer"] == ":2,16"
    assert found["'abc123s:offer"] == ":2"
    assert {"'abc123f:ann@mail.x.example", "'abc123f:mail.x.example", "'abc123f:x.example"} <= set(found)
    assert not any("evil'" in name for name in found)


def test_c2_no_text_takes_long_or_becomes_much() -> None:
    for text in ("a " * 16_000, "".join(f"{n} " for n in range(8_000)), "é" * 32_000, "東" * 32_000, "\u0301" * 32_000):
        before = time.process_time()
        made = Lexemes("abc123")
        made.add(text)
        assert time.process_time() - before < 1.0
        assert len(made.tsvector().split(" ")) <= MAX_WORDS


@pytest.mark.parametrize(
    ("subject", "text", "is_reply"),
    [
        ("Offer", "Offer", False),
        ("Re: Offer", "Offer", True),
        ("AW: WG: Re[2]: SV :  Offer   now (fwd)", "Offer now", True),
        ("Fwd: Offer", "Offer", False),
        ("[list] Re: Offer", "Offer", True),
        ("Re: [list] [other] Offer", "Offer", True),
        ("[only a tag]", "[only a tag]", False),
        ("回复：你好", "你好", True),
        ("RE：你好", "你好", True),
        ("Regarding: Offer", "Regarding: Offer", False),
        ("Re:", "", True),
        ("", "", False),
        (None, "", False),
    ],
)
def test_what_a_subject_is_about(subject: str | None, text: str, is_reply: bool) -> None:
    found = base(subject)
    assert (found.text, found.is_reply) == (text, is_reply)


def test_c2_no_subject_takes_long() -> None:
    before = time.process_time()
    for subject in ("Re: " * 10_000, "[" * 10_000, "[a]" * 10_000, "Re: [a] " * 5_000, "(fwd)" * 5_000, " " * 10_000):
        base(subject)
    assert time.process_time() - before < 0.5
