"""What is looked at piece by piece is seen whatever piece it stands in."""

from __future__ import annotations

import pytest

from inbound_smtp.checks import content
from inbound_smtp.checks.content import _PIECE, HEADER_BYTES, MAX_RECEIVED, check

LINE = b"x" * 62 + b"\r\n"
SEVERAL = LINE * (3 * _PIECE // len(LINE))


@pytest.mark.parametrize("at", [0, 1, _PIECE - 2, _PIECE - 1, _PIECE, _PIECE + 1, 2 * _PIECE - 1, len(SEVERAL) - 3])
@pytest.mark.parametrize("bad", [b"\r", b"\n", b"\0", b"\r\r"], ids=repr)
def test_a_bare_line_end_or_nul_is_seen_wherever_it_stands(at: int, bad: bytes) -> None:
    raw = SEVERAL[:at] + bad + SEVERAL[at:]
    # a CR before a CRLF, or an LF after one, is bare too
    found = check(raw, max_line=1_000)
    assert found is not None and found.enhanced == "5.6.11"


@pytest.mark.parametrize("raw", [b"a\rb\nc", b"a\rb\n.\r\nMAIL FROM:<x@y.example>\r\n", b"\r \n", b"a\r\0\n"], ids=repr)
@pytest.mark.parametrize("before", [b"", SEVERAL], ids=["small", "large"])
def test_a_cr_and_an_lf_apart_are_no_pair(raw: bytes, before: bytes) -> None:
    found = check(before + raw, max_line=1_000)
    assert found is not None and found.enhanced == "5.6.11"


@pytest.mark.parametrize("shift", range(len(LINE)))
def test_a_line_end_on_the_border_of_a_piece_is_whole(shift: int) -> None:
    assert check(b"y" * shift + SEVERAL, max_line=1_000) is None


def test_received_fields_are_counted_at_the_top_only() -> None:
    hops = b"Received: from a by b\r\n" * MAX_RECEIVED
    assert check(hops + b"\r\n", max_line=1_000) is not None
    assert check(SEVERAL + hops + b"\r\n", max_line=1_000) is not None, "a header may be long"
    assert check(b"Subject: x\r\n\r\n" + hops, max_line=1_000) is None, "in a body they mean nothing"
    assert check(LINE * (HEADER_BYTES // len(LINE)) + hops, max_line=1_000) is None
    assert content.MAX_RECEIVED == 50
