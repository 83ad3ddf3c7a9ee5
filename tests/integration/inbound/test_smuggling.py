"""One end of data and no other: whatever stands in a message stays in it, or the message is refused (reliability A1, A12)."""

from __future__ import annotations

import json

import asyncpg
import pytest

import suites

from .harness import Server

SEQUENCES: dict[str, list[dict[str, str]]] = (
    json.loads((suites.suite("smtp-smuggling") / "eod_sequences.json").read_text())
    if suites.available("smtp-smuggling")
    else {}
)
SMUGGLED = (
    b"MAIL FROM:<evil@sender.example>\r\nRCPT TO:<v@postroom.test>\r\nDATA\r\nSubject: two\r\n\r\nsmuggled\r\n.\r\n"
)


def _sequences(kind: str) -> list[object]:
    return [pytest.param(bytes.fromhex(each["hex"]), id=each["name"]) for each in SEQUENCES.get(kind, [])]


async def _stored(admin: asyncpg.Connection) -> list[asyncpg.Record]:
    return await admin.fetch("SELECT mail_from, raw FROM arrivals ORDER BY id")


def test_the_suite_is_there() -> None:
    suites.suite("smtp-smuggling")
    assert len(SEQUENCES["must_not_end_data"]) == 14


@pytest.mark.parametrize("sequence", _sequences("must_not_end_data"))
async def test_a1_only_crlf_dot_crlf_ends_a_message(server: Server, admin: asyncpg.Connection, sequence: bytes) -> None:
    async with server.client() as client:
        await client.begin("v@postroom.test", sender="first@sender.example")
        client.send(b"Subject: one\r\n\r\nbody" + sequence + SMUGGLED)
        code, text = await client.reply()
        assert (await client.ask("NOOP"))[0] == 250  # one reply and no more: nothing was taken for commands
    stored = await _stored(admin)
    if code == 250:
        assert [row["mail_from"] for row in stored] == ["first@sender.example"]
        assert b"Subject: two" in stored[0]["raw"]
    else:
        assert (code, text[:6]) == (550, "5.6.11")
        assert stored == []


@pytest.mark.parametrize("sequence", _sequences("must_not_end_data_but_must_be_kept_unstuffed"))
async def test_a_stuffed_dot_is_kept_as_a_dot(server: Server, admin: asyncpg.Connection, sequence: bytes) -> None:
    async with server.client() as client:
        await client.begin("v@postroom.test")
        client.send(b"Subject: one\r\n\r\nbody" + sequence + b"end\r\n.\r\n")
        assert (await client.reply())[0] == 250
    assert [row["raw"] for row in await _stored(admin)] == [b"Subject: one\r\n\r\nbody\r\n.\r\nend\r\n"]


@pytest.mark.parametrize(
    "octet", [b"\n", b"\r", b"\0", b"\rx\n", b"\rx\n.\r\n"], ids=["LF", "CR", "NUL", "CR, LF", "CR, LF dot"]
)
@pytest.mark.parametrize(
    "place", [b"%bSubject: x\r\n\r\nb\r\n", b"Subject: x%b\r\n\r\nb\r\n", b"A: b\r\n\r\nb\r\nend%b\r\n"]
)
async def test_a1_a_bare_cr_lf_or_nul_is_refused_and_never_stored(
    server: Server, admin: asyncpg.Connection, octet: bytes, place: bytes
) -> None:
    code, text = await server.deliver(place % octet, "v@postroom.test")
    assert (code, text[:6]) == (550, "5.6.11")
    assert await _stored(admin) == []


@pytest.mark.parametrize("split", range(1, 5))
async def test_the_end_is_found_wherever_packets_are_cut(server: Server, admin: asyncpg.Connection, split: int) -> None:
    async with server.client() as client:
        await client.begin("v@postroom.test")
        whole = b"A: b\r\n\r\n..x\r\n.\r\n"
        for octets in (whole[:-split], whole[-split:]):
            client.send(octets)
            await client.writer.drain()
        assert (await client.reply())[0] == 250
    assert [row["raw"] for row in await _stored(admin)] == [b"A: b\r\n\r\n.x\r\n"]


async def test_an_empty_message_and_one_of_dots(server: Server, admin: asyncpg.Connection) -> None:
    assert (await server.deliver(b"", "v@postroom.test"))[0] == 250
    assert (await server.deliver(b".\r\n..\r\n", "v@postroom.test"))[0] == 250
    assert [row["raw"] for row in await _stored(admin)] == [b"", b".\r\n..\r\n"]


@pytest.mark.parametrize(
    "line",
    [b"NOOP\n", b"NOOP\rNOOP\r\n", b"NOOP\0\r\n", b"RSET\nMAIL FROM:<a@b.example>\n"],
    ids=["LF", "CR", "NUL", "LFs"],
)
async def test_a12_a_command_with_a_bare_line_end_or_nul_is_refused(server: Server, line: bytes) -> None:
    async with server.client() as client:
        client.send(line)
        for _ in range(max(1, line.count(b"\n"))):
            code, text = await client.reply()
            assert (code, text[:5]) == (500, "5.5.2")


async def test_a12_bytes_outside_utf8_are_refused_and_the_connection_goes_on(server: Server) -> None:
    async with server.client() as client:
        assert (await client.ask(b"EHLO \xff\xfe"))[0] == 500
        assert (await client.ask("EHLO x"))[0] == 250


@pytest.mark.parametrize("verb", ["GET / HTTP/1.1", "POST /x HTTP/1.1", "CONNECT a:25 HTTP/1.1"])
async def test_a12_a_browser_is_shown_the_door(server: Server, verb: str) -> None:
    async with server.client() as client:
        client.send(verb.encode() + b"\r\nHost: x\r\n\r\nMAIL FROM:<a@b.example>\r\n")
        assert (await client.ends()).startswith(b"421 4.7.0")


async def test_a1_a_chunk_is_counted_and_never_read_as_commands(server: Server, admin: asyncpg.Connection) -> None:
    inner = SMUGGLED.replace(b"\r\n", b"\n")
    async with server.client() as client:
        assert "CHUNKING" in (await client.ask("EHLO x"))[1]
        for refused in (b"BDAT 5 LAST\r\nNOOP\n", b"BDAT 5\r\nQUIT\n"):
            client.send(refused)
            assert (await client.reply())[0] == 503  # there is no transaction, and yet these octets are no commands
        for wrong in ("BDAT", "BDAT -1", "BDAT 1 FIRST", "BDAT 0x10 LAST"):
            assert (await client.ask(wrong))[0] == 501
        await client.ask("MAIL FROM:<a@sender.example>")
        await client.ask("RCPT TO:<v@postroom.test>")
        client.send(b"BDAT %d LAST\r\n" % len(inner) + inner)
        code, text = await client.reply()
        assert (code, text[:6]) == (550, "5.6.11")
        assert (await client.ask("NOOP"))[0] == 250
    assert await _stored(admin) == []


async def test_a12_a_client_that_talks_first_is_answered_in_order(server: Server) -> None:
    async with server.client(greet=False) as client:
        client.send(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<v@postroom.test>\r\nQUIT\r\n")
        assert [(await client.reply())[0] for _ in range(5)] == [220, 250, 250, 250, 221]
