"""Of a reply, what its writer wrote: without the mail it answers and without a signature.

1. a line that begins a whole quoted mail ends it: "Original Message" in some languages, or a block of From, Sent, To, Subject
2. lines that begin with `>` go, with the line that says whose they are ("On … wrote:")
3. from the last `-- ` on it is a signature (RFC 3676 §4.3), and so is "Sent from my …" at the end

By lines, each looked at once. What answers between quoted lines stays. When nothing would be left, the mail is no reply of that
kind and stays whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_LINE = 500
"""Characters of a line that are looked at."""
MAX_LINES = 20_000
_SEPARATOR = re.compile(
    r"[-_*\s]{2,40}(?:original (?:message|appointment)|forwarded message|ursprüngliche nachricht|message d'origine"
    r"|mensaje original|messaggio originale|oorspronkelijk bericht|mensagem original|oprindelig meddelelse"
    r"|ursprungligt meddelande|weitergeleitete nachricht|wiadomość oryginalna|исходное сообщение|元のメッセージ)[-_*\s]{0,40}\Z",
    re.IGNORECASE,
)
_RULE = re.compile(r"[_-]{10,}\s*\Z")
_FROM = re.compile(r"\*?(?:from|von|de|da|van|från|fra|od|от|差出人)\s?:\*?\s", re.IGNORECASE)
_BLOCK = re.compile(
    r"\*?(?:sent|date|to|cc|subject|gesendet|datum|an|betreff|envoyé|à|objet|enviado|para|asunto|assunto|inviato|data|a|oggetto"
    r"|verzonden|aan|onderwerp|skickat|till|ämne|sendt|til|emne|wysłano|do|temat|отправлено|кому|тема|送信日時|宛先|件名)"
    r"\s?:\*?(?:\s|\Z)",
    re.IGNORECASE,
)
_BEGINS = re.compile(r"(?:on|am|le|el|il|op|em|den|dnia|w dniu|\d{4}[-/年]|\d{1,2}[./])", re.IGNORECASE)
_WROTE = re.compile(
    r"(?:wrote|schrieb|écrit|escribió|ha scritto|schreef|skrev|escreveu|napisał(?:\(a\))?|пишет|написал)[^:]{0,60}:\s*\Z",
    re.IGNORECASE,
)
_SENT_FROM = re.compile(
    r"(?:sent from (?:my|outlook)|von meinem .{1,40} gesendet|envoyé de(?:puis)? mon|enviado desde mi)", re.IGNORECASE
)


def stripped(text: str) -> str:
    """Lines end with LF."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:MAX_LINES]
    own = _without_signature(_without_quotes(_before_quoted_mail(lines)))
    return "\n".join(own).strip() or text.strip()


def _before_quoted_mail(lines: Sequence[str]) -> Sequence[str]:
    for n, line in enumerate(lines):
        looked_at = line[:MAX_LINE].strip()
        if _SEPARATOR.match(looked_at):
            return lines[:n]
        if _FROM.match(looked_at) and _is_block(lines, n):
            before = n - 1 if n and _RULE.match(lines[n - 1][:MAX_LINE]) else n
            return lines[:before]
    return lines


def _is_block(lines: Sequence[str], n: int) -> bool:
    """A quoted header: at least two more of its fields in the lines below."""
    return sum(bool(_BLOCK.match(line[:MAX_LINE].strip())) for line in lines[n + 1 : n + 7]) >= 2


def _without_quotes(lines: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for n, line in enumerate(lines):
        looked_at = line[:MAX_LINE].strip()
        if line.lstrip()[:1] == ">":
            continue
        if _WROTE.search(looked_at) and _BEGINS.match(looked_at) and _quote_follows(lines, n):
            continue
        # the same over two lines: `On …, Somebody` and `<a@b.c> wrote:`
        following = lines[n + 1][:MAX_LINE].strip() if n + 1 < len(lines) else ""
        if _BEGINS.match(looked_at) and _WROTE.search(following) and _quote_follows(lines, n + 1):
            continue
        if (
            _WROTE.search(looked_at)
            and n
            and _BEGINS.match(lines[n - 1][:MAX_LINE].strip())
            and _quote_follows(lines, n)
        ):
            continue
        kept.append(line)
    return kept


def _quote_follows(lines: Sequence[str], n: int) -> bool:
    """Or nothing does: some clients leave the mark away."""
    following = next((line.lstrip() for line in lines[n + 1 : n + 6] if line.strip()), None)
    return following is None or following.startswith(">")


def _without_signature(lines: Sequence[str]) -> Sequence[str]:
    for n in range(len(lines) - 1, -1, -1):
        if lines[n] in ("-- ", "--"):
            lines = lines[:n]
            break
    end = len(lines)
    while end and not lines[end - 1].strip():
        end -= 1
    if end and _SENT_FROM.match(lines[end - 1][:MAX_LINE].strip()):
        return lines[: end - 1]
    return lines
