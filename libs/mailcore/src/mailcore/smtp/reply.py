"""A server's reply: three digits, an enhanced code, words (RFC 5321 §4.2, RFC 3463, RFC 2034)."""

from __future__ import annotations

import re
from typing import NamedTuple

_ENHANCED = re.compile(r"^([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")
MAX_REPLY_TEXT = 2_000
"""Characters of a reply that are kept."""


class Reply(NamedTuple):
    code: int
    text: str
    enhanced: str | None = None

    @property
    def positive(self) -> bool:
        return 200 <= self.code < 400

    @property
    def permanent(self) -> bool:
        """RFC 5321 §4.2.1: 5yz is permanent; anything else that is not positive is temporary, garbage too."""
        return 500 <= self.code < 600

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"

    @classmethod
    def of(cls, code: int, lines: list[str]) -> Reply:
        """From the texts after `250-` and `250 `; the enhanced code is taken off the first line and its repeats off the others."""
        enhanced: str | None = None
        texts: list[str] = []
        for line in lines:
            match = _ENHANCED.match(line)
            # RFC 2034 §4: class of the enhanced code equals the first digit of the reply
            if match and match[1][0] == str(code)[0] and enhanced in (None, match[1]):
                enhanced = match[1]
                line = line[match.end() :]  # noqa: PLW2901
            texts.append(line)
        return cls(code, "\n".join(texts)[:MAX_REPLY_TEXT], enhanced)
