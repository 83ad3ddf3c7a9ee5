"""The Authentication-Results field (RFC 8601): ours written, and those that only claim to be ours taken out.

    field = compose(server, items)
    raw = handed_on(raw, field, server)

Raw mail as it is kept never has our field in it, nor is anything taken out of that: both happen where it is handed on.

What strangers had a hand in (domains, addresses, selectors) stands in it only in a form that cannot be read as anything else: names
in normal form, addresses as dot-atoms, everything else as a quoted string or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.dns.names import normalize_domain
from mailcore.kit.errors import Invalid

NAME = b"authentication-results"
_TOKEN = re.compile(r"[A-Za-z0-9!#$&*+._{|}~^-]{1,200}\Z")
_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$&*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$&*+/=?^_`{|}~-]+)*\Z")
_NOT_SHOWN = re.compile(r'[^\x20-\x7e]|[()<>;"\\]')
"""Within quotes they would mean nothing, to a reader who knows about quotes."""
_BLANKS = b" \t\r\n"
_LINE = re.compile(rb"[^\n]*\n?")
MAX_REASON = 150


@dataclass(frozen=True, slots=True)
class Item:
    """What one method found (RFC 8601 §2.2, resinfo)."""

    method: str
    result: str
    properties: tuple[tuple[str, str], ...] = ()
    """`header.from` and the like, with values that are safe: see `domain`, `address`, `word`."""
    reason: str = ""

    def __str__(self) -> str:
        parts = [f"{self.method}={self.result}"]
        if self.reason:
            parts.append(f"reason={_quoted(self.reason[:MAX_REASON])}")
        parts += [f"{name}={value}" for name, value in self.properties if value]
        return " ".join(parts)


def domain(name: str | None) -> str:
    """A domain as a value; empty: it is none, and is left out."""
    try:
        return normalize_domain(name or "", underscore=True)
    except Invalid:
        return ""


def address(text: str) -> str:
    """An address as a value: whole where its local part is a dot-atom of ASCII, else its domain; empty: it has none."""
    local, at, host = text.rpartition("@")
    name = domain(host)
    return f"{local}@{name}" if name and at and len(local) <= 64 and _DOT_ATOM.match(local) else name


def word(text: str) -> str:
    """Any text as a value."""
    return text if _TOKEN.match(text) else _quoted(text[:200]) if text else ""


def compose(server: str, items: Sequence[Item]) -> str:
    """The field with its CRLFs. `server`: our name in it (RFC 8601 §2.5)."""
    results = [_folded(str(each)) for each in items] or ["none"]  # RFC 8601 §2.2: no-result
    return "Authentication-Results: " + ";\r\n\t".join([server, *results]) + "\r\n"


def _folded(result: str) -> str:
    """A result over the lines it needs (RFC 5322 §2.1.1), broken between its properties, never inside a quoted string."""
    lines = [""]
    for piece in re.findall(r'(?:"[^"]*"|[^" ])+', result):
        if lines[-1] and len(lines[-1]) + len(piece) > 68:
            lines.append("")
        lines[-1] += f" {piece}" if lines[-1] else piece
    return "\r\n\t ".join(lines)


def _quoted(text: str) -> str:
    """RFC 2045 §5.1: a quoted string, in which nothing needs a backslash."""
    return f'"{_NOT_SHOWN.sub("?", text)}"'


# ---- what is handed on -----------------------------------------------------------------------------------------------


def handed_on(raw: bytes, field: str, server: str) -> bytes:
    """The mail as it leaves us: our field on top, none that claims to be ours below it (RFC 8601 §4, §5)."""
    return field.encode("ascii") + without_ours(raw, server)


def without_ours(raw: bytes, server: str) -> bytes:
    """The same octets but for the Authentication-Results fields that carry our name, or none that can be read: nobody else may
    speak for us, and one that a reader might take for ours goes too. Where there is none, the very same object."""
    end = header_end(raw)
    if NAME not in raw[:end].lower():
        return raw
    kept: list[bytes] = []
    field: list[bytes] = []
    at = 0
    while at < end:
        match = _LINE.match(raw, at, end)
        assert match is not None  # it matches whatever is left
        line = match[0]
        at = match.end()
        if field and line[:1] not in (b" ", b"\t"):
            kept += [] if _claims(field, server) else field
            field = []
        field.append(line)
    kept += [] if _claims(field, server) else field
    return b"".join(kept) + raw[end:]


def header_end(raw: bytes) -> int:
    """Where the header's last line ends: the empty line after it is not the header's. Bare LFs are line ends, too."""
    if raw[:2] == b"\r\n" or raw[:1] == b"\n":
        return 0
    ends = [at + length for mark, length in ((b"\r\n\r\n", 2), (b"\n\n", 1)) if (at := raw.find(mark)) >= 0]
    return min(ends, default=len(raw))


def _claims(field: Sequence[bytes], server: str) -> bool:
    name, _, value = b"".join(field).partition(b":")
    if name.strip(_BLANKS).lower() != NAME:
        return False
    said = authserv_id(value)
    return said is None or said == server.lower().encode()


def authserv_id(value: bytes) -> bytes | None:
    """Whose field it says it is, in lower case (RFC 8601 §2.2); comments are passed over. None: it cannot be read."""
    at = _after_comments(value, 0)
    if value[at : at + 1] == b'"':
        match = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL).match(value, at)
        if match is None:
            return None
        return re.sub(rb"\\(.)", rb"\1", match[1]).strip(_BLANKS).lower() or None
    match = re.compile(rb"[^\s;()\"]+").match(value, at)
    # a trailing dot makes no other name
    return match[0].lower().removesuffix(b".") or None if match else None


def _after_comments(value: bytes, at: int) -> int:
    while at < len(value):
        if value[at] in _BLANKS:
            at += 1
        elif value[at : at + 1] == b"(":
            depth = 0
            while at < len(value):
                octet = value[at : at + 1]
                at += 2 if octet == b"\\" else 1
                depth += (octet == b"(") - (octet == b")")
                if depth == 0:
                    break
        else:
            break
    return at
