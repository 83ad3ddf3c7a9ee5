from __future__ import annotations

import base64

import pytest

from mailcore.kit.errors import Refused
from mailcore.kit.seal import Keyring, parse_key

KEY, OTHER = bytes(range(32)), bytes(32)


def test_what_is_sealed_opens_again_and_only_for_its_purpose() -> None:
    keyring = Keyring([KEY])
    sealed = keyring.seal(b"hunter2", "imap")
    assert b"hunter2" not in sealed
    assert keyring.open(sealed, "imap") == b"hunter2"
    assert keyring.seal(b"hunter2", "imap") != sealed
    with pytest.raises(Refused):
        keyring.open(sealed, "dkim")


@pytest.mark.parametrize("at", [0, 1, 5, 17, -1])
def test_a_changed_value_does_not_open(at: int) -> None:
    keyring = Keyring([KEY])
    sealed = bytearray(keyring.seal(b"x" * 20, "imap"))
    sealed[at] ^= 1
    with pytest.raises(Refused):
        keyring.open(bytes(sealed), "imap")


def test_another_key_is_named_as_the_trouble() -> None:
    with pytest.raises(Refused, match="another POSTROOM_ENCRYPTION_KEY"):
        Keyring([OTHER]).open(Keyring([KEY]).seal(b"x", "imap"), "imap")


def test_old_keys_open_and_the_first_seals() -> None:
    old = Keyring([KEY]).seal(b"x", "imap")
    both = Keyring([OTHER, KEY])
    assert both.open(old, "imap") == b"x"
    assert Keyring([OTHER]).open(both.seal(b"y", "imap"), "imap") == b"y"


@pytest.mark.parametrize("text", [base64.b64encode(KEY).decode(), KEY.hex(), KEY.hex().upper(), f" {KEY.hex()}\n"])
def test_keys_come_as_base64_or_hex(text: str) -> None:
    assert parse_key(text) == KEY


@pytest.mark.parametrize("text", ["", "secret", KEY.hex()[:-2], base64.b64encode(KEY[:-1]).decode(), "é" * 44])
def test_anything_else_says_how_to_make_one(text: str) -> None:
    with pytest.raises(Refused, match="openssl rand -base64 32"):
        parse_key(text)
