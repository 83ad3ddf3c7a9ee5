"""A message as bytes: 7-bit, CRLF only, a pure function of its argument.

Every process and every retry makes the same bytes from the same row: date, Message-ID and the seed of the boundaries come
in. The standard library's email package is not used: it takes longer than signing.

1. the text parts: line ends, then the shortest encoding that stays 7-bit (RFC 2045 §6)
2. text and html beside each other: multipart/alternative (RFC 2046 §5.1.4)
3. inline images with the html: multipart/related (RFC 2387)
4. attachments: multipart/mixed
5. the header
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from mailcore.mime.headers import MAX_LINE, address_header, filename_parameters, header
from mailcore.smtp.address import parse_mailbox

MAX_7BIT_LINE = 990
"""Octets; longer lines are encoded (RFC 5322 §2.1.1 allows 998)."""


@dataclass(frozen=True, slots=True)
class Part:
    """An attachment (`disposition` "attachment") or an image that the html shows (`inline`, with a content_id)."""

    content: bytes
    content_type: str
    filename: str | None = None
    content_id: str | None = None
    disposition: str = "attachment"


@dataclass(frozen=True, slots=True)
class Message:
    """Values are checked before (mailcore.mime.headers, mailcore.smtp.address). Bcc has no place here."""

    from_: str
    to: Sequence[str]
    subject: str
    message_id: str
    """`id@domain`, with or without `< >`."""
    date: datetime
    """With its time zone."""
    boundary_seed: bytes
    """Anything of this message's own that a stranger cannot foretell while it is written, such as its id."""
    html: str | None = None
    """None or empty: the text stands alone. A reader would show an empty html in its place."""
    text: str | None = None
    """None or empty beside html: the html stands alone."""
    cc: Sequence[str] = ()
    reply_to: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    attachments: Sequence[Part] = ()


@dataclass(frozen=True, slots=True)
class Composed:
    head: bytes
    """Header fields, each with its CRLF; without the empty line."""
    body: bytes

    @property
    def smtputf8(self) -> bool:
        """Some address has a local part that is not ASCII (RFC 6532): the one thing without a 7-bit form."""
        return not self.head.isascii()

    def __bytes__(self) -> bytes:
        return b"%b\r\n%b" % (self.head, self.body)


def compose(message: Message) -> Composed:
    """The whole message. Raises Invalid for addresses that were not checked."""
    entity = _entity(message)
    head = [address_header("From", (parse_mailbox(message.from_),))]
    if message.to:
        head.append(address_header("To", map(parse_mailbox, message.to)))
    elif not message.cc:
        head.append(b"To: undisclosed-recipients:;\r\n")  # RFC 5322 §3.4: an empty group
    if message.cc:
        head.append(address_header("Cc", map(parse_mailbox, message.cc)))
    if message.reply_to:
        head.append(address_header("Reply-To", map(parse_mailbox, message.reply_to)))
    head.append(header("Subject", message.subject))
    head.append(b"Date: %b\r\n" % format_date(message.date).encode())
    head.append(header("Message-ID", f"<{message.message_id.strip('<>')}>"))
    head.extend([header(name, value) for name, value in message.headers.items()])
    head.append(b"MIME-Version: 1.0\r\n")
    head.append(entity.head)
    return Composed(b"".join(head), entity.body)


def format_date(at: datetime) -> str:
    """RFC 5322 §3.3, English whatever the locale; a time without a zone is UTC."""
    offset = at.utcoffset()
    minutes = 0 if offset is None else int(offset.total_seconds()) // 60
    sign, (hours, minutes) = ("-" if minutes < 0 else "+"), divmod(abs(minutes), 60)
    return (
        f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04} "
        f"{at.hour:02}:{at.minute:02}:{at.second:02} {sign}{hours:02}{minutes:02}"
    )


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


# ---- the tree of parts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entity:
    head: bytes
    body: bytes


def _entity(message: Message) -> _Entity:
    inline: list[Part] = []
    attached: list[Part] = []
    for part in message.attachments:
        shown = part.disposition == "inline" and part.content_id and message.html
        (inline if shown else attached).append(part)
    alternatives: list[_Entity] = []
    if message.text or not message.html:
        alternatives.append(_text_entity(message.text or "", b"plain"))
    if message.html:
        html = _text_entity(message.html, b"html")
        if inline:
            html = _multipart(b"related", [html, *map(_part_entity, inline)], message, b'; type="text/html"')
        alternatives.append(html)
    entity = alternatives[0] if len(alternatives) == 1 else _multipart(b"alternative", alternatives, message)
    if attached:
        entity = _multipart(b"mixed", [entity, *map(_part_entity, attached)], message)
    return entity


def _multipart(subtype: bytes, parts: Sequence[_Entity], message: Message, parameters: bytes = b"") -> _Entity:
    # `=_` stands in no quoted-printable and no base64 (RFC 2045 §6.7); in 7-bit text a digest is not met by chance
    digest = hashlib.sha256(b"%b\0%b" % (subtype, message.boundary_seed)).hexdigest()[:32].encode()
    delimiter = b"--=_%b\r\n" % digest
    body = b"".join([b"%b%b\r\n%b\r\n" % (delimiter, part.head, part.body) for part in parts])
    return _Entity(
        b'Content-Type: multipart/%b%b;\r\n boundary="=_%b"\r\n' % (subtype, parameters, digest),
        b"%b--=_%b--\r\n" % (body, digest),
    )


# ---- text -----------------------------------------------------------------------------------------------------------

_QP_PLAIN = bytes(i for i in range(128) if (32 <= i < 127 and i != 61) or i in b"\t\r\n")
_TEXT_HEAD = b"Content-Type: text/%b; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n"
_FROM_LINE = re.compile(rb"(?m)^(?:From )+")


def _text_entity(text: str, subtype: bytes) -> _Entity:
    """Text with CRLF line ends and one at its end, 7-bit where that is possible without encoding."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.endswith("\n"):
        text += "\n"
    # A line that begins with "From " becomes ">From " in mbox files on the way, which breaks the signature; NUL has no
    # place in a message (RFC 5322 §3.5).
    if text.isascii() and "\0" not in text and "\nFrom " not in text and not text.startswith("From "):
        lines = text.split("\n")
        if max(map(len, lines)) <= MAX_7BIT_LINE:
            return _Entity(_TEXT_HEAD % (subtype, b"7bit"), "\r\n".join(lines).encode())
    # a lone surrogate (unchecked input) becomes "?": there is no UTF-8 for it
    content = text.replace("\n", "\r\n").encode("utf-8", "replace")
    # each octet that quoted-printable escapes costs two more; base64 costs a third of all
    if len(content.translate(None, _QP_PLAIN)) * 6 <= len(content):
        return _Entity(_TEXT_HEAD % (subtype, b"quoted-printable"), quoted_printable(content))
    return _Entity(_TEXT_HEAD % (subtype, b"base64"), base64_lines(content))


def quoted_printable(content: bytes) -> bytes:
    """Content has CRLF line ends and ends with one, which is what makes b2a_qp write CRLF in its soft breaks too."""
    encoded = binascii.b2a_qp(content, istext=True)
    if b"From " in encoded:
        # the soft breaks keep the line within 76 although it has grown (RFC 2045 §6.7 (5))
        encoded = _FROM_LINE.sub(lambda match: b"=46rom =\r\n" * (len(match[0]) // 5), encoded)
    return encoded


def base64_lines(content: bytes) -> bytes:
    """76 columns (RFC 2045 §6.8), each line with its CRLF."""
    if not content:
        return b""
    encoded = binascii.b2a_base64(content, newline=False)
    return b"\r\n".join([encoded[i : i + 76] for i in range(0, len(encoded), 76)]) + b"\r\n"


# ---- attachments ----------------------------------------------------------------------------------------------------


def _part_entity(part: Part) -> _Entity:
    content_type, encoding, body = part.content_type, b"base64", b""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "message/rfc822" and is_7bit(part.content):
        encoding, body = b"7bit", part.content
    else:
        if media_type.startswith(("message/", "multipart/")):
            # RFC 2046 §5.2.1 and RFC 2045 §6.4: a message or multipart must not be encoded as base64. One that is not 7-bit
            # can therefore only travel as a file: octet-stream under its own name, bit for bit.
            content_type = "application/octet-stream"
        body = base64_lines(part.content)
    name, filename = filename_parameters(part.filename) if part.filename else (b"", b"")
    head = b"Content-Type: %b%b\r\nContent-Transfer-Encoding: %b\r\nContent-Disposition: %b%b\r\n" % (
        content_type.encode(),
        name,
        encoding,
        b"inline" if part.disposition == "inline" else b"attachment",
        filename,
    )
    if part.content_id:
        head += b"Content-ID: <%b>\r\n" % part.content_id.strip("<>").encode()
    return _Entity(head, body)


def is_7bit(content: bytes) -> bool:
    """RFC 2045 §2.7: ASCII without NUL, CR and LF only as CRLF, lines within 998."""
    line_ends = content.count(b"\r\n")
    return (
        content.isascii()
        and b"\0" not in content
        and content.count(b"\r") == content.count(b"\n") == line_ends
        and max(map(len, content.split(b"\r\n"))) <= MAX_LINE
    )
