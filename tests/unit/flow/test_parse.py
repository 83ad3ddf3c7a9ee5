"""Reading raw mail beside the loop: in a thread, or in a process that ends alone when a mail is too much (reliability C2)."""

from __future__ import annotations

import asyncio

import pytest

from mailcore.flow import parse
from mailcore.flow.parse import Reader
from mailcore.kit.errors import Refused
from mailcore.mime import child


def _mail(padding: int, html: str = '<p onclick="x">Hi <img src="cid:i"><img src="http://t.test/a"></p>') -> bytes:
    return (
        b"From: Ann <ann@x.example>\r\nSubject: large\r\nReferences: <a@x> <b@x>\r\n"
        b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n"
        + html.encode()
        + b"\r\n--b\r\nContent-Type: image/png\r\nContent-ID: <i>\r\n\r\nPNG\r\n"
        b"--b\r\nContent-Disposition: attachment; filename=big.bin\r\nContent-Type: application/x\r\n\r\n"
        + b"x" * padding
        + b"\r\n--b--\r\n"
    )


@pytest.mark.parametrize("padding", [10, 100_000, 1_100_000], ids=["at once", "in a thread", "in a child"])
async def test_however_large_it_is_read_the_same(padding: int) -> None:
    reader, raw = Reader(), _mail(padding)
    found = await reader.summary(raw)
    assert (found.subject, found.text, found.references) == ("large", "Hi", ["<a@x>", "<b@x>"])
    assert [(one.filename, one.size) for one in found.attachments] == [(None, 3), ("big.bin", padding)]
    shown = await reader.view(raw, "data", remote=True)
    assert shown.filled(lambda url: f"/r?{url}", str) == (
        '<p>Hi <img src="data:image/png;base64,UE5H"><img src="/r?http://t.test/a"></p>'
    )
    file = await reader.attachment(raw, 1)
    assert file is not None
    assert len(file.content) == padding


async def test_c2_a_mail_that_is_too_much_ends_its_reader_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told of it then is out of its beginning, and says why there is no more."""
    reader, raw = Reader(), _mail(1_100_000)
    monkeypatch.setattr(parse, "DEADLINE_SECONDS", 0.01)
    found = await reader.summary(raw)
    assert (found.subject, found.attachments, found.text) == ("large", [], "Hi")
    assert "more time or memory" in found.defects[0]
    with pytest.raises(Refused, match="more time or memory"):
        await reader.view(raw, "data")
    monkeypatch.undo()
    assert (await reader.summary(raw)).defects == []


async def test_c2_the_child_holds_itself_to_its_memory_and_processor() -> None:
    code = (
        "import resource, sys; from mailcore.mime import child; sys.stdin = open('/dev/null'); child.main('summary', '');"
        "print(resource.getrlimit(resource.RLIMIT_CPU)[0], resource.getrlimit(resource.RLIMIT_AS)[0], file=sys.stderr);"
        "bytearray(child.MEMORY_BYTES)"
    )
    process = await asyncio.create_subprocess_exec(
        parse.sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert said.decode().split("\n")[0] == f"{child.CPU_SECONDS} {child.MEMORY_BYTES}"
    assert b"MemoryError" in said
