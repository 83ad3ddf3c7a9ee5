"""Octets into lines and messages, whatever way packets are cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inbound_smtp import body as bodies
from inbound_smtp.body import END, Body, Room, read_chunk, read_data
from inbound_smtp.checks import content
from inbound_smtp.wire import BadLine, Budget, Closed, Flood, take_line
from mailcore.blob.base import Spooled
from mailcore.smtp.reply import Reply

SOUP = st.lists(st.sampled_from([b".", b"..", b"a", b"\r\n", b"\n", b"\r", b"\0", b" "]), max_size=30).map(b"".join)


def test_lines() -> None:
    octets = bytearray(b"A\r\nB\nC\rD\r\nE\0\r\n" + b"x" * 5_000 + b"\r\nF\r\n\r\r\nG")
    assert [take_line(octets) for _ in range(8)] == [
        *(b"A", BadLine.BARE_LF, BadLine.BARE_LF, BadLine.BARE_LF, BadLine.TOO_LONG, b"F", BadLine.BARE_LF, None)
    ]
    assert octets == b"G"


class Packets:
    """A source whose client sends these and goes."""

    def __init__(self, *packets: bytes) -> None:
        self.octets = bytearray()
        self.left = list(packets)

    async def more(self) -> None:
        if not self.left:
            raise Closed
        self.octets += self.left.pop(0)


def _body(limit: int = 1_000_000, memory: int = 10_000_000) -> Body:
    return Body(Room(Budget(memory), Budget(memory)), limit=limit, max_line=1_000)


def _cut(octets: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(octets), *(place % (len(octets) + 1) for place in places)})
    return [octets[start:end] for start, end in pairwise(at)]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PIECE", 16)
    monkeypatch.setattr(bodies, "_WASTE", 8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(SOUP, st.lists(st.integers(0, 200), max_size=6))
async def test_what_is_stuffed_comes_out_as_it_went_in(text: bytes, cuts: list[int]) -> None:
    message = text + b"\r\n"
    wire = (b"\r\n" + message).replace(b"\r\n.", b"\r\n..") + b".\r\nNEXT\r\n"
    source, body = Packets(*_cut(wire, cuts)), _body()
    await read_data(source, body)
    found = await body.done()
    rest = bytes(source.octets) + b"".join(source.left)
    assert rest == b"NEXT\r\n"
    if (refused := content.check(message, max_line=1_000)) is not None:
        assert found == refused
    else:
        assert (found.read() if isinstance(found, Spooled) else found) == message
        assert body.size == len(message)
    body.discard()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(SOUP, st.lists(st.integers(0, 200), max_size=4), st.lists(st.integers(0, 200), max_size=4))
async def test_chunks_are_what_was_counted(message: bytes, chunks: list[int], cuts: list[int]) -> None:
    source, body = Packets(*_cut(message + b"NEXT\r\n", cuts)), _body()
    for chunk in _cut(message, chunks):
        await read_chunk(source, body, len(chunk))
    assert bytes(source.octets) + b"".join(source.left) == b"NEXT\r\n"
    found = await body.done()
    if (refused := content.check(message, max_line=1_000)) is not None:
        assert found == refused
    else:
        assert (found.read() if isinstance(found, Spooled) else found) == message
    body.discard()


async def test_a_body_gives_back_what_it_held() -> None:
    message = b"..\r\n" * 100
    wire = END[:2] + message.replace(b"..", b"...") + b".\r\n"
    body = _body()
    await read_data(Packets(wire), body)
    found = await body.done()
    assert isinstance(found, Spooled) and found.path.exists()
    assert (found.size, body._room.memory.held, body._room.disk.held > 0) == (400, 0, True)
    body.discard()
    assert not found.path.exists()
    assert body._room.disk.held == 0
    for refusing, code in ((_body(limit=399), 552), (_body(memory=100), 452), (_body(memory=4), 452)):
        await read_data(Packets(wire), refusing)
        answer = await refusing.done()
        assert isinstance(answer, Reply) and answer.code == code
        assert refusing._room.memory.held == refusing._room.disk.held == 0
    with pytest.raises(Flood):
        await read_data(Packets(wire), _body(limit=100))
    with pytest.raises(Closed):
        await read_data(Packets(wire[:-3]), gone := _body())
    gone.discard()
    assert gone._room.disk.held == 0


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    body = Body(Room(Budget(1_000), Budget(1_000), tmp_path / "absent"), limit=1_000, max_line=100)
    await read_data(Packets(END[:2] + b"a\r\n" * 50 + b".\r\n"), body)
    assert (await body.done()).code == 452  # type: ignore[union-attr]
    assert body._room.memory.held == body._room.disk.held == 0


@pytest.mark.parametrize(
    ("raw", "enhanced"),
    [
        (b"", None),
        (b"A: b\r\n\r\nc\r\n", None),
        (b"A: b\n", "5.6.11"),
        (b"A: b\r\r\n", "5.6.11"),
        (b"A: \0\r\n", "5.6.11"),
        (b"x" * 99 + b"\r\n", "5.6.0"),
        (b"x" * 98 + b"\r\n", None),
        (b"a\r\n" * 50 + b"x" * 99 + b"\r\n", "5.6.0"),
        (b"Received: x\r\n" * 49 + b"\r\n", None),
        (b"RECEIVED : x\r\n" * 50 + b"\r\n", "5.4.6"),
        (b"A: b\r\n\r\n" + b"Received: x\r\n" * 60, None),
    ],
)
def test_content(raw: bytes, enhanced: str | None) -> None:
    found = content.check(raw, max_line=100)
    assert (found and found.enhanced) == enhanced
