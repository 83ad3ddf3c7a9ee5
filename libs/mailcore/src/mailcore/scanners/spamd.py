"""SpamAssassin by spamd's protocol (spamd/PROTOCOL of its distribution, version 1.5): a request and an answer a connection.

    SYMBOLS SPAMC/1.5                         SPAMD/1.1 0 EX_OK
    Content-length: 1234                      Content-length: 20
                                              Spam: True ; 15.3 / 5.0
    (the mail)
                                              GTUBE,MISSING_DATE

Its score counts, not its yes or no: what is spam is said by the recipient's domain (flow.scan). CHECK is SYMBOLS without the names
of the rules; TELL is how it learns, where it was started with --allow-tell.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from mailcore.kit.errors import Unavailable
from mailcore.scanners.base import Facts, Finding, Kind, Verdict, text
from mailcore.scanners.wire import Address, connected

PORT = 783
MAX_BYTES = 512 * 1024
"""As spamc's: larger mail is hardly ever spam, and costs seconds."""
_FIRST = re.compile(rb"SPAMD/\d+\.\d+ (\d+) ?([^\r\n]*)\r?\n")
_SPAM = re.compile(r"(true|false|yes|no) *; *(-?\d+(?:\.\d+)?) */ *(-?\d+(?:\.\d+)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Answer:
    headers: Mapping[str, str]
    """Lower-case names."""
    body: str


class Spamd:
    kind = Kind.SPAM

    def __init__(
        self, to: Address, *, seconds: float = 10.0, max_bytes: int = MAX_BYTES, user: str = "", name: str = "spamd"
    ) -> None:
        """`user`: whose preferences and Bayes database it uses; empty: its own."""
        self.name = name
        self.seconds = seconds
        self.max_bytes = max_bytes
        self._to = to
        self._user = text(user, 100)

    async def scan(self, raw: bytes, facts: Facts) -> Finding:
        """Raises Unavailable."""
        answer = await self._ask("SYMBOLS", {}, handed_over(facts), raw)
        found = _SPAM.match(answer.headers.get("spam", ""))
        if found is None:
            raise Unavailable("It does not say whether the mail is spam.")
        spam, score, required = found[1].lower() in ("true", "yes"), float(found[2]), float(found[3])
        tags = tuple(tag.strip() for tag in answer.body.split(",") if tag.strip())
        # its maker's own test has a rule of that name
        reason = "gtube" if "GTUBE" in tags else ""
        detail = f"{score:g} points, of the {required:g} that it calls spam."
        return Finding(self.name, Verdict.SPAM if spam else Verdict.CLEAN, score, tags, detail, reason).clean()

    async def learn(self, raw: bytes, *, spam: bool) -> bool:
        """Raises Unavailable."""
        asked = {"Message-class": "spam" if spam else "ham", "Set": "local"}
        answer = await self._ask("TELL", asked, b"", raw)
        return "local" in answer.headers.get("didset", "")

    async def close(self) -> None:
        """It keeps no connection."""

    async def _ask(self, verb: str, headers: Mapping[str, str], before: bytes, raw: bytes) -> _Answer:
        lines = {
            "Content-length": str(len(before) + len(raw)),
            **({"User": self._user} if self._user else {}),
            **headers,
        }
        head = f"{verb} SPAMC/1.5\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
        try:
            async with asyncio.timeout(self.seconds), connected(self._to) as wire:
                await wire.send(head.encode() + before, raw)
                wire.end()
                return _read(await wire.read())
        except TimeoutError:
            raise Unavailable(f"spamd did not answer within {self.seconds:g} s.") from None


def _read(said: bytes) -> _Answer:
    """Raises Unavailable."""
    first = _FIRST.match(said)
    if first is None:
        raise Unavailable("What it says is not spamd's protocol." if said else "It closed without an answer.")
    if int(first[1]) != 0:  # sysexits.h: 69 it has no such verb, 75 it is overloaded …
        words = text(first[2].decode("utf-8", "replace"), 200)
        raise Unavailable(f"spamd answers {int(first[1])} {words}.")
    head, _, body = said[first.end() :].partition(b"\r\n\r\n")
    headers = {}
    for line in head.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return _Answer(headers, body.decode("utf-8", "replace"))


def handed_over(facts: Facts) -> bytes:
    """The two fields that a mail server puts on top, by which SpamAssassin knows who came with the mail (RFC 5321 §4.4)."""
    if facts.client_ip is None:
        return b""
    helo, ours = _word(facts.helo) or "unknown", _word(facts.hostname) or "localhost"
    ip = _word(facts.client_ip.partition("%")[0])
    literal = f"IPv6:{ip}" if ":" in ip else ip
    when = format_datetime(facts.received_at or datetime.now(UTC))
    name = _word(facts.client_name)
    who = f"{name} [{literal}]" if name else f"[{literal}]"
    trace = f"Received: from {helo} ({who}) by {ours} with ESMTP id {_word(facts.id)};\r\n {when}\r\n"
    return f"Return-Path: <{_word(facts.mail_from)}>\r\n{trace}".encode("ascii", "replace")


def _word(words: str) -> str:
    return "".join(char for char in words[:320] if char.isprintable() and char not in ' ()<>;\\"')
