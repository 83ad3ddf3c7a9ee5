"""Tag lists, `name=value; name=value`: what signatures and key records are written in (RFC 6376 §3.2)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from mailcore.kit.errors import Invalid

_BLANKS = b" \t\r\n"
_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*\Z")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MAX_DIGITS = 12
"""Of a time: beyond it no clock will ever go (RFC 6376 §3.5, t=)."""


def parse_tags(text: bytes) -> dict[bytes, bytes]:
    """Names as they are written, in their order; values without the blanks around them. Octets beyond ASCII pass (RFC 8616).

    Raises Invalid: a tag without a name or `=`, one that is there twice, an empty one before the last semicolon.
    """
    if _CONTROL.search(text):
        raise Invalid("The list of tags holds a control character.")
    pieces = text.split(b";")
    if not pieces[-1].strip(_BLANKS):
        pieces.pop()
    tags: dict[bytes, bytes] = {}
    for piece in pieces:
        name, equals, value = piece.partition(b"=")
        name = name.strip(_BLANKS)
        if not equals or not _NAME.match(name):
            raise Invalid(f"{_shown(piece)} is no tag.")
        if name in tags:
            raise Invalid(f"The tag {name.decode()}= is there twice.")
        tags[name] = value.strip(_BLANKS)
    return tags


def required(tags: Mapping[bytes, bytes], name: bytes) -> bytes:
    """Raises Invalid where it is missing or empty."""
    value = tags.get(name)
    if not value:
        raise Invalid(f"The tag {name.decode()}= is {'missing' if value is None else 'empty'}.")
    return value


def text(value: bytes) -> str:
    """Raises Invalid for what is no UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"{_shown(value)} is not UTF-8.") from error


def octets(value: bytes) -> bytes:
    """Base64, in which blanks mean nothing (RFC 6376 §2.10). Raises Invalid."""
    try:
        return base64.b64decode(b"".join(value.split()), validate=True)
    except binascii.Error as error:
        raise Invalid(f"{_shown(value)} is not base64.") from error


def number(tags: Mapping[bytes, bytes], name: bytes) -> int | None:
    """None where the tag is missing. Raises Invalid for what is no plain decimal number."""
    value = tags.get(name)
    if value is None:
        return None
    if not value.isdigit() or len(value) > _MAX_DIGITS:
        raise Invalid(f"The tag {name.decode()}= is not a number.")
    return int(value)


def words(value: bytes) -> list[bytes]:
    """`a : b`, in lower case; what is empty is left out."""
    return [word for each in value.split(b":") if (word := each.strip(_BLANKS).lower())]


def without_value(field: bytes, tag: bytes) -> bytes:
    """A whole field with the value of one tag taken out, blanks around it too, and nothing else touched (RFC 6376 §3.5, b=)."""
    name, colon, tags = field.partition(b":")
    pieces = [
        piece[: piece.index(b"=") + 1] if piece.partition(b"=")[0].strip(_BLANKS) == tag and b"=" in piece else piece
        for piece in tags.split(b";")
    ]
    return name + colon + b";".join(pieces)


def _shown(value: bytes) -> str:
    return ascii(value[:40].decode("latin-1"))
