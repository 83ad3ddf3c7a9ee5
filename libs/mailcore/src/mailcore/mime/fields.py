"""Header fields of strangers' mail: split, unfold, address lists, parameters, dates. Linear in the input; nothing here raises."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote_to_bytes

from mailcore.dns.names import normalize_domain
from mailcore.kit.errors import Invalid
from mailcore.mime.text import decode_header, decode_text, decode_words, one_line

MAX_ADDRESSES = 10_240
"""Addresses read from one mail's header; the same limit as Postfix has for tokens."""
MAX_IDS = 50
_FIELD_NAME = re.compile(rb"[!-9;-~]{1,200}\Z")
_LINE = re.compile(rb"[^\n]*\n?")
_PLAIN_RUN = re.compile(r'[^"(),:;<>\\]+')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"?', re.DOTALL)
_BLANKS = re.compile(r"\s+")
TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Marks that turn the direction of writing (Unicode, Bidi_Control)."""
_PARAMETER = re.compile(r';\s*([^\s=;"]{1,100})\s*=\s*("(?:[^"\\]|\\.)*"?|[^;]*)', re.DOTALL)
_SECTION = re.compile(r"([^*]+)\*(?:(\d{1,3})(\*)?)?\Z")
_ID = re.compile(r"<[^<>\s]{1,996}>")
_FOR = re.compile(r"\sfor\s+<?([^\s<>;()]{1,320}@[^\s<>;()]{1,255})>?(?=[\s;(]|\Z)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    """Lower case."""
    value: bytes
    """Unfolded, without the blanks at its ends."""


@dataclass(frozen=True, slots=True)
class MailAddress:
    """An address as a header shows it: not yet known to be valid."""

    name: str
    address: str


def read_fields(
    raw: bytes, start: int, limit: int, defects: list[str], *, stop: Callable[[bytes], bool] | None = None
) -> tuple[list[Field], int]:
    """The header block at `start`: its fields, and where what follows it begins. Reads at most `limit` octets.

    `stop` tells a line that ends the block although no empty line came: a boundary.
    """
    fields: list[tuple[bytes, list[bytes]]] = []
    at, end = start, min(len(raw), start + limit)
    first = True
    while at < len(raw):
        if at >= end:
            defects.append(f"header longer than {limit} octets: the rest of it was not read")
            return _unfold(fields), _after_header(raw, at)
        match = _LINE.match(raw, at)
        assert match is not None  # it matches the empty line too
        text = match[0].rstrip(b"\r\n")
        if stop is not None and text.startswith(b"--") and stop(text):
            break
        at = match.end()
        if not text:
            break
        if text[:1] in b" \t":
            if fields:
                fields[-1][1].append(text)
            else:
                defects.append("the header begins with a continuation line")
            continue
        name, colon, value = text.partition(b":")
        # RFC 5322 §4.5: blanks before the colon are obsolete, still read by others, so read here too
        name = name.rstrip(b" \t")
        if colon and _FIELD_NAME.match(name):
            fields.append((name, [value]))
        elif not (first and text.startswith(b"From ")):
            defects.append("a header line without a field name was passed over")
        first = False
    return _unfold(fields), at


def _unfold(fields: list[tuple[bytes, list[bytes]]]) -> list[Field]:
    # RFC 5322 §2.2.3
    return [Field(name.decode("ascii").lower(), b"".join(lines).strip(b" \t\r")) for name, lines in fields]


def _after_header(raw: bytes, at: int) -> int:
    found = re.compile(rb"\r?\n\r?\n").search(raw, max(0, at - 2))
    return found.end() if found else len(raw)


def field(fields: list[Field], name: str) -> str | None:
    """The first of that name as a line of text; None where there is none."""
    for found in fields:
        if found.name == name:
            return decode_header(found.value)
    return None


def addresses(fields: list[Field], name: str, defects: list[str]) -> list[MailAddress]:
    """Of all fields of that name, in order, at most MAX_ADDRESSES."""
    found: list[MailAddress] = []
    for one in fields:
        if one.name == name:
            found += parse_addresses(_undecoded(one.value), MAX_ADDRESSES - len(found))
    if len(found) >= MAX_ADDRESSES:
        defects.append(f"more than {MAX_ADDRESSES} addresses in {name}: the rest was not read")
    return found


def parse_addresses(text: str, limit: int = MAX_ADDRESSES) -> list[MailAddress]:
    """An address list as mailers write it: groups and comments are passed over, source routes cut, nothing is refused.

    What holds no `@` is no address and is left out.
    """
    found: list[MailAddress] = []
    words: list[str] = []
    angle: str | None = None
    at = 0

    def close() -> None:
        nonlocal angle
        written = " ".join("".join(words).split())
        address = angle if angle is not None else written
        # RFC 5322 §4.4: `@a,@b:c@d` routes; only its last part is an address
        address = address.rpartition(":")[2] if address.startswith("@") else address
        address = one_line(_BLANKS.sub("", address) if '"' not in address else address)
        if "@" in address and len(address) <= 320:
            found.append(MailAddress(decode_words(written) if angle is not None else "", address))
        words.clear()
        angle = None

    while at < len(text) and len(found) < limit:
        character = text[at]
        if character == '"':
            match = _QUOTED.match(text, at)
            assert match is not None  # it begins with the quote just seen
            words.append(
                _as_written(match, text) if text[match.end() : match.end() + 1] == "@" else _unquoted(match[1])
            )
            at = match.end()
        elif character == "(":
            at = _after_comment(text, at)
        elif character == "<":
            end = _end_of_angle(text, at + 1)
            if angle is None:
                angle = text[at + 1 : end].strip()
            at = end + 1
        elif character in ",;":
            close()
            at += 1
        elif character == ":":
            words.clear()  # the name of a group
            at += 1
        elif character in ">)\\":
            at += 1
        else:
            run = _PLAIN_RUN.match(text, at)
            assert run is not None  # every character outside the class has its branch above
            words.append(run[0])
            at = run.end()
    if len(found) < limit:
        close()
    return found


def shown(one: MailAddress) -> MailAddress:
    """As it is kept: the domain in A-labels, so that one domain is one, and nothing that turns writing around in the name."""
    local, at, domain = one.address.rpartition("@")
    if not domain.isascii():
        try:
            domain = normalize_domain(domain)
        except Invalid:
            pass  # no domain at all: as it was written
    return MailAddress(TURNING.sub("", one.name), f"{local}{at}{domain}")


def parameters(value: str) -> dict[str, str]:
    """`a/b; name=value; name*=utf-8''…; name*0=…`: every parameter read (RFC 2045 §5.1, RFC 2231)."""
    plain: dict[str, str] = {}
    sections: dict[str, dict[int, tuple[str, bool]]] = {}
    for match in _PARAMETER.finditer(value[:20_000]):
        name, written = match[1].lower(), match[2].strip()
        text = _unquoted(written[1:].removesuffix('"')) if written.startswith('"') else written
        section = _SECTION.match(name)
        if section is None:
            plain.setdefault(name, decode_words(text))
        else:
            encoded = section[2] is None or section[3] is not None
            sections.setdefault(section[1], {}).setdefault(int(section[2] or 0), (text, encoded))
    for name, parts in sections.items():
        plain[name] = one_line(_joined(parts))
    return plain


def date(text: str | None) -> datetime | None:
    """Of the Date header (RFC 5322 §3.3); None where it cannot be read or is no date of mail."""
    if not text or len(text) > 100:
        return None
    try:
        at = parsedate_to_datetime(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except Exception:  # the standard library's reader raises what it happens to run into
        return None
    return at if 1970 <= at.year <= 2200 else None


def message_ids(fields: list[Field], name: str) -> list[str]:
    """Of all fields of that name, with their angle brackets (RFC 5322 §3.6.4); of more than MAX_IDS the first and the last ones."""
    found: dict[str, None] = {}
    for one in fields:
        if one.name == name:
            found |= dict.fromkeys(_ID.findall(_undecoded(one.value)))
    ids = [one_line(id_) for id_ in found]
    return ids if len(ids) <= MAX_IDS else [ids[0], *ids[1 - MAX_IDS :]]


def received_for(fields: list[Field]) -> list[str]:
    """The addresses of the `for` clauses of Received, the newest first (RFC 5321 §4.4)."""
    found: dict[str, None] = {}
    for one in fields:
        if one.name == "received" and (match := _FOR.search(decode_header(one.value[:4_000]))):
            found.setdefault(one_line(match[1]), None)
    return list(found)


def _undecoded(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text) if "\\" in text else text


def _as_written(match: re.Match[str], text: str) -> str:
    return text[match.start() : match.end()]


def _after_comment(text: str, at: int) -> int:
    depth = 0
    while at < len(text):
        character = text[at]
        if character == "\\":
            at += 1
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return at


def _end_of_angle(text: str, at: int) -> int:
    quoted = text[at : at + 1] == '"'
    if quoted and (match := _QUOTED.match(text, at)):
        at = match.end()
    end = text.find(">", at)
    return len(text) if end < 0 else end


def _joined(parts: dict[int, tuple[str, bool]]) -> str:
    charset: str | None = None
    pieces: list[bytes] = []
    for n in sorted(parts):
        text, encoded = parts[n]
        if encoded:
            # RFC 2231 §4: charset'language'value, in the first section only
            if n == 0 and text.count("'") >= 2:
                charset, _, text = text.split("'", 2)
            pieces.append(unquote_to_bytes(text))
        else:
            pieces.append(text.encode("utf-8", "replace"))
    return decode_text(b"".join(pieces), charset or "utf-8")
