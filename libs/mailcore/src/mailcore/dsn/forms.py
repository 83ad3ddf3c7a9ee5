"""Reports in words: whom a server could not reach, told to people only. The phrases are data: forms.toml.

1. the words: the first text of the mail, HTML without its marks, up to where the returned message begins
2. a form: words that open a list of addresses, or that one address follows; without any, paragraphs that begin with `<address>:`
   in a mail of a mail system (the form of qmail, "QSBMF")
3. for each address the reason, as a reply: what stands between it and the next

One pass over at most MAX_BYTES; every expression is bounded, so that no text takes longer than its length.
"""

from __future__ import annotations

import html
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailcore.dsn.report import MAX_RECIPIENTS, Action, Reported, reply_of
from mailcore.dsn.rules import GAP, NEAR
from mailcore.mime import fields as header
from mailcore.mime.parse import Message
from mailcore.mime.parts import transfer_encoding
from mailcore.mime.text import decode_text, decode_transfer
from mailcore.smtp.reply import MAX_REPLY_TEXT, Reply

MAX_BYTES = 64 * 1024
MAX_LINES = 1_000
MAX_REASON_LINES = 20


@dataclass(frozen=True, slots=True)
class Found:
    form: str
    recipients: tuple[Reported, ...]


@dataclass(frozen=True, slots=True)
class _Form:
    name: str
    opening: tuple[str, ...]
    needs: str = ""
    labels: tuple[str, ...] = ()
    bare: bool = False
    """Local parts without a domain: the reporter's is meant."""


@dataclass(frozen=True, slots=True)
class _Inline:
    name: str
    before: str
    after: str = ""
    origin: bool = False
    """It is whom the mail was written to, where another address stands before it."""


@dataclass(slots=True)
class _Named:
    address: str
    line: int
    rest: str
    """Of its line, behind the address."""
    original: str | None = None


def read(message: Message) -> Found | None:
    """None: no report, or one that names nobody."""
    lines = _words(message)
    text = _Text(lines)
    found = _listed(text, message) or _inline(text) or _labelled(text, _LABELS) or _paragraphs(text, message)
    if found is None:
        # Exim, and Gmail after it: the recipients for programs stand in the header, the reason in the words
        failed = header.addresses(message.fields, "x-failed-recipients", [])
        if not failed:
            return None
        found = ("exim-header", [_Named(one.address, len(lines), "") for one in failed])
    form, named = found
    delayed = any(map(text.folded.__contains__, _DELAYS))
    return Found(form, tuple(_reported(lines, named, delayed=delayed)))


# ---- 1. the words ----------------------------------------------------------------------------------------------------


def _words(message: Message) -> list[str]:
    part = next((part for part in message.leaves if part.content_type in ("text/plain", "text/html")), None)
    if part is None:
        return []
    raw = decode_transfer(message.raw[part.start : part.end][: 2 * MAX_BYTES], transfer_encoding(part.fields))[
        :MAX_BYTES
    ]
    text = decode_text(raw, part.parameters.get("charset"))
    if part.content_type == "text/html":
        text = html.unescape(_MARK.sub(" ", _BREAK.sub("\n", text)))
    lines = text.splitlines()[:MAX_LINES]
    return lines[: next((n for n, line in enumerate(lines) if _ends(line)), len(lines))]


_BREAK = re.compile(r"(?i)<(?:br|p|/p|tr|li|div)\b[^<>]{0,200}>")
_MARK = re.compile(r"<[/!A-Za-z][^<>@]{0,2000}>")


def _ends(line: str) -> bool:
    bare = line.strip(" \t-=*|#_>~\u00a0").lower()
    return bool(bare) and " ".join(bare[:200].split()).startswith(_ENDS) and not bare.startswith(_NO_END)


_NO_END = ("the first name", "received: from the")


class _Text:
    """Lines as one folded text, in which a place is found again as a line and a column of it."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        folded = [" ".join(line.lower().split()) for line in lines]
        self.starts: list[int] = []
        at = 0
        for line in folded:
            self.starts.append(at)
            at += len(line) + 1
        self.folded = " ".join(folded)

    def behind(self, phrase: str) -> int:
        """Where that phrase ends; -1: it is not there."""
        before, gap, after = phrase.partition(GAP)
        at = self.folded.find(before)
        while at >= 0:
            begin = at + len(before)
            if not gap:
                return begin
            end = self.folded.find(after, begin, begin + NEAR + len(after))
            if end >= 0:
                return end + len(after)
            at = self.folded.find(before, begin)
        return -1

    def line_of(self, place: int) -> int:
        low, high = 0, len(self.starts)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.starts[middle] <= place else (low, middle)
        return max(0, low - 1)


# ---- 2. a form -------------------------------------------------------------------------------------------------------

_ADDR = r"[^\s<>()\[\]\",;:@\\]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_AT_START = re.compile(rf"[\s>*\"'<(\[\-–|]{{0,20}}(?:smtp:|mailto:)?({_ADDR})(?![A-Za-z0-9@])", re.IGNORECASE)
_IN_QUOTES = re.compile(rf"\s{{0,20}}\"[^\"]{{1,200}}\"\s{{0,4}}<({_ADDR})>")
_X400 = re.compile(rf"(?i)smtp=({_ADDR})")
_NEXT = re.compile(rf"\s{{0,4}}[<\"'\[(]?(?:smtp:)?({_ADDR})", re.IGNORECASE)
_BARE = re.compile(r"\s{1,20}([A-Za-z0-9._-]{1,64})(?:\s{2,}.*)?\Z")
_HEADING = re.compile(r"\s*(?:to|cc|from|subject|sent|date|reply-to|message-id|delivery-date):", re.IGNORECASE)

_Finding = tuple[str, list[_Named]]


def _listed(text: _Text, message: Message) -> _Finding | None:
    for form in _FORMS:
        if form.needs and form.needs not in text.folded:
            continue
        for phrase in form.opening:
            place = text.behind(phrase)
            if place < 0:
                continue
            named = _labelled(text, form.labels) if form.labels else None
            found = named[1] if named else list(_after(text, place, form, message))
            if found:
                return form.name, _origins(text, found)
    return None


def _after(text: _Text, place: int, form: _Form, message: Message) -> Iterator[_Named]:
    first = text.line_of(place)
    folded = " ".join(text.lines[first].lower().split())
    rest = folded[place - text.starts[first] :].strip(" :.")
    match = _NEXT.match(rest)
    if match:
        yield _Named(_as_written(text.lines[first], match[1]), first, rest[match.end() :])
    indent: int | None = None
    for n in range(first + 1, len(text.lines)):
        line = text.lines[n]
        if not line.strip() or _HEADING.match(line):
            continue
        found = _IN_QUOTES.match(line) or _AT_START.match(line) or _X400.search(line)
        if found is None:
            if not form.bare:
                continue
            bare, domain = _BARE.match(line), _reporter(message)
            if bare is None or not domain:
                return
            yield _Named(f"{bare[1]}@{domain}", n, line[bare.end(1) :])
            continue
        deep = len(line) - len(line.lstrip())
        if indent is not None and deep > indent:
            continue  # deeper than the recipients: an explanation that quotes one
        indent = deep if indent is None else indent
        yield _Named(found[1], n, line[found.end(1) :])


def _as_written(line: str, folded: str) -> str:
    at = line.lower().find(folded)
    return line[at : at + len(folded)] if at >= 0 else folded


def _inline(text: _Text) -> _Finding | None:
    named: list[_Named] = []
    form = ""
    for one in _INLINES:
        if (found := _inline_one(text, one)) is not None:
            form = form or one.name
            named.append(found)
    return (form, named) if named else None


def _inline_one(text: _Text, one: _Inline) -> _Named | None:
    place = text.behind(one.before)
    match = _NEXT.match(text.folded, place) if place >= 0 else None
    if match is None:
        return None
    if one.after and one.after not in text.folded[match.end() : match.end() + NEAR]:
        return None
    n = text.line_of(match.start(1))
    return _Named(_as_written(text.lines[n], match[1]), n, text.folded[match.end() : match.end() + 200])


def _origins(text: _Text, named: list[_Named]) -> list[_Named]:
    """`(expanded from: a@b)` under an address: whom the mail was written to."""
    for one in _INLINES:
        if one.origin and (found := _inline_one(text, one)) is not None:
            above = [each for each in named if each.line < found.line]
            if above:
                above[-1].original = found.address
    return named


def _labelled(text: _Text, labels: tuple[str, ...]) -> _Finding | None:
    named = []
    for n, line in enumerate(text.lines):
        label, colon, rest = line.partition(":")
        if not colon or " ".join(label.strip(" \t*-").lower().split()) not in labels:
            continue
        match = _NEXT.match(rest.strip())
        if match:
            # the label is the reason, often the only one: `Unknown user: a@b`
            named.append(_Named(match[1], n, f"{label.strip()}: {rest.strip()[match.end() :]}"))
    return ("labels", named) if named else None


def _paragraphs(text: _Text, message: Message) -> _Finding | None:
    if not _of_a_mail_system(message):
        return None
    named = []
    for n, line in enumerate(text.lines):
        match = _QSBMF.match(line)
        if match and (n == 0 or not text.lines[n - 1].strip()):
            named.append(_Named(match[1], n, line[match.end() :]))
        elif match is None and (said := _SAID_OF.match(line)):
            named.append(_Named(said[1], n, line[said.end(1) :]))
    return ("paragraphs", named) if named else None


_QSBMF = re.compile(rf"\s?<({_ADDR})>:")
_SAID_OF = re.compile(rf"({_ADDR}) - no such user")
_SYSTEMS = ("mailer-daemon", "mailerdaemon", "postmaster", "mail-daemon", "mdaemon", "mail.delivery.system", "ndr")


def _of_a_mail_system(message: Message) -> bool:
    if any(one.name == "return-path" and one.value in (b"<>", b"") for one in message.fields):
        return True
    people = header.addresses(message.fields, "from", [])
    return any(one.address.lower().startswith(_SYSTEMS) for one in people) or not people


def _reporter(message: Message) -> str:
    people = header.addresses(message.fields, "from", [])
    return people[0].address.rpartition("@")[2].lower() if people else ""


# ---- 3. the reasons --------------------------------------------------------------------------------------------------


def _reported(lines: list[str], named: list[_Named], *, delayed: bool) -> Iterator[Reported]:
    """Each address once. The reason of one is what stands before the next; without any, what stands above them all."""
    named.sort(key=lambda one: one.line)
    seen: set[str] = set()
    for at, one in enumerate(named):
        if one.address.lower() in seen or len(seen) >= MAX_RECIPIENTS:
            continue
        seen.add(one.address.lower())
        until = next((each.line for each in named[at + 1 :] if each.line > one.line), len(lines))
        reply = _reason(one.rest, lines[one.line + 1 : until])
        if not reply.text:
            reply = _reason("", lines[: one.line])
        if delayed and reply.permanent:
            reply = Reply(450, reply.text)
        yield Reported(one.address, Action.DELAYED if delayed else Action.FAILED, one.original, reply)


def _reason(rest: str, lines: list[str]) -> Reply:
    said = " ".join([rest.strip(" \t>:;.,'\")]"), *(line.strip() for line in lines[:MAX_REASON_LINES])])
    return reply_of(" ".join(said.split())[:MAX_REPLY_TEXT])


# ---- the phrases -----------------------------------------------------------------------------------------------------


def _phrases(text: str) -> tuple[str, ...]:
    split = (" ".join(phrase.split()) for line in text.splitlines() for phrase in line.split("|"))
    return tuple(phrase for phrase in split if phrase)


def _form(row: dict[str, Any]) -> _Form:
    return _Form(
        row["name"],
        _phrases(row["opening"]),
        row.get("needs", ""),
        _phrases(row.get("labels", "")),
        row.get("bare", False),
    )


_FILE = tomllib.loads(Path(__file__).with_name("forms.toml").read_text(encoding="utf-8"))
_ENDS = _phrases(_FILE["ends"])
_DELAYS = _phrases(_FILE["delays"])
_LABELS = _phrases(_FILE["labels"])
_INLINES = [_Inline(**row) for row in _FILE["inline"]]
_FORMS = [_form(row) for row in _FILE["form"]]
