"""Canonical forms (RFC 6376 §3.4). Each octet is looked at a bounded number of times, whatever the input."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mailcore.kit.errors import Invalid

_TABS_TO_BLANKS = bytes.maketrans(b"\t", b" ")
_TRAILING_CRLFS = re.compile(rb"(?:\n\r)*")  # on the reversed body


def split_fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """`(name in lower case, whole field without its last CRLF)` of each header field, in order.

    Raises Invalid for what is no header: a bare CR or LF, an empty line, a line without a colon, a first line that is a
    continuation.
    """
    if not head.count(b"\r\n") == head.count(b"\r") == head.count(b"\n"):
        raise Invalid("The header has a line end that is not CRLF.")
    lines = head.removesuffix(b"\r\n").split(b"\r\n") if head else []
    fields: list[list[bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if not fields:
                raise Invalid("The header begins with a continuation line.")
            fields[-1].append(line)
        else:
            fields.append([line])
    return [(_field_name(field[0]), field[0] if len(field) == 1 else b"\r\n".join(field)) for field in fields]


Fields = Mapping[bytes, Sequence[bytes]]
"""Name in lower case → its fields, from top to bottom."""


def by_name(fields: Sequence[tuple[bytes, bytes]]) -> Fields:
    found: dict[bytes, list[bytes]] = {}
    for name, field in fields:
        found.setdefault(name, []).append(field)
    return found


def _field_name(line: bytes) -> bytes:
    name, colon, _ = line.partition(b":")
    name = name.rstrip(b" \t")  # RFC 5322 §4.5 (obs): blanks before the colon
    if not colon or not name:
        raise Invalid("The header has a line that is no field.")
    return name.lower()


def relaxed_field(name: bytes, field: bytes) -> bytes:
    """RFC 6376 §3.4.2, without the CRLF. `name` in lower case, `field` whole and possibly folded."""
    value = field.partition(b":")[2]
    if b"\r\n" in value:
        value = value.replace(b"\r\n", b"")
    return b"%b:%b" % (name, _one_blank(value).strip(b" "))


def simple_field(field: bytes) -> bytes:
    """RFC 6376 §3.4.1: as it is."""
    return field


def relaxed_body(body: bytes) -> bytes:
    """RFC 6376 §3.4.4: no blanks at line ends, one for several inside, no empty lines at the end; empty stays empty."""
    body = _one_blank(body)
    if b" \r\n" in body:
        body = body.replace(b" \r\n", b"\r\n")
    if body.endswith(b" "):
        body = body[:-1]
    body = _without_trailing_crlfs(body)
    return body + b"\r\n" if body else b""


def simple_body(body: bytes) -> bytes:
    """RFC 6376 §3.4.3: exactly one CRLF at the end; an empty body is one CRLF."""
    return _without_trailing_crlfs(body) + b"\r\n"


def _one_blank(value: bytes) -> bytes:
    """Each run of blanks and tabs as one blank. A run halves with every pass, so the passes are few and shrink."""
    if b"\t" in value:
        value = value.translate(_TABS_TO_BLANKS)
    while b"  " in value:
        value = value.replace(b"  ", b" ")
    return value


def _without_trailing_crlfs(body: bytes) -> bytes:
    if not body.endswith(b"\r\n"):
        return body
    if not body.endswith(b"\r\n\r\n"):
        return body[:-2]
    kept = body.rstrip(b"\r\n")
    # only whole CRLFs go: a bare CR or LF at the end is content
    tail = body[len(kept) :][::-1]
    pairs = _TRAILING_CRLFS.match(tail)
    assert pairs is not None
    return body[: len(body) - pairs.end()]
