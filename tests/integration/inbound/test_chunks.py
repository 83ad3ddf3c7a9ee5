"""BDAT (RFC 3030), and messages that are too large for memory."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from inbound_smtp.body import PIECE
from inbound_smtp.recipients import Recipients
from mailcore.blob.base import BlobStore
from mailcore.flow.receive import Receives
from mailcore.store.session import Store

from .harness import Client, Server, serving, stuffed

HEAD = b"Subject: x\r\n\r\n"


async def _envelope(client: Client) -> None:
    await client.ask("EHLO x")
    for line in ("MAIL FROM:<a@sender.example>", "RCPT TO:<v@postroom.test>"):
        assert (await client.ask(line))[0] == 250


async def test_chunks_are_one_message(server: Server, admin: asyncpg.Connection) -> None:
    async with server.client() as client:
        await _envelope(client)
        # pipelined, and cut where no line ends: even between CR and LF
        client.send(b"BDAT 11\r\nSubject: x\rBDAT 5\r\n\n\r\n.\rBDAT 0\r\nBDAT 7 LAST\r\n\n..y\r\n\r")
        replies = [await client.reply() for _ in range(4)]
        assert [code for code, _ in replies] == [250, 250, 250, 550], "it ends with a bare CR"
        await _envelope(client)
        client.send(b"BDAT 11\r\nSubject: x\rBDAT 5\r\n\n\r\n.\rBDAT 6 LAST\r\n\n..y\r\n")
        assert [(await client.reply())[0] for _ in range(3)] == [250, 250, 250]
    assert [row["raw"] for row in await admin.fetch("SELECT raw FROM arrivals")] == [b"Subject: x\r\n\r\n.\r\n..y\r\n"]
    assert server.mx.room.memory.held == 0


async def test_chunks_and_data_do_not_mix(server: Server, admin: asyncpg.Connection) -> None:
    async with server.client() as client:
        await _envelope(client)
        client.send(b"BDAT 3\r\nA: ")
        assert (await client.reply())[0] == 250
        assert (await client.ask("DATA"))[0] == 503
        assert (await client.ask("MAIL FROM:<a@sender.example>"))[0] == 503
        assert (await client.ask("RSET"))[0] == 250
        assert server.mx.room.memory.held == 0
        await _envelope(client)
        client.send(b"BDAT 5 LAST\r\nB: c\r")
        assert (await client.reply())[0] == 550
        await _envelope(client)
        client.send(b"BDAT 6 LAST\r\nB: c\r\n")
        assert (await client.reply())[0] == 250
    assert [row["raw"] for row in await admin.fetch("SELECT raw FROM arrivals")] == [b"B: c\r\n"]


async def test_a_chunk_without_recipients_or_too_large_is_read_and_refused(server: Server) -> None:
    server.limit(message_bytes=100_000)
    async with server.client() as client:
        await client.ask("EHLO x")
        await client.ask("MAIL FROM:<a@sender.example>")
        client.send(b"BDAT 6 LAST\r\nNOOP\r\n")
        assert (await client.reply())[0] == 554
        await _envelope(client)
        client.send(b"BDAT 60000\r\n" + b"x" * 60_000 + b"BDAT 60000\r\n" + b"x" * 60_000 + b"BDAT 6 LAST\r\nNOOP\r\n")
        assert [(await client.reply())[0] for _ in range(3)] == [250, 552, 503]
        assert (await client.ask("NOOP"))[0] == 250
        assert (await client.ask("BDAT 1000000 LAST"))[0] == 421
    assert server.mx.room.memory.held == 0


def _large(size: int) -> bytes:
    """With lines of all kinds at every place where a piece may end."""
    line = b".dot\r\n..\r\n" + b"y" * 70 + b"\r\n"
    return HEAD + line * (size // len(line)) + b".\r\n"


@pytest.mark.parametrize("chunked", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("size", [PIECE - 100, PIECE + 1, 3 * PIECE + 7], ids=["piece", "over", "three"])
async def test_large_mail_is_kept_bit_for_bit(
    domain: UUID,
    store: Store,
    receives: Receives,
    blobs: BlobStore,
    admin: asyncpg.Connection,
    tmp_path: Path,
    chunked: bool,
    size: int,
) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    mail = _large(size)
    async with serving(Recipients(store), receives, spool_dir=str(folder)) as server, server.client() as client:
        await _envelope(client)
        if chunked:
            half = len(mail) // 2
            client.send(b"BDAT %d\r\n" % half + mail[:half])
            client.send(b"BDAT %d LAST\r\n" % (len(mail) - half) + mail[half:])
            assert (await client.reply())[0] == 250
        else:
            assert (await client.ask("DATA"))[0] == 354
            octets = stuffed(mail) + b".\r\n"
            for at in range(0, len(octets), 99_991):
                client.send(octets[at : at + 99_991])
        client.send(b"NOOP\r\n")
        assert [(await client.reply())[0] for _ in range(2)] == [250, 250]
        assert server.mx.room.memory.held == server.mx.room.disk.held == 0
    row = await admin.fetchrow("SELECT size, sha256, raw_blob FROM arrivals")
    assert (row["size"], row["sha256"]) == (len(mail), hashlib.sha256(mail).digest())
    assert await blobs.get(row["raw_blob"]) == mail
    assert list(folder.iterdir()) == []


async def test_what_is_wrong_with_a_large_mail_is_found_as_it_comes(
    domain: UUID, store: Store, receives: Receives, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    mail = _large(3 * PIECE)
    wrong = [
        (mail + b"a\nb\r\n", "5.6.11"),
        (mail[: PIECE - 5] + b"\r" + mail[PIECE - 5 :], "5.6.11"),
        (HEAD + b"\0" + mail, "5.6.11"),
        (HEAD + b"x" * 1024 * 1024 + b"\r\n", "5.6.0"),
        (b"Received: x\r\n" * 50 + mail, "5.4.6"),
    ]
    async with serving(Recipients(store), receives, spool_dir=str(tmp_path)) as server:
        for octets, enhanced in wrong:
            code, text = await server.deliver(octets, "v@postroom.test")
            assert (code // 100, text.split()[0]) == (5, enhanced)
        server.limit(message_bytes=2 * PIECE)
        assert (await server.deliver(mail, "v@postroom.test"))[1].startswith("5.3.4")
        server.limit(message_bytes=40 * PIECE)
        server.mx.room.disk.take(384 * 1024 * 1024 - PIECE)
        assert (await server.deliver(mail, "v@postroom.test"))[1].startswith("4.3.1")
        server.mx.room.disk.give_back(384 * 1024 * 1024 - PIECE)
        async with server.client() as client:  # one that goes in the middle
            await client.begin("v@postroom.test")
            client.send(stuffed(mail))
            await client.writer.drain()
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 0
    async with asyncio.timeout(60):  # a thread may still be writing a piece of what will never be whole
        while server.mx.room.memory.held or server.mx.room.disk.held or list(tmp_path.glob("postroom-*")):
            await asyncio.sleep(0.01)


async def test_a_disk_that_is_full_is_a_452(
    domain: UUID, store: Store, receives: Receives, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    async with serving(Recipients(store), receives, spool_dir=str(tmp_path / "absent")) as server:
        code, text = await server.deliver(_large(2 * PIECE), "v@postroom.test")
        assert (code, text[:5]) == (452, "4.3.1")
        assert (await server.deliver(HEAD + b"small\r\n", "v@postroom.test"))[0] == 250
