"""What strangers' mail says: summary, bodies, attachments. Hostile input under limits; beyond one, a defect and never an exception.

1. one pass over the lines that begin with `--` splits the mail into parts: iterative, linear, whatever the nesting
   (RFC 2046 §5.1). An enclosed message is one part, an attachment; its own parts are not looked at
2. the header's fields give the summary (fields.py)
3. text parts that are not attachments are the bodies, every other leaf is an attachment, numbered in order of appearance

A body is decoded only when it is asked for. Large mail is read in a process of its own: mailcore.flow.parse.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from mailcore.mime import fields as header
from mailcore.mime import parts
from mailcore.mime.doubts import doubts
from mailcore.mime.fields import Field, MailAddress
from mailcore.mime.parts import BODY_TYPES, Attachment, Part, is_body, transfer_encoding, written_name
from mailcore.mime.plaintext import html_to_text
from mailcore.mime.text import decode_body, decode_header, decode_transfer, many_lines, one_line

_DASHES = re.compile(rb"^--[^\r\n]{1,998}", re.MULTILINE)
_TYPE = re.compile(r"\s*([!#$%&'*+.^_`|~\w-]{1,64})/([!#$%&'*+.^_`|~\w-]{1,64})", re.ASCII)
_CID = re.compile(r"cid:([^\"'\s<>()]{1,300})", re.IGNORECASE)
_IMAGE = re.compile(r"image/[a-z0-9.+-]{1,64}\Z")
"""Types that may stand in an attribute of HTML as they are."""
TEXT_CHARACTERS = 32_000
"""So much of a mail's text a summary holds."""
EMBEDDED_BYTES = 25 * 1024 * 1024
"""So much of a mail's images is put into its HTML as data: URIs; the others stay cid: references."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers of Postfix where it has one (header_size_limit, mime_nesting_limit)."""

    header_bytes: int = 102_400
    depth: int = 100
    parts: int = 1_000


@dataclass(slots=True)
class Summary:
    from_: list[MailAddress] = field(default_factory=list)
    to: list[MailAddress] = field(default_factory=list)
    cc: list[MailAddress] = field(default_factory=list)
    bcc: list[MailAddress] = field(default_factory=list)
    reply_to: list[MailAddress] = field(default_factory=list)
    subject: str | None = None
    message_id: str | None = None
    """With its angle brackets, as it stands."""
    date: datetime | None = None
    in_reply_to: list[str] = field(default_factory=list)
    """Message-IDs with their angle brackets, in the order of the field."""
    references: list[str] = field(default_factory=list)
    """The oldest first; of more than fifty the first and the last ones."""
    thread_index: str | None = None
    """What Outlook calls the conversation, where it names it."""
    text: str = ""
    """The beginning of what is to be read, as plain text: at most TEXT_CHARACTERS."""
    received_for: list[str] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    """Names of what makes it look like another's (mime.doubts)."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"date": self.date.isoformat() if self.date else None}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Summary:
        people = {
            name: [MailAddress(**one) for one in stored[name]] for name in ("from_", "to", "cc", "bcc", "reply_to")
        }
        date = datetime.fromisoformat(stored["date"]) if stored["date"] else None
        files = [Attachment(**one) for one in stored["attachments"]]
        return cls(**stored | people | {"date": date, "attachments": files})


@dataclass(frozen=True, slots=True)
class Bodies:
    text: str | None
    html: str | None


class Message:
    """One parse of `raw`. Holds offsets, copies nothing until it is asked."""

    def __init__(self, raw: bytes, limits: Limits | None = None) -> None:
        self.raw = raw
        self.defects: list[str] = []
        self.fields: list[Field] = []
        self.multiparts: list[Part] = []
        """Those that were opened, in order; the outermost is the mail itself."""
        self.cut = False
        """It has more parts than were read."""
        self._limits = limits or Limits()
        self.leaves = list(self._split())

    def summary(self) -> Summary:
        """What a list of mails and an event show of it."""
        defects = self.defects
        people = {
            name: header.addresses(self.fields, name.replace("_", "-"), defects)
            for name in ("to", "cc", "bcc", "reply_to")
        }
        ids = [found.value for found in self.fields if found.name == "message-id"]
        authors = header.addresses(self.fields, "from", defects)
        files = [attachment for attachment, _ in self._attachments()]
        names = [one.name for some in people.values() for one in some] + [written_name(part) for part in self.leaves]
        return Summary(
            from_=[header.shown(one) for one in authors],
            **{name: [header.shown(one) for one in some] for name, some in people.items()},
            doubts=doubts(authors, names),
            subject=header.field(self.fields, "subject"),
            message_id=one_line(ids[0].decode("utf-8", "replace"))[:998] or None if ids else None,
            date=header.date(header.field(self.fields, "date")),
            in_reply_to=header.message_ids(self.fields, "in-reply-to"),
            references=header.message_ids(self.fields, "references"),
            thread_index=header.field(self.fields, "thread-index"),
            text=self._beginning(),
            received_for=header.received_for(self.fields),
            attachments=files,
            defects=list(dict.fromkeys(defects)),
        )

    def bodies(self) -> Bodies:
        """What is to be read: the text parts and the HTML parts, each kind joined when there are several."""
        found: dict[str, list[str]] = {kind: [] for kind in BODY_TYPES}
        for part in self.leaves:
            if is_body(part):
                found[part.content_type].append(
                    many_lines(decode_body(self._content(part), part.parameters.get("charset")))
                )
        text, html = (("\n".join(found[kind]) if found[kind] else None) for kind in BODY_TYPES)
        return Bodies(text, html)

    def _beginning(self) -> str:
        """The first text part, or the first one of HTML without its markup: only its beginning is decoded."""
        for kind in BODY_TYPES:
            for part in self.leaves:
                if part.content_type != kind or not is_body(part):
                    continue
                # base64 takes a third more than it holds, and markup more than its text
                most = TEXT_CHARACTERS * (6 if kind == "text/html" else 2)
                octets = decode_transfer(
                    self.raw[part.start : min(part.end, part.start + most)], transfer_encoding(part.fields)
                )
                text = many_lines(decode_body(octets, part.parameters.get("charset")))
                text = html_to_text(text) if kind == "text/html" else text
                if text.strip():
                    return text[:TEXT_CHARACTERS]
        return ""

    def attachment(self, n: int) -> tuple[Attachment, bytes] | None:
        """With its decoded content; None when the mail has no such attachment."""
        for attachment, part in self._attachments():
            if attachment.n == n:
                return attachment, self._content(part)
        return None

    def headers(self) -> dict[str, str]:
        """Lower-case name → value as text; fields of one name are joined by a comma."""
        joined: dict[str, list[str]] = {}
        for found in self.fields:
            joined.setdefault(found.name, []).append(decode_header(found.value))
        return {name: ", ".join(values) for name, values in joined.items()}

    def embed_images(self, html: str) -> str:
        """`cid:` references to images of this mail as data: URIs (RFC 2392, RFC 2397), up to EMBEDDED_BYTES."""
        by_id = {
            attachment.content_id: (attachment, part)
            for attachment, part in self._attachments()
            if attachment.content_id and _IMAGE.match(attachment.content_type)
        }
        room = EMBEDDED_BYTES
        made: dict[int, str] = {}

        def data_uri(match: re.Match[str]) -> str:
            nonlocal room
            found = by_id.get(match[1]) or by_id.get(unquote(match[1]))  # RFC 2392 §2: percent-encoded in the URL
            if found is None or found[0].size > room:
                return match[0]
            image, part = found
            room -= image.size
            if image.n not in made:  # what is named often is decoded once
                content = base64.b64encode(self._content(part)).decode("ascii")
                made[image.n] = f"data:{image.content_type};base64,{content}"
            return made[image.n]

        return _CID.sub(data_uri, html) if by_id else html

    def _content(self, part: Part) -> bytes:
        return decode_transfer(self.raw[part.start : part.end], transfer_encoding(part.fields))

    def _attachments(self) -> Iterator[tuple[Attachment, Part]]:
        n = 0
        for part in self.leaves:
            if not is_body(part):
                yield parts.attachment(n, part, len(self._content(part))), part
                n += 1

    # ---- splitting --------------------------------------------------------------------------------------------------

    def _split(self) -> Iterator[Part]:
        raw, limits = self.raw, self._limits
        self.fields, at = header.read_fields(raw, 0, limits.header_bytes, self.defects)
        boundaries: dict[bytes, int] = {}  # delimiter → its depth; of two alike the outer one counts
        stack: list[bytes] = []
        opened: list[Part] = []  # beside the stack
        part: Part | None = self._open(self.fields, at)
        count = 1
        bare: Part | None = None  # a multipart that no delimiter has followed yet: perhaps it is none
        if part is not None and (delimiter := self._delimiter(part, boundaries)) is not None:
            boundaries[delimiter] = 0
            stack.append(delimiter)
            opened.append(part)
            bare, part = part, None
        skip_to = at
        for match in _DASHES.finditer(raw, at):
            if not boundaries:
                break
            if match.start() < skip_to:
                continue
            line = match[0].rstrip(b" \t")
            closing = line not in boundaries and line.endswith(b"--") and line[:-2] in boundaries
            if line not in boundaries and not closing:
                continue
            if bare is not None:
                if line != stack[-1]:  # an outer delimiter came first: what was a multipart by its label holds no part
                    yield self._as_text(bare, _before(raw, match.start()))
                else:
                    self.multiparts.append(bare)
                bare = None
            if part is not None:
                yield _ended(part, _before(raw, match.start()))
                part = None
            depth = boundaries[line[:-2] if closing else line]
            for inner in stack[depth if closing else depth + 1 :]:
                del boundaries[inner]
            del stack[depth if closing else depth + 1 :]
            del opened[len(stack) :]
            if closing:
                continue
            if count >= limits.parts:
                self.defects.append(f"more than {limits.parts} parts: the rest was not read")
                self.cut = True
                break
            count += 1
            start = _next_line(raw, match.end())
            found, skip_to = header.read_fields(
                raw, start, limits.header_bytes, self.defects, stop=lambda text: _is_delimiter(text, boundaries)
            )
            part = self._open(found, skip_to, start, opened[-1])
            if (delimiter := self._delimiter(part, boundaries)) is not None:
                if len(stack) >= limits.depth:
                    self.defects.append(f"parts nested deeper than {limits.depth}: what is inside was not read")
                    continue
                boundaries[delimiter] = len(stack)
                stack.append(delimiter)
                opened.append(part)
                bare, part = part, None
        if part is not None:
            yield _ended(part, len(raw))
        elif bare is not None:
            yield self._as_text(bare, len(raw))

    def _as_text(self, part: Part, end: int) -> Part:
        self.defects.append("a multipart without its boundary was read as text")
        return replace(part, content_type="text/plain", parameters={}, end=max(part.start, end))

    def _open(self, fields: list[Field], start: int, head: int = 0, inside: Part | None = None) -> Part:
        value = header.field(fields, "content-type")
        match = _TYPE.match(value) if value else None
        if value is None and inside is not None and inside.content_type == "multipart/digest":
            # RFC 2046 §5.1.5
            return Part(fields, "message/rfc822", {}, start, start, head, inside)
        if value is None or match is None:
            if value is not None:
                self.defects.append("a Content-Type that cannot be read was taken as text/plain")
            # RFC 2045 §5.2
            return Part(fields, "text/plain", {}, start, start, head, inside)
        kind = f"{match[1]}/{match[2]}".lower()
        return Part(fields, kind, header.parameters(value), start, start, head, inside)

    def _delimiter(self, part: Part, boundaries: dict[bytes, int]) -> bytes | None:
        if not part.content_type.startswith("multipart/"):
            return None
        boundary = part.parameters.get("boundary", "")
        delimiter = b"--" + boundary.encode("utf-8", "replace").rstrip(b" \t")
        if not boundary or len(delimiter) > 998:
            self.defects.append("a multipart names no boundary")
            return None
        return None if delimiter in boundaries else delimiter


def content_as_json(message: Message, html_format: str) -> dict[str, Any]:
    """`{"html", "text", "headers"}`; with `data_uri` images of the mail stand in its HTML, with `cid` it is as it came."""
    bodies = message.bodies()
    html = bodies.html
    if html is not None and html_format == "data_uri":
        html = message.embed_images(html)
    return {"html": html, "text": bodies.text, "headers": message.headers()}


def _is_delimiter(line: bytes, boundaries: dict[bytes, int]) -> bool:
    line = line.rstrip(b" \t")
    return line in boundaries or (line.endswith(b"--") and line[:-2] in boundaries)


def _ended(part: Part, end: int) -> Part:
    kind = part.content_type
    if kind.startswith("multipart/"):
        # without a boundary of its own its content is text, or what a wrong label was put on
        kind = "text/plain"
    return replace(part, content_type=kind, end=max(part.start, end))


def _before(raw: bytes, at: int) -> int:
    """RFC 2046 §5.1.1: the line end before a delimiter belongs to the delimiter."""
    if raw[at - 1 : at] == b"\n":
        at -= 1
        if raw[at - 1 : at] == b"\r":
            at -= 1
    return at


def _next_line(raw: bytes, at: int) -> int:
    end = raw.find(b"\n", at)
    return len(raw) if end < 0 else end + 1
