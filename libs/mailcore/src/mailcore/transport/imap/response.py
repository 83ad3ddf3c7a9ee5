"""Responses (RFC 3501 §7, §9): tokens of one response, its literals already read in.

An atom or number is `bytes`, a quoted string or literal is `Text`, NIL is None, a parenthesised list is a list. Iterative, so
that no depth of brackets can exhaust the stack; every limit that is broken raises Garbled.
"""

from __future__ import annotations

from typing import TypeAlias

MAX_DEPTH = 40
MAX_TOKENS = 200_000


class Garbled(Exception):
    """What the server says is not IMAP, or more of it than we take."""


class Text(bytes):
    """A quoted string or a literal: not to be mistaken for an atom such as NIL or a flag."""


Token: TypeAlias = "bytes | list[Token] | None"  # noqa: S105


def tokens(parts: list[bytes | Text]) -> list[Token]:
    """`parts` are the response's lines without CRLF and `{n}`, with each literal between them as Text."""
    root: list[Token] = []
    stack = [root]
    count = 0
    for part in parts:
        if isinstance(part, Text):
            stack[-1].append(part)
            continue
        at, end = 0, len(part)
        while at < end:
            count += 1
            if count > MAX_TOKENS:
                raise Garbled("a response of too many parts")
            at = _token(part, at, end, stack)
    if len(stack) != 1:
        raise Garbled("a bracket that is never closed")
    return root


def _token(part: bytes, at: int, end: int, stack: list[list[Token]]) -> int:
    char = part[at]
    if char == 0x20:
        return at + 1
    if char == 0x28:  # (
        if len(stack) > MAX_DEPTH:
            raise Garbled("brackets nested too deep")
        inner: list[Token] = []
        stack[-1].append(inner)
        stack.append(inner)
        return at + 1
    if char == 0x29:  # )
        if len(stack) == 1:
            raise Garbled("a bracket that was never opened")
        stack.pop()
        return at + 1
    if char == 0x22:  # "
        return _quoted(part, at, end, stack)
    return _atom(part, at, end, stack)


def _quoted(part: bytes, at: int, end: int, stack: list[list[Token]]) -> int:
    out = bytearray()
    at += 1
    while at < end and part[at] != 0x22:
        if part[at] == 0x5C:  # RFC 3501 §9 quoted: only " and \ are escaped
            at += 1
            if at >= end:
                break
        out.append(part[at])
        at += 1
    if at >= end:
        raise Garbled("a quoted string that is never closed")
    stack[-1].append(Text(out))
    return at + 1


def _atom(part: bytes, at: int, end: int, stack: list[list[Token]]) -> int:
    start, square = at, 0
    # BODY[HEADER.FIELDS (FROM TO)] and [UIDVALIDITY 7] are one token, brackets and all
    while at < end:
        char = part[at]
        if char == 0x5B:
            square += 1
        elif char == 0x5D:
            square = max(0, square - 1)
        elif not square and char in b' ()"':
            break
        at += 1
    atom = part[start:at]
    stack[-1].append(None if atom.upper() == b"NIL" else atom)
    return at
