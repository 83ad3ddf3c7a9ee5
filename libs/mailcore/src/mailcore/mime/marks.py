"""What we think of a mail, as fields in its header and a tag in its subject, for the server that gets it from us.

    raw = tagged(without_marks(raw, others=True), "[SPAM]")
    head = marks(verdict, compatible=True) + head

Nothing but the header is looked at or changed. A sender's own copies of these fields go before ours come: whoever reads them
believes that we wrote them. The kept raw mail has none of this; it is put in where mail is passed on, before it is sealed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailcore.mime.text import decode_header

OWN = b"x-postroom-"
OTHERS = frozenset(
    (
        *(
            b"x-spam-flag",
            b"x-spam-status",
            b"x-spam-score",
            b"x-spam-level",
            b"x-spam-report",
            b"x-spam-checker-version",
        ),
        *(b"x-mailbridge-reason", b"x-mailbridge-ps", b"x-mailbridge-spamassassin-score", b"x-ai-confirmed-spam"),
        *(b"x-ms-exchange-organization-scl", b"x-ms-exchange-organization-bypassspamfiltering"),
        *(b"x-forefront-antispam-report", b"x-microsoft-antispam"),
    )
)
"""Fields by which Exchange, SpamAssassin's readers and Mailbridge's sort mail."""
SPAM_SCL = 9
"""Exchange's spam confidence level, -1 to 9, of what is spam; of what is not it is 1."""
MAX_LINE = 78
MAX_HEADER = 1024 * 1024
"""Octets; what comes behind them is no more looked at than a body is."""
TAG = r"(?!.*=\?)[!-~](?:[ -~]{0,38}[!-~])?"
"""What a tag may be: printable ASCII without blanks at its ends, nothing that begins an encoded word."""

_LINES = re.compile(rb"[^\n]*(?:\n[ \t][^\n]*)*\n?")
"""A field with its continuations."""
_TOKENS = re.compile(r"[a-z0-9]+")
_WORDS = re.compile(r"[^a-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Verdict:
    what: str
    """clean, unsure, spam, infected, listed; unavailable where nobody could tell."""
    reason: str = ""
    """A short word for it: `gtube`, `phishing`; made harmless here."""
    score: float | None = None
    """What a filter of content gave; the more, the worse."""
    probability: int | None = None
    """0 to 9, of a second opinion."""
    confirmed: bool = False
    """By a second opinion."""
    scanners: tuple[str, ...] = ()
    """Who was asked."""

    @property
    def is_spam(self) -> bool:
        return self.what in ("spam", "infected", "listed")


def marks(verdict: Verdict, *, compatible: bool = False, scl: int = SPAM_SCL) -> str:
    """The fields, each with its CRLF. ASCII. `compatible`: those of OTHERS too."""
    spam = verdict.is_spam
    reason = category(verdict.reason) or ("spam" if spam else "not_spam")
    fields = [("X-Postroom-Verdict", verdict.what), ("X-Postroom-Reason", reason)]
    if verdict.score is not None:
        fields.append(("X-Postroom-Score", f"{verdict.score:.1f}"))
    if verdict.probability is not None:
        fields.append(("X-Postroom-Probability", str(verdict.probability)))
    if verdict.scanners:
        fields.append(("X-Postroom-Scanners", " ".join(_WORDS.sub("_", each.lower()) for each in verdict.scanners)))
    if compatible:
        fields += _compatible(verdict, reason, scl)
    return "".join(f"{name}: {value}\r\n" for name, value in fields)


def _compatible(verdict: Verdict, reason: str, scl: int) -> list[tuple[str, str]]:
    spam = verdict.is_spam
    fields = [("X-Mailbridge-Reason", reason)]
    if verdict.probability is not None:
        fields.append(("X-Mailbridge-PS", str(verdict.probability)))
    if verdict.score is not None:
        fields.append(("X-Mailbridge-SpamAssassin-Score", f"{verdict.score:.1f}"))
    fields += [
        ("X-Spam-Flag", "YES" if spam else "NO"),
        ("X-Spam-Status", "Yes" if spam else "No"),
        ("X-MS-Exchange-Organization-SCL", str(scl if spam else 1)),
    ]
    if spam:
        fields += [
            ("X-Forefront-Antispam-Report", f"SCL:{scl};"),
            ("X-Microsoft-Antispam", f"BCL:9;PCL:8;SCL:{scl};"),
            ("X-MS-Exchange-Organization-BypassSpamFiltering", "0"),
        ]
    if spam and verdict.confirmed:
        fields.append(("X-AI-Confirmed-Spam", "YES"))
    return fields


def category(text: str) -> str:
    """At most four words of `[a-z0-9]`, joined by `_`; whoever made the text up."""
    return "_".join(_TOKENS.findall(text.lower())[:4])[:60].strip("_")


# ---- the header, and nothing but the header ---------------------------------------------------------------------------


def without_marks(raw: bytes, *, others: bool) -> bytes:
    """The same octets but for fields that only we may write; `others`: those of OTHERS too. Where there is none, the very same
    object."""
    fields, end = _split(raw)
    kept = [field for field in fields if not _is_mark(_name(field), others=others)]
    return raw if len(kept) == len(fields) else b"".join(kept) + raw[end:]


def tagged(raw: bytes, tag: str) -> bytes:
    """With `tag` before the text of its subject; one that begins with it already stays as it is, and a mail without a subject gets
    one. What was written there stands as it was: folded, encoded, 8-bit. `tag`: see TAG."""
    fields, end = _split(raw)
    found = False
    for n, field in enumerate(fields):
        if _name(field) == b"subject":
            found = True
            fields[n] = _tagged(field, tag)
    if not found:
        fields.append(b"Subject: %b\r\n" % tag.encode("ascii"))
    return b"".join(fields) + raw[end:]


def _tagged(field: bytes, tag: str) -> bytes:
    name, _, value = field.partition(b":")
    text = decode_header(b"".join(line.rstrip(b"\r") for line in value.split(b"\n")).strip(b" \t"))
    if text.lower().startswith(tag.lower()):
        return field
    first = b"%b: %b" % (name, tag.encode("ascii"))
    line = value.partition(b"\n")[0]
    if not line.strip(b" \t\r"):
        return first + value.lstrip(b" \t")  # it goes on in the next line, as it did
    if len(first) + len(line) + 1 > MAX_LINE:
        first += b"\r\n"  # RFC 5322 §2.1.1
    # the blank stands between the tag and an encoded word, too (RFC 2047 §5 (1))
    return first + b" " + value.lstrip(b" \t")


def _split(raw: bytes) -> tuple[list[bytes], int]:
    """The header's fields with their line ends, and where they end: at an empty line, or where there is nothing more."""
    fields: list[bytes] = []
    at = 0
    while at < min(len(raw), MAX_HEADER) and raw[at : at + 1] != b"\n" and raw[at : at + 2] != b"\r\n":
        match = _LINES.match(raw, at)
        assert match is not None  # it matches whatever is left
        fields.append(match[0])
        at = match.end()
    if fields and not fields[-1].endswith(b"\n"):
        fields[-1] += b"\r\n"  # a mail that ends within its header
    return fields, at


def _name(field: bytes) -> bytes:
    """RFC 5322 §4.5: blanks before the colon are obsolete, and read by others."""
    name, colon, _ = field.partition(b":")
    return name.rstrip(b" \t").lower() if colon else b""


def _is_mark(name: bytes, *, others: bool) -> bool:
    return name.startswith(OWN) or (others and name in OTHERS)
