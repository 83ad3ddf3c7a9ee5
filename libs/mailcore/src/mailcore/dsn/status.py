"""The part of a report that is for programs: message/delivery-status (RFC 3464 §2), as written and as servers write it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from mailcore.dsn.report import MAX_ADDRESS, MAX_RECIPIENTS, Action, Reported, reply_of
from mailcore.mime import fields as header
from mailcore.mime.fields import Field, parse_addresses
from mailcore.mime.text import one_line

MAX_BYTES = 1024 * 1024
TYPES = ("message/delivery-status", "message/global-delivery-status")  # RFC 6533 §4


@dataclass(frozen=True, slots=True)
class Status:
    recipients: tuple[Reported, ...]
    reporting_mta: str | None = None
    envelope_id: str | None = None
    arrived_at: datetime | None = None


def read(raw: bytes) -> Status:
    """`raw`: the part's content, decoded. A recipient that is named twice counts once."""
    groups = _groups(raw[:MAX_BYTES])
    whole = next((group for group in groups if not _names_recipient(group)), [])
    found: dict[tuple[str, Action], Reported] = {}
    for group in groups:
        one = _recipient(group) if _names_recipient(group) else None
        if one is not None:
            found.setdefault((one.address.lower(), one.action), one)
        if len(found) >= MAX_RECIPIENTS:
            break
    return Status(
        tuple(found.values()),
        _typed(header.field(whole, "reporting-mta")),
        header.field(whole, "original-envelope-id"),
        header.date(header.field(whole, "arrival-date")),
    )


def _groups(raw: bytes) -> list[list[Field]]:
    """Blocks of fields, between empty lines (RFC 3464 §2.1)."""
    found: list[list[Field]] = []
    at = 0
    while at < len(raw) and len(found) <= 2 * MAX_RECIPIENTS:
        # several empty lines in a row are one
        skipped = _EMPTY.match(raw, at)
        at = skipped.end() if skipped else at
        if at >= len(raw):
            break
        group, at = header.read_fields(raw, at, MAX_BYTES, [])
        if group:
            found.append(group)
    return found


_EMPTY = re.compile(rb"(?:[ \t]*\r?\n)*")


def _names_recipient(group: list[Field]) -> bool:
    return any(one.name in ("final-recipient", "original-recipient", "action", "x-actual-recipient") for one in group)


def _recipient(group: list[Field]) -> Reported | None:
    """Of the fields of one recipient (RFC 3464 §2.3); None: they name nobody."""
    final, original = (_address(header.field(group, name)) for name in ("final-recipient", "original-recipient"))
    if final is None and original is None:
        final = _address(header.field(group, "x-actual-recipient"))
    status = _STATUS.match(header.field(group, "status") or "")
    written = header.field(group, "diagnostic-code")
    if final is None and original is None:
        return None
    said = _without_type(written) if written else status[2].strip() if status else ""
    reply = reply_of(said, status[1] if status else None)
    return Reported(
        final=final or original or "",
        action=_action(header.field(group, "action"), status[1] if status else None),
        original=original,
        reply=reply if written or status else None,
        remote_mta=_typed(header.field(group, "remote-mta")),
    )


_STATUS = re.compile(r"([245]\.\d{1,3}\.\d{1,3})\s*\(?([^)]{0,200})")


def _action(text: str | None, status: str | None) -> Action:
    """The first word; where it is none of RFC 3464's (`error`), the class of the status."""
    word = _WORD.match((text or "").lower())
    try:
        return Action(word[0] if word else "")
    except ValueError:
        return {"2": Action.DELIVERED, "4": Action.DELAYED}.get((status or "5")[0], Action.FAILED)


_WORD = re.compile(r"[a-z]{1,20}")


def _typed(text: str | None) -> str | None:
    """`dns; mx.example` without its type (RFC 3464 §2.1.2)."""
    if not text:
        return None
    value = text.partition(";")[2] or text
    return value.strip()[:255] or None


def _address(text: str | None) -> str | None:
    """`rfc822; <a@b>` (RFC 3464 §2.3.2), with or without its type, brackets and comments."""
    if not text or len(text) > 2_000:
        return None
    kind, semicolon, value = text.partition(";")
    if not semicolon:
        value = kind
    elif kind.strip().lower() == "utf-8":
        value = _unescaped(value)  # RFC 6533 §3
    found = parse_addresses(value, 1)
    address = found[0].address if found else value.strip(" \t<>")
    return one_line(address) if "@" in address and len(address) <= MAX_ADDRESS else None


def _unescaped(text: str) -> str:
    return re.sub(r"\\x\{([0-9A-Fa-f]{2,6})\}", lambda match: _character(int(match[1], 16)), text)


def _character(point: int) -> str:
    return chr(point) if point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF else "\ufffd"


def _without_type(text: str) -> str:
    """`smtp; 550 who?` (RFC 3464 §2.3.6) without its type."""
    kind, semicolon, rest = text.partition(";")
    return rest.strip() if semicolon and _WORD.match(kind.strip().lower()) and len(kind) < 30 else text.strip()
