"""A part of a mail, and what it is for whoever reads: a body, or a file with a name (RFC 2045, RFC 2183)."""

from __future__ import annotations

from dataclasses import dataclass

from mailcore.mime import fields as header
from mailcore.mime.fields import TURNING, Field
from mailcore.mime.text import decode_words, one_line

BODY_TYPES = ("text/plain", "text/html")


@dataclass(frozen=True, slots=True)
class Part:
    fields: list[Field]
    content_type: str
    parameters: dict[str, str]
    start: int
    """Where its content begins …"""
    end: int
    """… and ends; of a multipart that was opened, its start."""
    head: int = 0
    """Where its header begins."""
    inside: Part | None = None
    """The multipart that holds it."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """`n` counts from 0 in order of appearance, the same at every parse."""

    n: int
    filename: str | None
    content_type: str
    content_disposition: str
    """`inline` or `attachment`."""
    content_id: str | None
    """Without its angle brackets."""
    size: int
    """Octets, decoded."""


def transfer_encoding(fields: list[Field]) -> str:
    value = header.field(fields, "content-transfer-encoding") or ""
    return value.partition(";")[0].strip().lower()


def _disposition(part: Part) -> tuple[str, dict[str, str]]:
    value = header.field(part.fields, "content-disposition") or ""
    return value.partition(";")[0].strip().lower(), header.parameters(value)


def is_body(part: Part) -> bool:
    if part.content_type not in BODY_TYPES:
        return False
    kind, parameters = _disposition(part)
    return kind != "attachment" and not parameters.get("filename") and not part.parameters.get("name")


def attachment(n: int, part: Part, size: int) -> Attachment:
    kind = _disposition(part)[0]
    content_id = header.field(part.fields, "content-id")
    if content_id is not None:
        content_id = content_id.strip("<> ")[:300] or None
    return Attachment(
        n=n,
        filename=_filename(written_name(part)),
        content_type=part.content_type,
        content_disposition="inline" if kind == "inline" or (not kind and content_id) else "attachment",
        content_id=content_id,
        size=size,
    )


def written_name(part: Part) -> str | None:
    written = _disposition(part)[1].get("filename") or part.parameters.get("name")
    return decode_words(written) if written else None


def _filename(written: str | None) -> str | None:
    """The last piece of a path, without the marks that turn a name's end around (`invoice\u202egpj.exe`)."""
    if not written:
        return None
    name = TURNING.sub("", written).replace("\\", "/").rpartition("/")[2]
    name = one_line(name)
    if len(name) > 255:
        stem, dot, ending = name.rpartition(".")
        name = f"{stem[: 254 - len(ending)]}{dot}{ending}" if dot and len(ending) <= 20 else name[:255]
    return name if name.strip(". ") else None
