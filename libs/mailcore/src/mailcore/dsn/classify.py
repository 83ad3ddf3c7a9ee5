"""What a refusal says, and which rule decided: the tables of rules.toml, in the order in which they are believed.

1. `strong`: a server that finds our address on a list and says 5.1.1 must not cost the recipient his mail
2. `precise`: an enhanced code that means one thing (RFC 3463 §3) decides over other words
3. `words`, where the code is vague or missing
4. `vague`: the code's subject; then the reply's first digit

Only the recipient's own side can make an address hard, and only for good: a temporary reply, one with a code of security or policy
(x.7.y), or a code 5.1.x beside words of policy that call nobody unknown, suppresses nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from mailcore.dsn.rules import PRECISE, STRONG, VAGUE, WORDS, Category, Rule
from mailcore.smtp.reply import MAX_REPLY_TEXT, Reply

REMEMBERED = 512
"""Replies: a site that refuses says the same words again and again."""


@dataclass(frozen=True, slots=True)
class Kind:
    category: Category
    sub_type: str
    """As email.bounced names it (resend.md §10.4)."""
    rule: str
    """The one that decided: its name, or `reply-4`, `reply-5` by the first digit where none fits."""

    @property
    def hard(self) -> bool:
        """Permanent, and about the mailbox: nothing more should be sent to the address."""
        return self.category is Category.HARD


@lru_cache(REMEMBERED)
def classify(reply: Reply) -> Kind:
    """Of a reply that refuses, temporarily or for good. Some tens of microseconds; next to nothing for one just seen."""
    text = folded(reply.text)
    code = reply.enhanced.partition(".")[2] if reply.enhanced else ""
    rule = _decide(text, code)
    if rule is None:
        digit = "5" if reply.permanent else "4"
        return Kind(Category.UNDETERMINED if reply.permanent else Category.SOFT, "General", f"reply-{digit}")
    if rule.category is not Category.HARD:
        return Kind(rule.category, rule.sub_type, rule.name)
    if _doubtful(text):
        return Kind(Category.POLICY, "General", rule.name)
    # x.7.y is about us, whatever is said of the recipient
    hard = reply.permanent and not code.startswith("7.")
    return Kind(Category.HARD if hard else Category.RECIPIENT, rule.sub_type, rule.name)


def folded(text: str) -> str:
    """Lower case, runs of blanks as one, and without addresses: `<admin@spamhaus-fans.example>` says nothing about a list."""
    return " ".join([word for word in text[:MAX_REPLY_TEXT].lower().split() if "@" not in word])


def _decide(text: str, code: str) -> Rule | None:
    if found := _first(STRONG, text):
        return found
    for rule in _PRECISE.get(code, ()):
        # of two for one code the first says in which words
        if not (rule.plain or rule.gapped) or rule.said(text):
            return _first(_CONTENT, text) or rule if rule.sub_type == "ContentRejected" else rule
    return _first(WORDS, text) or _VAGUE.get(code) or _VAGUE.get(code.partition(".")[0])


def _first(rules: Iterable[Rule], text: str) -> Rule | None:
    return next((rule for rule in rules if rule.said(text)), None)


def _doubtful(text: str) -> bool:
    """A server that hides its dislike of us behind the recipient: words of policy, and none that call him unknown."""
    return _first(_WEAK, text) is not None and _first(_NOBODY, text) is None


_PRECISE: dict[str, list[Rule]] = {}
for _rule in PRECISE:
    for _code in _rule.codes:
        _PRECISE.setdefault(_code, []).append(_rule)
_VAGUE = {code: rule for rule in VAGUE for code in rule.codes}
_CONTENT = [rule for rule in WORDS if rule.category is Category.CONTENT]
_NOBODY = [rule for rule in (*WORDS, *PRECISE) if rule.category is Category.HARD and (rule.plain or rule.gapped)]
_WEAK = [rule for rule in WORDS if rule.weak]
