"""Attachments as clients write them (resend.md §4.3): base64, an array of byte values, Node's Buffer, or a URL to fetch."""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
from dataclasses import dataclass
from typing import Any, Final

from api.errors import ApiError, invalid
from mailcore.flow.submit import NewAttachment as Stored
from mailcore.mime.headers import check_content_id, check_content_type, check_filename

MAX_ATTACHMENTS = 200
MAX_URL = 2_000

_EXTENSIONS = """
adp app asp bas bat cer chm cmd com cpl crt csh der exe fxp gadget hlp hta inf ins isp its js jse
ksh lib lnk mad maf mag mam maq mar mas mat mau mav maw mda mdb mde mdt mdw mdz msc msh msh1 msh2
mshxml msh1xml msh2xml msi msp mst ops pcd pif plg prf prg reg scf scr sct shb shs sys ps1 ps1xml
ps2 ps2xml psc1 psc2 tmp url vb vbe vbs vps vsmacros vss vst vsw vxd ws wsc wsf wsh xnk
"""
BLOCKED: Final = frozenset(_EXTENSIONS.split())
"""Extensions that large receivers turn away, whatever is in the file."""
_PERCENT = re.compile(r"%0[0ad]", re.IGNORECASE)
_BLANKS: Final = {ord(character): None for character in " \t\r\n"}


@dataclass(frozen=True, slots=True)
class Remote:
    """Still to be fetched from a URL that the caller named."""

    url: str
    content_type: str | None
    filename: str | None
    content_id: str | None

    def fetched(self, content: bytes, content_type: str | None) -> Stored:
        return _stored(content, self.content_type or content_type, self.filename, self.content_id)


def encoded_size(part: Stored | Remote) -> int:
    return 0 if isinstance(part, Remote) else (len(part.content) + 2) // 3 * 4


def parse_attachments(value: Any) -> list[Stored | Remote]:
    """Raises ApiError 422, Invalid."""
    if value is None:
        return []
    if type(value) is not list or not all(type(item) is dict for item in value):
        raise invalid("Invalid `attachments` field. It must be an array of objects.")
    if len(value) > MAX_ATTACHMENTS:
        raise invalid(f"The `attachments` field may hold at most {MAX_ATTACHMENTS} attachments.")
    return [_attachment(item) for item in value]


def _attachment(item: dict[str, Any]) -> Stored | Remote:
    filename = _text(item, "filename")
    content_type = _text(item, "content_type")
    content_id = _text(item, "content_id") or _text(item, "inline_content_id")
    if filename is not None:
        check_filename(filename)
        extension = filename.rpartition(".")[2].lower() if "." in filename else ""
        if extension in BLOCKED:
            raise ApiError(422, "invalid_attachment", f"Attachments with the extension `.{extension}` are not sent.")
    if content_type is not None:
        check_content_type(content_type)
    if content_id is not None:
        check_content_id(content_id)
    content, path = item.get("content"), _text(item, "path")
    if content:
        return _stored(_decode(content), content_type, filename, content_id)
    if path:
        return Remote(_url(path), content_type, filename or _name_in(path), content_id)
    raise ApiError(422, "invalid_attachment", "Attachment must have either a `content` or `path`.")


def _stored(content: bytes, content_type: str | None, filename: str | None, content_id: str | None) -> Stored:
    guessed = mimetypes.guess_type(filename, strict=False)[0] if filename else None
    return Stored(
        content=content,
        content_type=content_type or guessed or "application/octet-stream",
        filename=filename,
        content_id=content_id,
        disposition="inline" if content_id else "attachment",
    )


def _text(item: dict[str, Any], field: str) -> str | None:
    value = item.get(field)
    if value is None or value is False or value == "":  # Node's types allow `filename: false`
        return None
    if type(value) is not str:
        raise ApiError(422, "invalid_attachment", f"Invalid `{field}` of an attachment. It must be a string.")
    if _PERCENT.search(value) and field != "path":
        raise invalid(f"The `{field}` field must not contain line breaks or control characters.")
    return value


def _decode(content: Any) -> bytes:
    if type(content) is dict and content.get("type") == "Buffer":
        content = content.get("data")
    try:
        if type(content) is str:
            return base64.b64decode(content.translate(_BLANKS), validate=True)
        if type(content) is list:
            return bytes(content)
    except (binascii.Error, ValueError, TypeError):
        pass
    raise ApiError(
        422, "invalid_attachment", "The `content` of an attachment must be base64 or an array of byte values."
    )


def _url(path: str) -> str:
    if len(path) > MAX_URL or not path.lower().startswith(("https://", "http://")) or not path.isprintable():
        raise ApiError(422, "invalid_attachment", "The `path` of an attachment must be an http or https URL.")
    return path


def _name_in(path: str) -> str | None:
    """The last part of the URL's path, where it looks like a file's name."""
    name = path.partition("?")[0].partition("#")[0].rpartition("/")[2]
    return name if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name) and "." in name else None
