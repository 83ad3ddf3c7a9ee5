"""What is to be doubted about a mail that wants to look like another's: for whoever reads it, beside what it says.

several_authors   more than one From, or more than one address in it: others may have checked another one than is shown
name_has_address  the display name holds an address, and not the one that wrote
mixed_scripts     letters of several alphabets in one label of the domain, or in the local part: `аррӏе` among Latin ones
another_checked   the author is not of the domain that DMARC asked about (flow.in_hand): the field can be read in two ways
looks_alike       the domain's letters all look like Latin ones and are none: it is shown as `xn--…`
turned_around     marks that turn the direction of writing stood in a name, of a person or a file; they are taken out
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import idna

from mailcore.mime.fields import TURNING, MailAddress

_ADDRESS = re.compile(r"[^\s<>\"'(),:;\[\]@]{1,64}@[^\s<>\"'(),:;\[\]@]{1,253}")
_ALIKE = frozenset("асеорхуіјһԁԛѕѡӏкмтвнгпьᴦο\u03b1\u03bd\u03c1\u03c5\u03b9\u03ba\u03c7\u0261\u0131")
"""Small letters of Cyrillic and Greek that are drawn as Latin ones are (Unicode TS 39, confusables)."""
# scripts that one language writes together (Unicode TS 39 §5.1)
_TOGETHER = (
    frozenset(("LATIN", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA")),
    frozenset(("LATIN", "CJK", "BOPOMOFO")),
    frozenset(("LATIN", "CJK", "HANGUL")),
)


def doubts(authors: Iterable[MailAddress], names: Iterable[str | None] = ()) -> list[str]:
    """`authors`: of From, in order; `names`: of everybody else and of files, as they were written."""
    authors = list(authors)
    found: dict[str, None] = {}
    if len(authors) > 1:
        found["several_authors"] = None
    for one in authors:
        inside = _ADDRESS.search(one.name)
        if inside is not None and inside[0].casefold() != one.address.casefold():
            found["name_has_address"] = None
        local, _, domain = one.address.rpartition("@")
        for label in domain.split("."):
            text = _unicode(label)
            if is_mixed(text):
                found["mixed_scripts"] = None
            elif not text.isascii() and all(letter in _ALIKE or not letter.isalpha() for letter in text):
                found["looks_alike"] = None
        if is_mixed(local):
            found["mixed_scripts"] = None
    if any(TURNING.search(name) for name in (*names, *(one.name for one in authors)) if name):
        found["turned_around"] = None
    return list(found)


def is_mixed(text: str) -> bool:
    """Letters of scripts that no language mixes."""
    scripts = {unicodedata.name(letter, "?").partition(" ")[0] for letter in text if letter.isalpha()}
    return len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER)


def _unicode(label: str) -> str:
    if not label.lower().startswith("xn--"):
        return label
    try:
        return idna.ulabel(label)
    except (idna.IDNAError, UnicodeError):
        return label
