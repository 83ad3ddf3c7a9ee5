"""The delivery report that we owe to whoever handed a mail in (RFC 3461 §6, RFC 3464), as a whole message in 7-bit.

Pure: the same notice makes the same bytes. The peer's words are given as they were said, but for what is not printable ASCII.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mailcore.dsn.report import Action
from mailcore.mime.compose import format_date
from mailcore.smtp.reply import Reply

WIDTH = 76


@dataclass(frozen=True, slots=True)
class Told:
    """One recipient."""

    recipient: str
    action: Action
    status: str
    """RFC 3463, of the action's class: 5 failed, 4 delayed, 2 delivered or relayed."""
    reply: Reply | None = None
    """The last one, a peer's or ours."""
    peer: bool = False
    """A peer said it."""
    orcpt: str | None = None
    remote_mta: str | None = None
    last_attempt_at: datetime | None = None
    retry_until: datetime | None = None
    """Of a delayed one."""


@dataclass(frozen=True, slots=True)
class Notice:
    """All of them with one action."""

    reporter: str
    """Our host's name (Reporting-MTA)."""
    from_: str
    """The address it comes from; nobody's, and its envelope has none."""
    to: str
    """The envelope's sender of the mail it is about."""
    message_id: str
    """Of the report itself, with its angle brackets."""
    at: datetime
    arrived_at: datetime
    original: bytes
    """The mail it is about, with CRLF and in 7-bit."""
    original_message_id: str
    told: Sequence[Told]
    full: bool = False
    """The whole mail comes back, not only its header."""
    envid: str | None = None


_SUBJECT = {
    Action.FAILED: "Undelivered mail returned to sender",
    Action.DELAYED: "Delayed mail (still being tried)",
    Action.RELAYED: "Mail was delivered to its next server",
    Action.DELIVERED: "Mail was delivered",
}
_WORDS = {
    Action.FAILED: "Your message could not be delivered to the recipients below. It will not be tried again.",
    Action.DELAYED: "Your message has not yet been delivered to the recipients below. It is still being tried: there is nothing "
    "that you need to do.",
    Action.RELAYED: "Your message was taken by the servers of the recipients below. Those servers do not say whether it "
    "reaches the mailbox.",
    Action.DELIVERED: "Your message was delivered to the recipients below.",
}


def compose(notice: Notice) -> bytes:
    action = notice.told[0].action
    head = notice.original.partition(b"\r\n\r\n")[0] + b"\r\n"
    whole = notice.full and action is Action.FAILED  # RFC 3461 §6.2: only a failure brings the content back
    parts = [
        _part("text/plain; charset=us-ascii", "Notification", _text(notice, action)),
        _part("message/delivery-status", "Delivery report", _status(notice)),
        _part("message/rfc822", "Undelivered message", notice.original)
        if whole
        else _part("text/rfc822-headers", "Header of the message", head),
    ]
    boundary = _boundary(notice, parts)
    fields = [
        f"From: Mail Delivery System <{notice.from_}>",
        f"To: <{notice.to}>",
        f"Subject: {_SUBJECT[action]}",
        f"Date: {format_date(notice.at)}",
        f"Message-ID: {notice.message_id}",
        *([f"In-Reply-To: {notice.original_message_id}"] if _ascii(notice.original_message_id) else []),
        "Auto-Submitted: auto-replied",  # RFC 3834 §5
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"',  # RFC 6522 §3
    ]
    border = f"--{boundary}\r\n".encode()
    body = b"".join(border + part for part in parts)
    return "\r\n".join(fields).encode("ascii") + b"\r\n\r\n" + body + f"--{boundary}--\r\n".encode()


def _part(kind: str, description: str, content: bytes) -> bytes:
    head = f"Content-Type: {kind}\r\nContent-Description: {description}\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
    return head.encode() + content + (b"" if content.endswith(b"\r\n") else b"\r\n")


def _boundary(notice: Notice, parts: Sequence[bytes]) -> str:
    boundary = hashlib.sha256(notice.message_id.encode()).hexdigest()[:32]
    while any(f"--{boundary}".encode() in part for part in parts):
        boundary = hashlib.sha256(boundary.encode()).hexdigest()[:32]
    return boundary


# ---- for people ------------------------------------------------------------------------------------------------------


def _text(notice: Notice, action: Action) -> bytes:
    lines = [f"This is the mail system at {notice.reporter}.", "", *textwrap.wrap(_WORDS[action], WIDTH), ""]
    for one in notice.told:
        lines.append(f"<{_printable(one.recipient)}>")
        if one.reply is not None and one.reply.text:
            said = f"{one.remote_mta} said: " if one.peer and one.remote_mta else ""
            words = _printable(f"{said}{one.reply}")
            lines += textwrap.wrap(words, WIDTH, initial_indent="    ", subsequent_indent="    ")
        if one.retry_until is not None:
            lines.append(f"    It is tried until {format_date(one.retry_until)}.")
        lines.append("")
    return "\r\n".join([*lines, ""]).encode("ascii")


# ---- for programs ----------------------------------------------------------------------------------------------------


def _status(notice: Notice) -> bytes:
    """RFC 3464 §2."""
    blocks = [
        _fields(
            ("Original-Envelope-Id", notice.envid),
            ("Reporting-MTA", f"dns; {notice.reporter}"),
            ("Arrival-Date", format_date(notice.arrived_at)),
        ),
        *(
            _fields(
                ("Original-Recipient", one.orcpt),
                ("Final-Recipient", f"rfc822; {one.recipient}"),
                ("Action", one.action.value),
                ("Status", one.status),
                ("Remote-MTA", f"dns; {one.remote_mta}" if one.remote_mta else None),
                ("Diagnostic-Code", _diagnostic(one)),
                ("Last-Attempt-Date", _date(one.last_attempt_at)),
                ("Will-Retry-Until", _date(one.retry_until)),
            )
            for one in notice.told
        ),
    ]
    return "\r\n".join(blocks).encode("ascii")


def _diagnostic(one: Told) -> str | None:
    # RFC 3464 §2.3.6: `smtp` only of a reply that was heard
    if one.reply is None or one.action in (Action.RELAYED, Action.DELIVERED):
        return None
    return f"smtp; {one.reply}" if one.peer else f"x-postroom; {one.reply.text}"


def _date(at: datetime | None) -> str | None:
    return None if at is None else format_date(at)


def _fields(*given: tuple[str, str | None]) -> str:
    return "".join(f"{_folded(name, value)}\r\n" for name, value in given if value)


def _folded(name: str, value: str) -> str:
    words = textwrap.wrap(f"{name}: {_printable(value)}", WIDTH, break_long_words=False, break_on_hyphens=False)
    # RFC 5322 §2.1.1: a word that is longer than a line may be is cut
    return "\r\n ".join(word[:900] for word in words)


_UNPRINTABLE = re.compile(r"[^ -~]")


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("?", " ".join(text.split()))


def _ascii(text: str) -> bool:
    return text.isascii() and text.isprintable() and len(text) < 900
