from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailcore.transport import content
from mailcore.transport.content import bare_line_end, stuffed

PARTS = st.lists(
    st.sampled_from([b".", b"..", b"\r\n", b"\r", b"\n", b"x", b"\0", b"\r\n.\r\n", b"y" * 7]), max_size=40
)


def unstuffed(wire: bytes) -> bytes:
    """As a server reads it (RFC 5321 §4.5.2)."""
    lines = wire.split(b"\r\n")
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)


@given(PARTS)
@example([b"\r", b"\r\n"])
@example([b"\r\n", b"\n"])
def test_bare_line_ends_are_seen(parts: list[bytes]) -> None:
    octets = b"".join(parts)
    rest = octets.replace(b"\r\n", b"")
    assert bare_line_end(octets) == (b"\r" in rest or b"\n" in rest)


@given(PARTS, st.integers(1, 9))
def test_stuffing_in_pieces_of_any_size(parts: list[bytes], size: int) -> None:
    octets = b"".join(parts)
    if bare_line_end(octets):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "PIECE", size)
        wire = b"".join(stuffed(octets))
    assert wire == b"" if not octets else wire.endswith(b"\r\n")
    assert b"\r\n.\r\n" not in b"\r\n" + wire, "nothing in it ends the content"
    assert not bare_line_end(wire)
    assert unstuffed(wire) == (octets if octets.endswith(b"\r\n") or not octets else octets + b"\r\n")
