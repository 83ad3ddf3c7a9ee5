"""Header fields: what may stand in them, and how they become lines (RFC 5322 §2.2, RFC 2047, RFC 2231).

The checks raise Invalid with the field's name; they are the wall against header injection (one stray line end in a
subject, a header's name or a file name is another header). The encoders take checked text and give 7-bit bytes, folded at
78 columns where a place to fold exists and never over 998 (RFC 5322 §2.1.1). A percent form such as `%0d%0a` is plain text
here and is never decoded.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Collection, Iterable, Mapping

from mailcore.kit.errors import Invalid
from mailcore.smtp.address import Mailbox, quoted

LINE = 78
MAX_LINE = 998
"""Octets of a line without its CRLF (RFC 5322 §2.1.1)."""
MAX_VALUE = 16_384
"""Characters of one header's value."""
MAX_HEADERS = 100
MAX_FILENAME = 255
MAX_CONTENT_ID = 128

FORBIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Never in a header: C0 but TAB, DEL, C1, the two Unicode line ends, lone surrogates."""

RESERVED = frozenset(
    (
        *("from", "to", "cc", "bcc", "subject", "date", "message-id", "sender", "mime-version", "dkim-signature"),
        *("return-path", "received", "delivered-to", "authentication-results", "received-spf"),
    )
)
"""Headers that the platform writes itself or that only a receiver may write."""
RESERVED_PREFIXES = ("content-", "arc-", "resent-")

_NAME = re.compile(r"[!-9;-~]{1,76}\Z")
_ONCE = frozenset(("reply-to", "in-reply-to", "references", "list-unsubscribe", "list-unsubscribe-post"))
_OVERRIDES = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")
_MEDIA = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_CONTENT_TYPE = re.compile(
    rf"{_MEDIA}/{_MEDIA}(?:[ \t]*;[ \t]*{_MEDIA}=(?:{_MEDIA}|\"[^\"\\\x00-\x1f\x7f-\uffff]*\"))*\Z", re.ASCII
)
_CONTENT_ID = re.compile(r"(?:<[!-;=?-~]+>|[!-;=?-~]+)\Z")


def check_text(value: str, field: str) -> None:
    """Refuses what no header may hold. Raises Invalid."""
    if len(value) > MAX_VALUE:
        raise Invalid(f"The `{field}` field is longer than {MAX_VALUE} characters.", field=field)
    if FORBIDDEN.search(value):
        raise Invalid(f"The `{field}` field must not contain line breaks or control characters.", field=field)


def check_header_name(name: str, field: str = "headers") -> None:
    """RFC 5322 §2.2: printable ASCII without the colon. Raises Invalid."""
    if not _NAME.match(name):
        raise Invalid(f"{name[:80]!a} is not a header name.", field=field)


def check_headers(headers: Mapping[str, str], field: str = "headers", *, taken: Collection[str] = ()) -> None:
    """The headers of a caller's own: names, values, none that is the platform's, none twice that may stand once only.

    `taken`: lower-case names that the same request sets in another way (`reply-to`). Raises Invalid.
    """
    if len(headers) > MAX_HEADERS:
        raise Invalid(f"The `{field}` field has more than {MAX_HEADERS} entries.", field=field)
    seen: set[str] = set()
    for name, value in headers.items():
        check_header_name(name, field)
        lower = name.lower()
        if lower in RESERVED or lower.startswith(RESERVED_PREFIXES):
            raise Invalid(f"The header `{name}` is set by the platform and must not be in `{field}`.", field=field)
        if lower in taken or (lower in seen and lower in _ONCE):  # RFC 5322 §3.6; names differ by case only
            raise Invalid(f"The header `{name}` must not be given twice.", field=field)
        seen.add(lower)
        check_text(value, field)


def check_filename(value: str, field: str = "filename") -> None:
    """A name to show and to save under. Raises Invalid, for direction overrides too: they turn `gpj.exe` into `exe.jpg`."""
    check_text(value, field)
    if not value.strip() or len(value) > MAX_FILENAME:
        raise Invalid(f"The `{field}` field must have 1 to {MAX_FILENAME} characters.", field=field)
    if _OVERRIDES.search(value):
        raise Invalid(f"The `{field}` field must not change the direction of the text.", field=field)


def check_content_type(value: str, field: str = "content_type") -> None:
    """`type/subtype`, with parameters at will (RFC 2045 §5.1). Raises Invalid."""
    if len(value) > 255 or not _CONTENT_TYPE.match(value):
        raise Invalid(f"The `{field}` field must be a media type such as `application/pdf`.", field=field)


def check_content_id(value: str, field: str = "content_id") -> None:
    """What `cid:` in the HTML names; `< >` around it are allowed. Raises Invalid."""
    if len(value) > MAX_CONTENT_ID or not _CONTENT_ID.match(value):
        raise Invalid(
            f"The `{field}` field must be 1 to {MAX_CONTENT_ID} ASCII characters without blanks.", field=field
        )


# ---- fields as lines ------------------------------------------------------------------------------------------------


def header(name: str, value: str) -> bytes:
    """`Name: value` with its CRLF."""
    if not value:
        return b"%b:\r\n" % name.encode()
    return b"%b: %b\r\n" % (name.encode(), encode_text(value, len(name) + 2))


def address_header(name: str, mailboxes: Iterable[Mailbox]) -> bytes:
    """An address list with its CRLF; a new line where the next mailbox would not fit."""
    field = b"%b:" % name.encode()
    column = len(field)
    separator = b" "
    for mailbox in mailboxes:
        entry = format_mailbox(mailbox)
        if column + len(entry) + 2 > LINE and separator != b" ":
            separator = b",\r\n "
            column = 1
        field += separator + entry
        column += len(entry) + 2
        separator = b", "
    return field + b"\r\n"


def format_mailbox(mailbox: Mailbox) -> bytes:
    """`a@b.c` or `Name <a@b.c>`, the name as atoms, quoted or as encoded words, whichever it needs.

    7-bit, but for a local part that is not ASCII: that has no 7-bit form (RFC 6532) and needs SMTPUTF8 on the way.
    """
    address = str(mailbox.address).encode()
    name = mailbox.name
    if not name:
        return address
    if _ATOMS.match(name) and len(name) <= 64 and "=?" not in name:
        return b"%b <%b>" % (name.encode(), address)
    if name.isascii() and len(name) <= 64 and "=?" not in name:
        return b"%b <%b>" % (quoted(name).encode(), address)
    words = _encoded_words(name, 10)
    separator = b"\r\n " if len(words) - words.rfind(b"\n") + len(address) + 3 > LINE else b" "
    return b"%b%b<%b>" % (words, separator, address)


def encode_text(value: str, column: int = 0) -> bytes:
    """Unstructured text from `column` on: as it is, folded, or as RFC 2047 encoded words.

    Encoded words also carry ASCII that would not survive: text that looks like an encoded word, blanks at its ends, and
    text without a place to fold before octet 998.
    """
    plain = value.isascii() and not ("=?" in value and "?=" in value) and value == value.strip(" \t")
    if plain:
        if column + len(value) <= LINE:
            return value.encode()
        folded = _fold(value, column)
        if folded is not None:
            return folded
    return _encoded_words(value, column)


def filename_parameters(filename: str) -> tuple[bytes, bytes]:
    """`(for Content-Type, for Content-Disposition)`, each beginning with `;`, folded.

    Short ASCII without quotes and backslashes (readers disagree on escapes): `name="…"` and `filename="…"`. Else RFC 2231
    in the disposition, in pieces when it is long, and an ASCII fallback as `name`: two forms of one parameter side by
    side are read differently by every client.
    """
    if len(filename) <= 64 and _PLAIN_FILENAME.match(filename):
        plain = quoted(filename).encode()
        return b";\r\n name=" + plain, b";\r\n filename=" + plain
    fallback = _NOT_PLAIN.sub("_", filename)
    if len(fallback) > 64:  # the end says what kind of file it is
        fallback = fallback[:44] + "..." + fallback[-17:]
    return b";\r\n name=" + quoted(fallback).encode(), extended_parameter("filename", filename)


# ---- folding and encoded words --------------------------------------------------------------------------------------

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_ATOMS = re.compile(rf"{_ATEXT}+(?: {_ATEXT}+)*\Z")
_PLAIN_FILENAME = re.compile(r"[!#-\[\]-~](?:[ !#-\[\]-~]*[!#-\[\]-~])?\Z")
_NOT_PLAIN = re.compile(r"[^ !#-\[\]-~]")
_WORD = re.compile(r"[ \t]*[^ \t]+")

# RFC 2047 §5 (3): what may stand for itself in an encoded word of a phrase, and so everywhere
_Q_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_Q = [b"_" if i == 0x20 else bytes((i,)) if i in _Q_SAFE else b"=%02X" % i for i in range(256)]
_Q_UNSAFE = bytes(i for i in range(256) if i not in _Q_SAFE and i != 0x20)
_Q_KEEP = bytes(i for i in range(256) if i not in frozenset(_Q_UNSAFE))
# RFC 2231 §7: attribute-char
_ATTRIBUTE_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`|~")
_PERCENT = [bytes((i,)) if i in _ATTRIBUTE_SAFE else b"%%%02X" % i for i in range(256)]

_WORD_FRAME = len("=?utf-8?q??=")
_WORD_MAX = 75
"""RFC 2047 §2."""


def _fold(value: str, column: int) -> bytes | None:
    """At blanks, which stay; None where some line would pass 998."""
    lines: list[str] = []
    line = ""
    for match in _WORD.finditer(value):
        word = match[0]
        # not before the first word: a first line that holds nothing but the name is lost on some parsers
        if line and column + len(line) + len(word) > LINE:
            lines.append(line)
            line, column = "", 0
        line += word
        if column + len(line) > MAX_LINE:
            return None
    lines.append(line)
    return "\r\n".join(lines).encode()


def _encoded_words(value: str, column: int) -> bytes:
    """UTF-8 in B or Q, whichever is shorter, split between characters."""
    raw = value.encode()
    q_length = len(raw) + 2 * len(raw.translate(None, _Q_KEEP))
    as_q = q_length <= (len(raw) + 2) // 3 * 4
    words: list[bytes] = []
    # a first line without room for some text still takes a word: it is longer than 78, far from 998
    room = max(min(_WORD_MAX, LINE - column) - _WORD_FRAME, 16)
    for chunk in _chunks(value, room, as_q, _WORD_MAX - _WORD_FRAME):
        if as_q:
            words.append(b"=?utf-8?q?%b?=" % b"".join([_Q[i] for i in chunk]))
        else:
            words.append(b"=?utf-8?b?%b?=" % binascii.b2a_base64(chunk, newline=False))
    return b"\r\n ".join(words)


def _chunks(value: str, first: int, as_q: bool, following: int) -> Iterable[bytes]:
    """Pieces of whole characters whose encoded form fits: `first` columns for the first, `following` for the others."""
    room = first if as_q else first // 4 * 3
    size = 0
    chunk: list[bytes] = []
    for character in value:
        raw = character.encode()
        cost = sum([len(_Q[i]) for i in raw]) if as_q else len(raw)
        if chunk and size + cost > room:
            yield b"".join(chunk)
            chunk, size = [], 0
            room = following if as_q else following // 4 * 3
        chunk.append(raw)
        size += cost
    yield b"".join(chunk)


def extended_parameter(name: str, value: str) -> bytes:
    """`;` and the parameter in the form of RFC 2231, in pieces where it is long."""
    octets = [_PERCENT[i] for i in value.encode()]
    start = f"{name}*=utf-8''".encode()
    if len(start) + sum(map(len, octets)) + 2 <= LINE:
        return b";\r\n " + start + b"".join(octets)
    # RFC 2231 §4.1: continuations, numbered; the character set stands in the first
    pieces: list[bytes] = []
    piece = f"{name}*0*=utf-8''".encode()
    for octet in octets:
        if len(piece) + len(octet) + 2 > LINE:
            pieces.append(piece)
            piece = f"{name}*{len(pieces)}*=".encode()
        piece += octet
    pieces.append(piece)
    return b"".join([b";\r\n " + p for p in pieces])
