"""What a message's octets must not hold: they are kept bit for bit, so what is dangerous to pass on is not taken."""

from __future__ import annotations

import re

from mailcore.smtp.reply import Reply

MAX_RECEIVED = 50
"""Received fields of a mail that goes in circles (RFC 5321 §6.3); Postfix and chasquid stop there too."""
HEADER_BYTES = 1024 * 1024
"""Of a message, where its Received fields are looked for: they stand at its top."""
_PIECE = 256 * 1024
"""Octets that are looked at in one go: meanwhile no other thread runs."""
_RECEIVED = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)


def check(raw: bytes, *, max_line: int) -> Reply | None:
    """Why `raw` is refused; None: it is not. `max_line` in octets, with its CRLF."""
    if not _clean(raw):
        return Reply(550, "The message holds a bare CR, a bare LF or a NUL: lines end with CRLF", "5.6.11")
    if _longest_passes(raw, max_line):
        return Reply(554, f"The message holds a line of more than {max_line} octets", "5.6.0")
    header_end = raw.find(b"\r\n\r\n", 0, HEADER_BYTES)
    header = raw[: HEADER_BYTES if header_end < 0 else header_end]
    if len(_RECEIVED.findall(header)) >= MAX_RECEIVED:
        return Reply(554, "Too many hops: the message seems to go in circles", "5.4.6")
    return None


def _clean(raw: bytes) -> bool:
    """RFC 5321 §2.3.8: a CR or LF alone is no line end, though the next server may take it for one (SMTP smuggling)."""
    start, size = 0, len(raw)
    while start < size:
        end = min(start + _PIECE, size)
        if end < size and raw[end - 1] == 0x0D:
            end += 1  # a CRLF is not cut in two
        ends = raw.count(b"\r\n", start, end)
        if raw.count(b"\n", start, end) != ends or raw.count(b"\r", start, end) != ends:
            return False
        if raw.find(b"\0", start, end) >= 0:
            return False
        start = end
    return True


def _longest_passes(raw: bytes, limit: int) -> bool:
    """Whether some line is longer than `limit`: looks only at one line end a `limit`."""
    at = 0
    while len(raw) - at > limit:
        end = raw.rfind(b"\n", at, at + limit)
        if end < 0:
            return True
        at = end + 1
    return False
