"""The rules of rules.toml, read and checked once at import: what servers say when they refuse, as data with names."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

NEAR = 60
"""Characters that a gap in a phrase may stand for."""
GAP = " … "


class Category(StrEnum):
    """See rules.toml."""

    HARD = "hard"
    RECIPIENT = "recipient"
    CONTENT = "content"
    POLICY = "policy"
    BLOCK = "block"
    DOMAIN = "domain"
    INFRASTRUCTURE = "infrastructure"
    SOFT = "soft"
    """Not now, and no reason that we know."""
    UNDETERMINED = "undetermined"
    """For good, and no reason that we know."""


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    category: Category
    sub_type: str = "General"
    """As email.bounced names it (resend.md §10.4)."""
    plain: tuple[str, ...] = ()
    """Phrases without a gap."""
    gapped: tuple[tuple[str, str], ...] = ()
    """What stands before the gap, and what within NEAR characters after it."""
    codes: tuple[str, ...] = ()
    weak: bool = False
    """Words that many servers put around anything."""

    def said(self, text: str) -> bool:
        """Whether the text (of `classify.folded`) has one of the phrases: one pass a phrase."""
        return any(map(text.__contains__, self.plain)) or any(_near(text, *pieces) for pieces in self.gapped)


def _near(text: str, before: str, after: str) -> bool:
    """Linear: what `find` looks at beyond the text's own length is NEAR characters an occurrence."""
    at = text.find(before)
    while at >= 0:
        begin = at + len(before)
        if text.find(after, begin, begin + NEAR + len(after)) >= 0:
            return True
        at = text.find(before, begin)
    return False


def _table(rows: list[dict[str, Any]]) -> tuple[Rule, ...]:
    return tuple(map(_rule, rows))


def _rule(row: dict[str, Any]) -> Rule:
    phrases = [" ".join(phrase.split()) for line in row.get("words", "").splitlines() for phrase in line.split("|")]
    gapped = [(before, after) for before, gap, after in (phrase.partition(GAP) for phrase in phrases) if gap]
    return Rule(
        name=row["name"],
        category=Category(row["category"]),
        sub_type=row.get("sub_type", "General"),
        plain=tuple(phrase for phrase in phrases if phrase and GAP not in phrase),
        gapped=tuple(gapped),
        codes=tuple(row.get("codes", ())),
        weak=row.get("weak", False),
    )


_FILE = tomllib.loads(Path(__file__).with_name("rules.toml").read_text(encoding="utf-8"))

STRONG = _table(_FILE["strong"])
PRECISE = _table(_FILE["precise"])
WORDS = _table(_FILE["words"])
VAGUE = _table(_FILE["vague"])
