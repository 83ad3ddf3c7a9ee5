"""The seam to a scanner: what it is given, and what it finds.

    finding = await scanner.scan(raw, facts)     # a mail as it came, and what is known of it besides

A scanner talks to the network, holds nothing of the mail afterwards, and decides nothing: what becomes of a mail with these
findings is flow.scan's. What it answers is a stranger's word: texts are cut and cleaned here, numbers are numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import urlsplit

from mailcore.mime.parse import Summary

MAX_DETAIL = 500
"""Characters of a detail."""
MAX_TAGS = 100
MAX_TAG = 80


class Verdict(StrEnum):
    """What a scanner says of a mail. Routes ask for these words, so they stay."""

    CLEAN = "clean"
    UNSURE = "unsure"
    """Suspicious: a second opinion is asked, where there is one."""
    SPAM = "spam"
    INFECTED = "infected"
    LISTED = "listed"
    """Who sends it is on a list of senders of spam; the mail itself was not looked at."""
    SKIPPED = "skipped"
    """Not scanned, and it will not be: too large, or nothing in it that the scanner looks at."""
    UNAVAILABLE = "unavailable"
    """Not scanned, for now: the scanner does not answer, or not in a way that can be understood."""


class Kind(StrEnum):
    """What a scanner looks for."""

    SPAM = "spam"
    MALWARE = "malware"
    SENDER = "sender"
    """Who sends it; asked before anything else, and with few octets."""
    OPINION = "opinion"
    """A second opinion about spam: asked when the others are unsure, or none of them answers."""


@dataclass(frozen=True, slots=True)
class Finding:
    scanner: str
    """Its name: spamd, rspamd, clamd …"""
    verdict: Verdict
    score: float | None = None
    """By the scanner's own scale; None: it has none."""
    tags: tuple[str, ...] = ()
    """Names of the rules that met, or of what was found."""
    detail: str = ""
    """In words, for who reads the decisions."""
    reason: str = ""
    """One short word for headers: `gtube`, `phishing`; empty: nothing in particular."""
    kind: Kind | None = None
    """Of its scanner; flow.scan fills it in."""

    def json(self) -> dict[str, Any]:
        """For `arrivals.findings`."""
        return {
            "scanner": self.scanner,
            "verdict": self.verdict.value,
            "score": self.score,
            "tags": list(self.tags),
            "detail": self.detail,
            "reason": self.reason,
            "kind": self.kind and self.kind.value,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Finding:
        return cls(
            found["scanner"],
            Verdict(found["verdict"]),
            found.get("score"),
            tuple(found.get("tags") or ()),
            found.get("detail") or "",
            found.get("reason") or "",
            Kind(found["kind"]) if found.get("kind") else None,
        )

    def clean(self) -> Finding:
        """As it may be stored and shown, whatever the scanner wrote."""
        score = self.score if self.score is not None and math.isfinite(self.score) else None
        tags = tuple(text(tag, MAX_TAG) for tag in self.tags[:MAX_TAGS])
        return replace(self, score=score, tags=tags, detail=text(self.detail, MAX_DETAIL), reason=text(self.reason, 40))


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a mail besides its octets."""

    id: str
    """The arrival's: for the scanner's own log."""
    client_ip: str | None
    """Who handed it over by SMTP; None: nobody did."""
    helo: str
    mail_from: str
    """Of the envelope; empty: a report's."""
    rcpt_to: tuple[str, ...]
    """Of this organization only."""
    size: int
    """Octets."""
    summary: Summary
    """The mail, parsed under limits."""
    auth: Mapping[str, Any] | None = None
    """As flow.authenticate tells it: spf, dkim, dmarc, arc."""
    received_at: datetime | None = None
    hostname: str = ""
    """Our name."""
    client_name: str = ""
    """What the DNS calls who handed it over, both ways; empty: not known."""
    findings: Sequence[Finding] = ()
    """What other scanners have found; empty for those that are asked first."""


class Scanner(Protocol):
    """One a process; asked about many mails at once, up to the limit that its settings give."""

    name: str
    kind: Kind
    max_bytes: int
    """Of larger mails it is not asked: they are `skipped`. 0: any size."""
    seconds: float
    """How long one scan may take, from the first octet sent to the last one read; then it is `unavailable`."""

    async def scan(self, raw: bytes, facts: Facts) -> Finding:
        """Raises kit.errors.Unavailable when it cannot say; whatever else it raises counts as that."""
        ...

    async def close(self) -> None: ...


class Learns(Protocol):
    """A scanner that people can tell what it got wrong."""

    async def learn(self, raw: bytes, *, spam: bool) -> bool:
        """False: it knew already. Raises kit.errors.Unavailable."""
        ...


def malware(findings: Sequence[Mapping[str, Any]] | None) -> str | None:
    """What is known of a mail's attachments, of `arrivals.findings`: clean, infected, or error where they could not be looked at.
    None: nobody looks for malware."""
    said = {one["verdict"] for one in findings or () if one.get("kind") == Kind.MALWARE or one["verdict"] == "infected"}
    if not said:
        return None
    return "infected" if Verdict.INFECTED in said else "error" if said != {Verdict.CLEAN} else "clean"


def nameless(words: str, url: str, name: str) -> str:
    """With `name` for the host of `url`: tenants read what a scanner failed at, and it names no address of ours."""
    told = urlsplit(url)
    for address in (told.netloc, told.hostname or ""):
        if address:
            words = re.sub(rf"(?<![\w.-]){re.escape(address)}(?![\w-])", name, words, flags=re.IGNORECASE)
    return words


def text(words: str, most: int) -> str:
    """One line without control characters."""
    return "".join(char if char.isprintable() else " " for char in words[:most]).strip()
