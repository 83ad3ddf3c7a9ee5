"""Whom a mail names as its author: every domain that some reader of its From field might show (RFC 5322 §3.6.2, RFC 6854).

Readers differ, and who forges looks for the difference: two From fields, an address in a comment, a source route, one in a display
name. So none is preferred: whatever stands as an address outside of quotes and comments must be vouched for, and a field that can
be read in ways we do not know is `wrong`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.dns.names import normalize_domain
from mailcore.kit.errors import Invalid
from mailcore.mime.fields import parse_addresses
from mailcore.mime.text import decode_words

MAX_DOMAINS = 5
MAX_OCTETS = 20_000
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\u2028\u2029]")
_PLAIN = re.compile(
    r"(?:[A-Za-z0-9 !#$%&'*+/=?^_`{|}~.-]*<[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@([A-Za-z0-9._-]+)>"
    r"|[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@([A-Za-z0-9._-]+))\Z"
)
"""One address, with or without a name, that everybody reads alike."""
_HIDDEN = re.compile(r'"(?:[^"\\]|\\.)*"|\\.', re.DOTALL)
_DOMAIN = re.compile(r"@[ \t]*([^ \t<>(),:;\"\\@]*)")
_LITERAL = re.compile(r"\[[^\]]*\]\Z")
_ENCODED = re.compile(r"=\?[^?\s]{1,100}\?[bqBQ]\?[^?]*\?=")


@dataclass(frozen=True, slots=True)
class Authors:
    domains: tuple[str, ...]
    """In normal form, each once."""
    wrong: str = ""
    """Why nobody can be held to be the author. Empty: nothing is."""


def authors(fields: Sequence[tuple[bytes, bytes]]) -> Authors:
    """`fields` as from dkim.canonical.split_fields."""
    found = [raw for name, raw in fields if name == b"from"]
    if len(found) != 1:  # RFC 5322 §3.6
        return Authors((), "There are several From fields." if found else "There is no From field.")
    raw = found[0].partition(b":")[2].replace(b"\r\n", b"")
    if len(raw) > MAX_OCTETS:
        return Authors((), f"The From field has more than {MAX_OCTETS} octets.")
    try:
        text = raw.decode().strip(" \t")
    except UnicodeDecodeError:
        text = raw.decode("latin-1").strip(" \t")  # a name that some old program wrote; in a domain it is refused below
    if _CONTROL.search(text):
        return Authors((), "The From field holds a control character.")
    plain = _PLAIN.match(text)
    try:
        if plain is not None and "=?" not in text:
            return Authors((normalize_domain(plain[1] or plain[2], underscore=True),))
        return _read(text)
    except Invalid as error:
        return Authors((), f"The From field names no domain: {error.public}")


def _read(text: str) -> Authors:
    bare = _without_comments(text)
    if bare is None:
        return Authors((), "The From field has a comment or a quote that does not end.")
    domains: dict[str, None] = {}
    literal = False
    for match in _DOMAIN.finditer(bare):
        if _LITERAL.match(match[1]):
            literal = True
        else:
            domains[normalize_domain(match[1], underscore=True)] = None
    # what a person is shown
    shown = [one.address.rpartition("@")[2] for one in parse_addresses(text)]
    if any(not _LITERAL.match(one) and normalize_domain(one, underscore=True) not in domains for one in shown):
        return Authors(tuple(domains), "The From field can be read in two ways.")
    if any("@" in decode_words(word) for word in _encoded_addresses(bare)):
        return Authors(tuple(domains), "The From field has an address in an encoded word.")
    if not domains and not literal:
        return Authors((), "The From field has no address.")
    if len(domains) > MAX_DOMAINS:
        return Authors((), f"The From field names more than {MAX_DOMAINS} domains.")
    return Authors(tuple(domains))


def _without_comments(text: str) -> str | None:
    """Quoted strings become a letter, comments a blank. None: one of them has no end."""
    out: list[str] = []
    depth, at = 0, 0
    while at < len(text):
        character = text[at]
        if depth == 0 and character in '"\\':
            match = _HIDDEN.match(text, at)
            if match is None:
                return None
            out.append("q")
            at = match.end()
            continue
        if character == "\\":
            at += 1
        elif character == "(":
            depth += 1
            out.append(" ")
        elif character == ")" and depth:
            depth -= 1
        elif depth == 0:
            out.append(character)
        at += 1
    return "".join(out) if depth == 0 else None


def _encoded_addresses(bare: str) -> list[str]:
    """Encoded words of members of the list that have no address of their own: there they stand for one (RFC 2047 §5 forbids it)."""
    return [word for member in re.split(r"[,;]", bare) if "@" not in member for word in _ENCODED.findall(member)]
