"""A raw message changed leaf by leaf: what is not changed stays, octet for octet (RFC 2045, RFC 2046).

    rewrite(raw, change)   `change` sees each leaf and gives its new content, or None to leave it
    seven_bit(raw)         the same message in 7-bit form, for a signature that no relay on the way has a reason to break

The message has CRLF line ends only. What stands under a signature (multipart/signed) is never touched: `change` is told, and
`seven_bit` refuses where it would have to (RFC 1847 §2.1: what is signed is 7-bit already).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from mailcore.kit.errors import Invalid, Refused
from mailcore.mime.compose import base64_lines, is_7bit, quoted_printable
from mailcore.mime.fields import parameters, parse_addresses
from mailcore.mime.headers import LINE, address_header, extended_parameter, header
from mailcore.mime.parse import Message
from mailcore.mime.parts import Part, is_body, transfer_encoding
from mailcore.mime.text import decode_header, decode_text, decode_transfer
from mailcore.smtp.address import Mailbox, parse_address, quoted

MAX_ENCLOSED = 10
"""Messages within messages that are followed."""
_KNOWN = frozenset(("", "7bit", "8bit", "binary", "quoted-printable", "base64"))
_QP_PLAIN = bytes(i for i in range(128) if (32 <= i < 127 and i != 61) or i in b"\t\r\n")
_CHARSET = re.compile(rb'(;\s*charset\s*=\s*)("[^"]*"|[^\s;]+)', re.IGNORECASE)
_FROM_LINE = re.compile(rb"^From ", re.MULTILINE)
_ADDRESSES = frozenset(("from", "sender", "reply-to", "to", "cc", "bcc"))
_WITH_PARAMETERS = frozenset(("content-type", "content-disposition"))


@dataclass(frozen=True, slots=True)
class Leaf:
    """A part that holds no parts. An enclosed message is one leaf."""

    content_type: str
    charset: str | None
    is_body: bool
    """Text or HTML that is there to be read, no attachment."""
    sealed: bool
    """Under a signature: a change breaks it."""
    encoding: str
    octets: bytes
    """As they stand in the message."""

    def content(self) -> bytes:
        return decode_transfer(self.octets, self.encoding)

    def text(self) -> str:
        return decode_text(self.content(), self.charset)


Change: TypeAlias = Callable[[Leaf], bytes | str | None]
"""New content, decoded; a str is written as UTF-8 and labelled so; None leaves the leaf as it is."""
_Edit: TypeAlias = tuple[int, int, bytes]
"""From where to where, and what stands there instead."""


def rewrite(raw: bytes, change: Change) -> bytes:
    message = Message(raw)
    edits: list[_Edit] = []
    for part in message.leaves:
        new = change(_leaf(message, part))
        if new is not None and _has_header(raw, part):
            edits.append((part.head, part.end, _written(raw, part, new)))
    return _with_mime_version(_applied(raw, edits), raw) if edits else raw


def seven_bit(raw: bytes) -> bytes:
    """ASCII in lines of at most 998 octets (RFC 2045 §2.7); `raw` itself where it is that already.

    Content is encoded, header fields get their encoded forms (RFC 2047, RFC 2231), text outside of all parts goes. Raises
    Refused where that would break a signature or cannot be done.
    """
    return raw if is_7bit(raw) else _converted(raw, 0)


# ---- 7-bit ----------------------------------------------------------------------------------------------------------


def _converted(raw: bytes, depth: int) -> bytes:
    if depth > MAX_ENCLOSED:
        raise _cannot(f"It holds messages within messages, more than {MAX_ENCLOSED} deep.")
    message = Message(raw)
    if message.cut:
        raise _cannot("It has too many parts.")
    edits: list[_Edit] = []
    kept: list[tuple[int, int]] = []
    for part in message.multiparts:
        head = raw[part.head : part.start]
        kept.append((part.head, part.start))
        if not is_7bit(head) or transfer_encoding(part.fields) not in ("", "7bit"):
            if _sealed(part):
                raise _under_signature()
            # RFC 2045 §6.4: a multipart is labelled as what its parts are
            edits.append((part.head, part.start, _joined([*_seven_bit_fields(head)], encoding=b"7bit") + b"\r\n"))
    for part in message.leaves:
        kept.append((part.head, part.end))
        edits += _leaf_edits(message, part, depth)
    edits += _outside(message, kept)
    done = _with_mime_version(_applied(raw, edits), raw)
    if not is_7bit(done):
        raise _cannot("Its parts cannot be told apart.")
    return done


def _leaf_edits(message: Message, part: Part, depth: int) -> Iterator[_Edit]:
    raw = message.raw
    head, octets = raw[part.head : part.start], raw[part.start : part.end]
    good = is_7bit(octets)
    if good and is_7bit(head):
        return
    if _sealed(part):
        raise _under_signature()
    if not _has_header(raw, part):
        raise _cannot("A part has no end of its header.")
    fields = [*_seven_bit_fields(head)]
    if good:
        yield part.head, part.start, _joined(fields) + b"\r\n"
        return
    encoding = transfer_encoding(part.fields)
    kind = (
        decode_header(_value(fields, b"content-type") or b"").partition(";")[0].strip() or part.content_type
    ).lower()
    if kind in ("message/rfc822", "message/news") and encoding in ("", "7bit", "8bit", "binary"):
        # RFC 2046 §5.2.1: an enclosed message is not encoded, but what is in it can be
        inner = _converted(octets, depth + 1)
        yield part.head, part.end, _joined(fields, encoding=b"7bit") + b"\r\n" + inner
        return
    if kind.startswith("multipart/") or (kind.startswith("message/") and not kind.startswith("message/global")):
        # RFC 2045 §6.4; RFC 6532 §3.7 allows it for message/global
        raise _cannot(f"A part of type {kind[:80]} must not be encoded.")
    if encoding not in _KNOWN:
        raise _cannot(f"A part has the unknown transfer encoding {encoding[:40]!a}.")
    content = decode_transfer(octets, encoding)
    if _value(fields, b"content-type") is None and _is_utf8(content):
        fields.append(b"Content-Type: text/plain; charset=utf-8\r\n")
    label, written = _encoded(content, text=kind.startswith("text/"))
    yield part.head, part.end, _joined(fields, encoding=label) + b"\r\n" + written


def _outside(message: Message, kept: list[tuple[int, int]]) -> Iterator[_Edit]:
    """What stands before, between and after parts: readers pass over it (RFC 2046 §5.1.1), so lines that are not 7-bit go."""
    raw, at = message.raw, 0
    for start, end in [*sorted(kept), (len(raw), len(raw))]:
        between = raw[at:start]
        if not is_7bit(between):
            if any(part.content_type == "multipart/signed" for part in message.multiparts):
                raise _under_signature()
            yield at, start, b"".join([line for line in between.splitlines(keepends=True) if is_7bit(line)])
        at = max(at, end)


def _sealed(part: Part) -> bool:
    outer = part.inside
    while outer is not None:
        if outer.content_type == "multipart/signed":
            return True
        outer = outer.inside
    return False


def _cannot(why: str) -> Refused:
    # RFC 3463 §3.7: conversion required but not supported
    return Refused(
        f"The message is not 7-bit and cannot be converted. {why} Encode it as quoted-printable or base64.",
        code=554,
        enhanced="5.6.3",
    )


def _under_signature() -> Refused:
    return _cannot("It stands under a signature, which a conversion would break (RFC 1847 section 2.1).")


# ---- header fields --------------------------------------------------------------------------------------------------


def split_fields(head: bytes) -> list[bytes]:
    """Each field with its folds and its CRLF; without the empty line. A line that continues nothing stands alone."""
    fields: list[bytes] = []
    for line in head.splitlines(keepends=True):
        if line == b"\r\n":
            break
        if line[:1] in (b" ", b"\t") and fields:
            fields[-1] += line
        else:
            fields.append(line)
    return fields


def field_name(field: bytes) -> bytes:
    """In lower case."""
    return field.partition(b":")[0].rstrip(b" \t").lower()


def field_value(field: bytes) -> bytes:
    """Unfolded (RFC 5322 §2.2.3)."""
    return field.partition(b":")[2].replace(b"\r\n", b"").strip(b" \t")


def _value(fields: Iterable[bytes], name: bytes) -> bytes | None:
    return next((field_value(field) for field in fields if field_name(field) == name), None)


def _seven_bit_fields(head: bytes) -> Iterator[bytes]:
    for field in split_fields(head):
        yield field if is_7bit(field) else seven_bit_field(field)


def seven_bit_field(field: bytes) -> bytes:
    """The field in encoded words or RFC 2231 parameters. Raises Refused when it is neither ASCII nor UTF-8."""
    written = field.partition(b":")[0].rstrip(b" \t")
    try:
        name = written.decode("ascii")
        value = field_value(field).decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(
            f"The header field {written[:76].decode('ascii', 'replace')!a} is neither ASCII nor UTF-8. Encode it by RFC 2047.",
            code=554,
            enhanced="5.6.0",
        ) from None
    lower = name.lower()
    if lower in _ADDRESSES or lower.startswith("resent-"):
        mailboxes = [_mailbox(name, one.name, one.address) for one in parse_addresses(value)]
        if mailboxes:
            return address_header(name, mailboxes)
    if lower in _WITH_PARAMETERS:
        return _with_parameters(name, value)
    return header(name, decode_header(value.encode()))


def _mailbox(field: str, name: str, written: str) -> Mailbox:
    try:
        address = parse_address(written, allow_quoted=True)
    except Invalid as error:
        raise Refused(
            f"The header field {field} holds {written[:80]!a}: {error.public}", code=553, enhanced="5.6.0"
        ) from error
    if address.smtputf8:
        raise Refused(
            f"The header field {field} holds an address outside ASCII, which this server does not send.",
            code=553,
            enhanced="5.6.7",
        )
    return Mailbox(name, address)


def _with_parameters(name: str, value: str) -> bytes:
    field = f"{name}: {value.partition(';')[0].strip()}".encode("ascii", "replace")
    for key, text in parameters(value).items():
        if text.isascii() and len(key) + len(text) + 6 <= LINE:
            field += b";\r\n %b=%b" % (key.encode("ascii", "replace"), quoted(text).encode())
        else:
            field += extended_parameter(key, text)
    return field + b"\r\n"


def _joined(fields: Iterable[bytes], *, encoding: bytes | None = None) -> bytes:
    """With this Content-Transfer-Encoding in the place of any other; without the empty line."""
    if encoding is None:
        return b"".join(fields)
    rest = [field for field in fields if field_name(field) != b"content-transfer-encoding"]
    return b"%bContent-Transfer-Encoding: %b\r\n" % (b"".join(rest), encoding)


def _with_mime_version(done: bytes, before: bytes) -> bytes:
    """RFC 2045 §4: without it nobody has to believe the encoding."""
    if done == before or any(field_name(field) == b"mime-version" for field in split_fields(_head(done))):
        return done
    head = _head(done)
    return b"%bMIME-Version: 1.0\r\n%b" % (head, done[len(head) :])


def _head(raw: bytes) -> bytes:
    if raw.startswith(b"\r\n"):
        return b""
    end = raw.find(b"\r\n\r\n")
    return raw if end < 0 else raw[: end + 2]


# ---- leaves ---------------------------------------------------------------------------------------------------------


def _leaf(message: Message, part: Part) -> Leaf:
    return Leaf(
        part.content_type,
        part.parameters.get("charset"),
        is_body(part),
        _sealed(part),
        transfer_encoding(part.fields),
        message.raw[part.start : part.end],
    )


def _has_header(raw: bytes, part: Part) -> bool:
    """Its header ends with an empty line, as it does unless a boundary cut it short."""
    head = raw[part.head : part.start]
    return head == b"\r\n" or head.endswith(b"\r\n\r\n")


def _written(raw: bytes, part: Part, new: bytes | str) -> bytes:
    fields = split_fields(raw[part.head : part.start])
    if isinstance(new, str):
        new = new.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n").encode("utf-8", "replace")
        fields = [_in_utf8(field) if field_name(field) == b"content-type" else field for field in fields]
        if _value(fields, b"content-type") is None:
            fields.append(b"Content-Type: text/plain; charset=utf-8\r\n")
    label, written = _encoded(new, text=part.content_type.startswith("text/"))
    return _joined(fields, encoding=label) + b"\r\n" + written


def _in_utf8(field: bytes) -> bytes:
    changed, found = _CHARSET.subn(rb"\1utf-8", field, count=1)
    return changed if found else field.removesuffix(b"\r\n") + b";\r\n charset=utf-8\r\n"


def _encoded(content: bytes, *, text: bool) -> tuple[bytes, bytes]:
    """`(7bit | quoted-printable | base64, octets)`: the shortest form that survives."""
    if text and is_7bit(content) and not _FROM_LINE.search(content):
        return b"7bit", content
    whole_lines = content.count(b"\r") == content.count(b"\n") == content.count(b"\r\n")
    # each octet that quoted-printable escapes costs two more; base64 costs a third of all
    if not text or not whole_lines or len(content.translate(None, _QP_PLAIN)) * 6 > len(content):
        return b"base64", base64_lines(content)
    if content.endswith(b"\r\n"):
        return b"quoted-printable", quoted_printable(content)
    return b"quoted-printable", quoted_printable(content + b"\r\n").removesuffix(b"\r\n")


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _applied(raw: bytes, edits: Iterable[_Edit]) -> bytes:
    pieces: list[bytes] = []
    at = 0
    for start, end, new in sorted(edits, key=lambda edit: edit[:2]):
        pieces += (raw[at:start], new)
        at = end
    pieces.append(raw[at:])
    return b"".join(pieces)
