"""Which passwords are taken, and what their hashes are worth."""

from __future__ import annotations

import asyncio
import unicodedata

import pytest

from mailcore.kit.errors import Unavailable
from mailcore.kit.passwords import Passwords, hashed, matches, weakness


@pytest.mark.parametrize(
    ("password", "word"),
    [
        ("seven77", "at least 8"),
        ("seven7e\u0301", "at least 8"),  # the accent is no letter of its own
        ("Postroom-" * 9, "at most 72 bytes"),
        ("é" * 36 + "a", "at most 72 bytes"),
        ("PASSWORD", "common"),
        ("ababababab", "common"),
        ("12345678", "common"),
        ("jihgfedcba", "common"),
        ("ann.smith@example.com", "your own"),
        ("Ann.Smith", "your own"),
    ],
)
def test_what_is_not_taken(password: str, word: str) -> None:
    assert word in str(weakness(password, ("ann.smith@example.com", "Ann"))), password


@pytest.mark.parametrize(
    "password", ["correct horse battery", "x1y2z3w4", "é" * 30 + "abcdefgh", "  spaced out  ", "密码不是这个词好吗"]
)
def test_what_is_taken(password: str) -> None:
    assert weakness(password, ("ann@example.com", "Ann")) is None
    assert matches(password, hashed(password, 4))


def test_a_hash() -> None:
    stored = hashed("correct horse battery")
    assert stored.startswith("$2b$12$")
    assert matches("correct horse battery", stored)
    assert not matches("correct horse batterz", stored)
    assert not matches("", stored)


def test_what_is_beyond_72_bytes_opens_nothing() -> None:
    stored = hashed("a" * 72, 4)
    assert matches("a" * 72, stored)
    assert not matches("a" * 73, stored)
    with pytest.raises(ValueError, match="72"):
        hashed("a" * 73, 4)


def test_however_a_keyboard_composes_it() -> None:
    composed = "müller-straße"
    assert matches(unicodedata.normalize("NFD", composed), hashed(composed, 4))


@pytest.mark.parametrize("stored", [None, "", "$2a$", "$argon2id$v=19$m=1", "plain"])
def test_no_hash_no_match(stored: str | None) -> None:
    assert not matches("plain", stored, 4)
    assert not matches("", stored, 4)


async def test_who_finds_the_line_full_is_told_so() -> None:
    passwords = Passwords(threads=1, waiting=3, cost=4)
    stored = hashed("correct horse battery", 4)
    answers = await asyncio.gather(
        *(passwords.match("correct horse battery", stored) for _ in range(5)), return_exceptions=True
    )
    assert answers[:3] == [True] * 3
    assert [type(each) for each in answers[3:]] == [Unavailable] * 2
    assert await passwords.match("other", stored) is False
    passwords.close()
