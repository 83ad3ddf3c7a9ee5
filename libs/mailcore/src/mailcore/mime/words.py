"""The words of mail, for finding it: the same reading of text when a message is stored and when somebody searches.

1. letters of one kind are one: case, width and accents fold (`Müller`, `MULLER`)
2. a word is a run of letters and digits; what stands between ends it, so that an address is three words in a row
3. scripts written without blanks are read two characters at a time

No language is assumed: no stemming, no stop words. Linear in the text; nothing here raises.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

MAX_WORD = 40
"""Characters of a word that count."""
MAX_WORDS = 3_000
"""Different words of one mail; what comes after them is not found."""
_POSITIONS = 8
"""Places of one word that are kept, for phrases."""

# each octet of ASCII as it stands in a word, a blank where it stands in none
_ASCII = "".join(chr(at).lower() if chr(at).isalnum() else " " for at in range(128))
# a vowel sign of India or South East Asia is no letter to `re`, but stands within words
_RUN = re.compile("(?:[^\\W_]++|[\u0900-\u0963\u0966-\u109f\u1780-\u17ff]++)++")
# Thai, Lao, Myanmar, Khmer; kana; Han and its extensions. Hangul has blanks.
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]+)"
)
# accents of the West, points of Hebrew and Arabic; the vowel signs of India are marks, too, but make another word
_POINTS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670]")
_ADDRESS = re.compile(r"[^\s\x00-\x1f\x7f'\"\\~<>()\[\],;:]{1,320}\Z")


def words(text: str) -> list[str]:
    """In order; two characters at a time where a script has no blanks (one, where it stands alone)."""
    if not text.isascii():
        text = _folded(text)
    if text.isascii():
        return _cut(text.translate(_ASCII).split())
    runs = _RUN.findall(text)
    if not _UNSPACED.search(text):
        return _cut(runs)
    found: list[str] = []
    for run in runs:
        if run.isascii() or not _UNSPACED.search(run):
            found.append(run[:MAX_WORD])
            continue
        for piece in _UNSPACED.split(run):
            if not piece:
                continue
            if not _UNSPACED.match(piece):
                found.append(piece[:MAX_WORD])
            elif len(piece) == 1:
                found.append(piece)
            else:
                found += [piece[at : at + 2] for at in range(len(piece) - 1)]
    return found


def _cut(found: list[str]) -> list[str]:
    return found if max(map(len, found), default=0) <= MAX_WORD else [word[:MAX_WORD] for word in found]


def is_unspaced(word: str) -> bool:
    """Whether `words` would read longer text of its kind two characters at a time."""
    return _UNSPACED.match(word) is not None


def folded_address(text: str) -> str | None:
    """An address or a domain as one word; None where it holds what neither may."""
    folded = text.strip().casefold()
    return folded if _ADDRESS.match(folded) else None


def _folded(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", _POINTS.sub("", apart))


@dataclass(slots=True)
class Lexemes:
    """A mail's words as a tsvector, being put together. In it a word stands alone, and once more behind the field it is of:
    `s:` subject, `f:` from, `t:` to (cc and bcc too), `n:` names of files; `h:` what the mail has, `m:` the mailbox."""

    mark: str
    """What each begins with: the organization's and the time's."""
    _places: dict[str, list[int]] = field(default_factory=dict)
    _place: int = 0

    def add(self, text: str, field_: str = "") -> None:
        # a text has hundreds of words, and this is run for each: no call but those of dicts and lists
        known, first = self._places, self._place + 1
        found = words(text)
        for prefix in ("", f"{field_}:") if field_ else ("",):
            for place, word in enumerate([prefix + word for word in found] if prefix else found, first):
                places = known.get(word)
                if places is None:
                    if len(known) < MAX_WORDS:
                        known[word] = [place]
                elif len(places) < _POSITIONS:
                    places.append(place)
        self._place = first + len(found)  # a phrase does not reach from one field into the next

    def add_addresses(self, people: Iterable[tuple[str, str]], field_: str) -> None:
        """Names with addresses; of an address also itself, its local part, its domain and what that belongs to."""
        for name, address in people:
            if name and name != address:
                self.add(name, field_)
            self.add(address, field_)
            whole = folded_address(address)
            if whole is None:
                continue
            local, _, domain = whole.rpartition("@")
            labels = domain.split(".")[-5:]
            for part in (whole, local, *(".".join(labels[n:]) for n in range(len(labels) - 1))):
                if part and not part.isalnum():  # what is one word is in already
                    self.add_one(f"{field_}:{part}")

    def add_one(self, lexeme: str) -> None:
        """Without a place."""
        if lexeme in self._places or len(self._places) < MAX_WORDS:
            self._places.setdefault(lexeme, [])

    def tsvector(self) -> str:
        """As Postgres reads it, which makes each place beyond 16,383 that one."""
        mark = self.mark
        pieces = []
        for word, places in self._places.items():
            at = ":" + ",".join(map(str, places)) if places else ""
            pieces.append(f"'{mark}{word}'{at}")
        return " ".join(pieces)
