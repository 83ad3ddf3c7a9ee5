"""What a message's octets must not hold: they are kept bit for bit, so what is dangerous to pass on is not taken."""

from __future__ import annotations

import re

from mailcore.smtp.reply import Reply

MAX_RECEIVED = 50
"""Received fields of a mail that goes in circles (RFC 5321 §6.3); Postfix and chasquid stop there too."""
HEADER_BYTES = 1024 * 1024
"""Of a message, where its Received fields are looked for: they stand at its top."""
_FIELD = 64
"""Octets of an unfinished line that tell what field it is."""
_PIECE = 256 * 1024
"""Octets that are looked at in one go: meanwhile no other thread runs."""
_RECEIVED = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)
_NO_ENDS = bytes(octet for octet in range(256) if octet not in b"\r\n\0")
"""All that is neither a part of a line end nor a NUL."""

BARE = Reply(550, "The message holds a bare CR, a bare LF or a NUL: lines end with CRLF", "5.6.11")
LOOP = Reply(554, "Too many hops: the message seems to go in circles", "5.4.6")


def long_line(limit: int) -> Reply:
    return Reply(554, f"The message holds a line of more than {limit} octets", "5.6.0")


def check(raw: bytes, *, max_line: int) -> Reply | None:
    """Why `raw` is refused; None: it is not. `max_line` in octets, with its CRLF."""
    if len(raw) <= min(max_line, _PIECE):  # as most are
        return (None if _hops(raw) < MAX_RECEIVED else LOOP) if _clean(raw) else BARE
    checks = Check(max_line)
    for at in range(0, len(raw), _PIECE):
        checks.see(raw[at : at + _PIECE])
    return checks.done()


class Check:
    """The same for a message that is seen piece by piece."""

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._open = 0
        """Octets of the line that is not at its end."""
        self._cr = False
        """The piece before ended with CR: a CRLF may have been cut in two."""
        self._line = b""
        """The beginning of that line; only in the header."""
        self._left = HEADER_BYTES
        """Octets of the header that are still looked at."""
        self._hops = 0
        self._refused: Reply | None = None

    def see(self, piece: bytes) -> None:
        if self._refused is not None or not piece:
            return
        if self._left:
            self._count_hops(piece)
        whole = b"\r" + piece if self._cr else piece
        self._cr = whole.endswith(b"\r")
        if not _clean(whole[:-1] if self._cr else whole):
            self._refused = BARE
        elif not self._lines_pass(piece):
            self._refused = long_line(self._max_line)
        elif self._hops >= MAX_RECEIVED:
            self._refused = LOOP

    def done(self) -> Reply | None:
        if self._refused is None and self._cr:
            self._refused = BARE
        return self._refused

    def _count_hops(self, piece: bytes) -> None:
        lines = self._line + piece[: self._left]  # from the beginning of a line
        self._left -= len(piece[: self._left])
        last = lines.rfind(b"\n") + 1
        self._hops += _hops(lines[:last])
        self._line = lines[last : last + _FIELD]
        if _header_end(lines[:last]) >= 0:
            self._left = 0

    def _lines_pass(self, piece: bytes) -> bool:
        """Looks only at one line end a limit."""
        at, limit = 0, self._max_line
        while len(piece) - at + self._open > limit:
            end = piece.rfind(b"\n", at, at + limit - self._open)
            if end < 0:
                return False
            at, self._open = end + 1, 0
        last = piece.rfind(b"\n", at)
        self._open = self._open + len(piece) - at if last < 0 else len(piece) - last - 1
        return True


def _hops(lines: bytes) -> int:
    """Received fields of a header, or of its next lines."""
    end = _header_end(lines)
    return len(_RECEIVED.findall(lines if end < 0 else lines[:end]))


def _header_end(lines: bytes) -> int:
    return 0 if lines.startswith(b"\r\n") else lines.find(b"\r\n\r\n")


def _clean(octets: bytes) -> bool:
    """RFC 5321 §2.3.8: a CR or LF alone is no line end, though the next server may take it for one (SMTP smuggling)."""
    # every CR and LF stands in a pair, and there is no NUL
    return len(octets.translate(None, _NO_ENDS)) == 2 * octets.count(b"\r\n")
