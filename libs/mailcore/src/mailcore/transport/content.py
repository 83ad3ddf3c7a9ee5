"""A mail's content on the wire: after DATA with its dots stuffed (RFC 5321 §4.5.2), by BDAT as it is (RFC 3030)."""

from __future__ import annotations

from collections.abc import Iterator

PIECE = 256 * 1024
"""Bytes of content that are written at once."""


def bare_line_end(content: bytes) -> bool:
    """Whether a CR or LF stands alone in it (RFC 5321 §2.3.8): a peer may take it for the end of the content."""
    pairs = content.count(b"\r\n")
    return content.count(b"\r") != pairs or content.count(b"\n") != pairs


def octets(content: bytes) -> int:
    """Its size as SIZE and BDAT count it: with a line end at its end, without stuffed dots (RFC 1870 §5)."""
    return len(content) if content.endswith(b"\r\n") or not content else len(content) + 2


def chunks(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """For BDAT: pieces of at most PIECE bytes, and whether it is the last one. The last ends with CRLF, as after DATA."""
    end = b"" if content.endswith(b"\r\n") or not content else b"\r\n"
    if len(content) <= PIECE:
        yield content + end, True
        return
    for start in range(0, len(content), PIECE):
        last = start + PIECE >= len(content)
        yield content[start : start + PIECE] + (end if last else b""), last


def stuffed(content: bytes) -> Iterator[bytes]:
    """`content` with dots stuffed and with a CRLF at its end, in pieces of about PIECE bytes.

    Its line ends must have been checked: only `CRLF .` is looked for.
    """
    start, size = 0, len(content)
    line_start = True
    while start < size:
        end = min(start + PIECE, size)
        # never cut between CR and LF, or the dot behind them is not seen
        if end < size and content[end - 1] == 0x0D:
            end += 1
        piece = content if size <= PIECE else content[start:end]
        if b"\r\n." in piece:
            piece = piece.replace(b"\r\n.", b"\r\n..")
        if line_start and piece.startswith(b"."):
            piece = b"." + piece
        line_start = piece.endswith(b"\r\n")
        yield piece
        start = end
    if not line_start:
        yield b"\r\n"
