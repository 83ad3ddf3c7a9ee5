"""Whose word counts: what a sealer whom somebody trusts had found, before it changed the message (RFC 8617 §7.2.1).

A valid chain only says who had the message in hand. What they say of it is worth what they are worth: so the sets are read from the
last one back, as far as each is of a sealer on the list, for the message that an untrusted one handed on may be of his own making.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from mailcore.mailauth.arc.chain import ArcSet
from mailcore.mailauth.results import domain

MAX_RESULTS = 16_384
"""Octets of a field of results; in a longer one nothing is found."""
_EQUALS = re.compile(r"[ \t]*=[ \t]*")


def vouching(sets: Sequence[ArcSet], author: str, trusted: Collection[str]) -> str:
    """The sealer who found that DMARC passed for `author`, a domain in normal form; empty: none whose word counts.

    `sets`: of a chain that holds. `trusted`: domains in normal form, as seals name them (d=).
    """
    for each in reversed(sets):
        if each.seal.domain not in trusted:
            return ""
        if found_pass(each.results, author):
            return each.seal.domain
    return ""


def found_pass(field: bytes, author: str) -> bool:
    """Whether an ARC-Authentication-Results field says of DMARC that it passed for this domain, and nothing else."""
    said = [words for words in _results(field) if words and words[0].partition("=")[0].partition("/")[0] == "dmarc"]
    if len(said) != 1 or said[0][0].partition("=")[2] != "pass":
        return False
    authors = [value for name, _, value in (word.partition("=") for word in said[0]) if name == "header.from"]
    return [domain(each) for each in authors] == [author]


def _results(field: bytes) -> list[list[str]]:
    """What it says, by method: words in lower case. Empty where it cannot be read to its end."""
    plain = _plain(field.partition(b":")[2][:MAX_RESULTS].decode("latin-1")) if len(field) <= MAX_RESULTS else None
    if plain is None:
        return []
    # RFC 8617 §4.1.1: i=, then who wrote it, then the results (RFC 8601 §2.2)
    return [_EQUALS.sub("=", each).split() for each in plain.lower().split(";")[2:]]


def _plain(text: str) -> str | None:
    """Without comments (RFC 5322 §3.2.2), and with a `"` for each quoted string, so that nothing in one is read as anything else.
    None: one of them has no end."""
    kept: list[str] = []
    depth, quoted, at = 0, False, 0
    while at < len(text):
        character = text[at]
        at += 1
        if character == "\\" and (depth or quoted):
            at += 1  # a quoted pair
        elif quoted:
            quoted = character != '"'
        elif character == "(":
            depth += 1
        elif character == ")" and depth:
            depth -= 1
            kept.append(" ")
        elif depth:
            continue
        elif character == '"':
            quoted = True
            kept.append(character)
        else:
            kept.append(" " if character in "\r\n" else character)
    return None if depth or quoted else "".join(kept)
