"""Bodies and attachments of the mails of suites/mail-parser-stalwart, as its own parser read them; and where we read otherwise."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import suites
from mailcore.mime.parse import Message
from mailcore.mime.parts import is_body
from mailcore.mime.text import decode_transfer, many_lines

COMPARED = ("rfc", "legacy", "thirdparty")
OTHERWISE = {
    "legacy/052": "8-bit text without a charset: it is shown as Windows-1252, there with replacement characters",
    "thirdparty/002": "letters behind the padding of base64, and a part that is no base64 at all: RFC 2045 §6.8 leaves both open",
    "thirdparty/005": "a boundary in the middle of a line is none (RFC 2046 §5.1.1)",
    "thirdparty/015": "three attached mails are three attachments; there the boundary of a mail inside ended the outer one",
}
"""Every difference, by its reason. `malformed` has no right answer: there nothing but being read is asked for."""


def _mails() -> list[Path]:
    folder = suites.suite("mail-parser-stalwart")
    return sorted((folder / "eml").rglob("*.eml")) if folder.is_dir() else []


def test_all_107_are_read_without_exception_in_a_second_each() -> None:
    mails = _mails()
    assert len(mails) == 107
    for path in mails:
        before = time.process_time()
        message = Message(path.read_bytes())
        for one in message.summary().attachments:
            message.attachment(one.n)
        message.bodies()
        assert time.process_time() - before < 1.0, path


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_bodies_and_attachments_are_the_same(line_end: bytes) -> None:
    compared = [path for path in _mails() if path.parent.name in COMPARED]
    different = {}
    for path in compared:
        raw = path.read_bytes()
        # one file ends with half a line end
        raw = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") if line_end == b"\r\n" else raw.replace(b"\r", b"")
        theirs = json.loads(path.with_suffix(".json" if line_end == b"\n" else ".crlf.json").read_text())
        differs = _differences(raw, theirs)
        if differs:
            different[f"{path.parent.name}/{path.stem}"] = differs
    assert set(different) == set(OTHERWISE), different
    assert len(different) <= 0.05 * len(compared)


def _differences(raw: bytes, theirs: dict[str, Any]) -> list[tuple[str, object, object]]:
    message, parts = Message(raw), theirs["parts"]
    bodies = message.bodies()
    wanted: dict[str, object] = {
        kind: "\n".join(many_lines(parts[n]["body"][kind]) for n in listed if kind in parts[n]["body"])
        for kind, listed in (("Text", theirs["text_body"]), ("Html", theirs["html_body"]))
    }
    found: dict[str, object] = {"Text": bodies.text or "", "Html": bodies.html or ""}
    theirs_ = [_content(raw, parts[n]) for n in theirs["attachments"]]
    ours: list[bytes | str] = [
        message.attachment(n)[1] for n in range(sum(not is_body(part) for part in message.leaves))
    ]
    for n, (one, other) in enumerate(zip(theirs_, ours, strict=False)):
        if isinstance(one, str) and one in (
            many_lines(other.decode(codec, "replace")) for codec in ("utf-8", "cp1252")
        ):
            ours[n] = one  # there a file of text is text, here it is octets
    wanted["attachments"], found["attachments"] = theirs_, ours
    return [(name, wanted[name], found[name]) for name in wanted if wanted[name] != found[name]]


def _content(raw: bytes, part: dict[str, Any]) -> bytes | str:
    ((kind, body),) = part["body"].items()
    if kind == "Message":
        encoded = any(one["value"] == {"Text": "base64"} for one in part["headers"])
        octets = raw[part["offset_body"] : part["offset_end"]]
        return decode_transfer(octets, "base64") if encoded else octets
    return many_lines(body) if kind == "Text" else bytes(body)
