"""Who may hand over what, how much of it, and how fast (reliability A5, A8 to A13)."""

from __future__ import annotations

import asyncio
import socket
from uuid import UUID

import asyncpg
import pytest

from inbound_smtp.recipients import Recipients
from mailcore.blob.memory import MemoryBlobs
from mailcore.flow.receive import Receives
from mailcore.queue.bell import Ringer
from mailcore.store.session import Store

from .harness import Client, Server, serving

RELAY_FORMS = [
    "<victim@elsewhere.example>",
    "<victim>",
    '<"victim">',
    '<"victim@elsewhere.example">',
    "<victim%elsewhere.example>",
    "<victim%elsewhere.example@postroom.test>",
    "<victim%elsewhere.example@[127.0.0.1]>",
    '<"victim%elsewhere.example"@postroom.test>',
    '<"victim@elsewhere.example"@postroom.test>',
    "<victim@elsewhere.example@postroom.test>",
    "<victim@postroom.test@elsewhere.example>",
    "<@postroom.test:victim@elsewhere.example>",
    "<@postroom.test,@b.example:victim@elsewhere.example>",
    "<@[127.0.0.1]:victim@elsewhere.example>",
    "<elsewhere.example!victim>",
    "<elsewhere.example!victim@postroom.test>",
    "<elsewhere.example!victim@[127.0.0.1]>",
    "<victim@[127.0.0.1]>",
    "victim@elsewhere.example",
]


@pytest.mark.parametrize("sender", ["", "a@sender.example", "spoofed@postroom.test", "root@localhost", "a@[127.0.0.1]"])
async def test_a5_no_form_of_address_makes_us_a_relay(server: Server, admin: asyncpg.Connection, sender: str) -> None:
    assert len(RELAY_FORMS) == 19
    async with server.client() as client:
        await client.ask("EHLO x")
        assert (await client.ask(f"MAIL FROM:<{sender}>"))[0] == 250
        for form in RELAY_FORMS:
            code, text = await client.ask(f"RCPT TO:{form}")
            assert (code, text[:5]) == (550, "5.7.1"), form
        assert (await client.ask("DATA"))[0] == 554
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 0


async def test_a5_a_domain_that_is_not_verified_or_does_not_receive_is_foreign(
    server: Server, admin: asyncpg.Connection
) -> None:
    await admin.execute("UPDATE domains SET receiving = false")
    async with server.client() as client:
        await client.ask("EHLO x")
        await client.ask("MAIL FROM:<a@sender.example>")
        assert (await client.ask("RCPT TO:<v@postroom.test>"))[0] == 550
        assert (await client.ask("RCPT TO:<v@sub.postroom.test>"))[0] == 550


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("RCPT TO:<>", 501),
        ("RCPT TO:<postmaster>", 250),
        ("RCPT TO:<PostMaster>", 250),
        ("RCPT TO:postmaster", 501),
        ("RCPT TO:v@postroom.test", 501),
        ("RCPT TO:<v@postroom.test", 501),
        ("RCPT TO:<v@postroom.test>x", 501),
        ("RCPT TO:<v@postroom.test> NOTIFY=NEVER ORCPT=rfc822;v@postroom.test", 250),
        ("RCPT TO:<v@postroom.test> NOTIFY=NEVER,DELAY", 501),
        ("RCPT TO:<v@postroom.test> HOLDFOR=60", 555),
        ("RCPT v@postroom.test", 501),
        ("RCPT TO:<a..b@postroom.test>", 553),
        ("RCPT TO:<a b@postroom.test>", 553),
        ("RCPT TO:<" + "x" * 65 + "@postroom.test>", 553),
        ("RCPT TO:<" + "x" * 4000 + "@postroom.test>", 500),
        ("RCPT TO:<v@postroom.test>", 250),
        ("RCPT TO: <v@postroom.test>", 250),
        ('RCPT TO:<"a b"@postroom.test>', 250),
        ("RCPT TO:<postmaster@postroom.test>", 250),
        ("rcpt to:<v+tag@POSTROOM.TEST>", 250),
    ],
)
async def test_a12_recipients(server: Server, line: str, code: int) -> None:
    async with server.client() as client:
        await client.ask("EHLO x")
        assert (await client.ask("MAIL FROM:<a@sender.example>"))[0] == 250
        assert (await client.ask(line))[0] == code


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("MAIL FROM:<>", 250),
        ("MAIL FROM:<a_b@under_score.example>", 250),
        ('MAIL FROM:<"a>b"@sender.example>', 250),
        ("mail from:<a@sender.example> size=1000 body=8bitmime", 250),
        (f"MAIL FROM:<a@b.example> SIZE={40 * 1024 * 1024}", 250),
        (f"MAIL FROM:<a@b.example> SIZE={40 * 1024 * 1024 + 1}", 552),
        ("MAIL FROM:<a@b.example> SIZE=", 501),
        ("MAIL FROM:<a@b.example> SIZE=1 SIZE=2", 501),
        ("MAIL FROM:<a@b.example> BODY=BINARYMIME", 501),
        ("MAIL FROM:<a@b.example> RET=FULL ENVID=q+2B1", 250),
        ("MAIL FROM:<a@b.example> RET=SOME", 501),
        ("MAIL FROM:<a@b.example> AUTH=<>", 555),
        ("MAIL FROM:a@b.example", 501),
        ("MAIL FROM:<a@b@c.example>", 553),
        ("MAIL FROM:<a\x01@c.example>", 553),
        ("MAIL", 501),
    ],
)
async def test_a12_senders(server: Server, line: str, code: int) -> None:
    async with server.client() as client:
        await client.ask("EHLO x")
        assert (await client.ask(line))[0] == code


async def test_a12_order_of_commands(server: Server) -> None:
    async with server.client() as client:
        for line, code in [
            ("MAIL FROM:<a@b.example>", 503),
            ("HELO x", 250),
            ("RCPT TO:<v@postroom.test>", 503),
            ("DATA", 503),
            ("MAIL FROM:<a@b.example>", 250),
            ("MAIL FROM:<a@b.example>", 503),
            ("RSET", 250),
            ("RCPT TO:<v@postroom.test>", 503),
            ("VRFY v", 252),
            ("EXPN v", 502),
            ("AUTH PLAIN AGEAYg==", 500),
            ("QUIT now", 501),
            ("QUIT", 221),
        ]:
            assert (await client.ask(line))[0] == code, line


async def test_a8_one_recipient_too_many(server: Server, admin: asyncpg.Connection) -> None:
    async with server.client() as client:
        await client.ask("EHLO x")
        await client.ask("MAIL FROM:<a@b.example>")
        client.send(b"".join([b"RCPT TO:<v%d@postroom.test>\r\n" % n for n in range(1030)]))
        codes = [await client.reply() for _ in range(1030)]
        assert [code for code, _ in codes[:1000]] == [250] * 1000
        assert {(code, text[:5]) for code, text in codes[1000:]} == {(452, "4.5.3")}
        assert (await client.ask("DATA"))[0] == 354
        assert (await client.ask("A: b\r\n."))[0] == 250
    assert await admin.fetchval("SELECT cardinality(rcpt_to) FROM arrivals") == 1000


async def test_a8_who_is_put_off_a_thousand_times_is_sent_away(server: Server) -> None:
    server.limit(recipients=3)
    async with server.client() as client:
        await client.ask("EHLO x")
        await client.ask("MAIL FROM:<a@b.example>")
        codes = [(await client.ask("RCPT TO:<v@postroom.test>"))[0] for _ in range(7)]
        assert codes == [250] * 3 + [452] * 4
        assert await client.ends() == b"421 4.7.0 Too many errors, closing the connection\r\n"


async def test_a9_who_does_not_read_is_not_read_from(server: Server) -> None:
    """Short commands with long replies, without end: they pile up at the client, not here."""
    server.limit(junk_commands=10_000_000)
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", server.port))
        octets, sent, held, stuck = b"EHLO x\r\n" * 4096, 0, 0, 0
        while stuck < 100 and sent < 50_000_000:
            try:
                sent += sock.send(octets[sent % 8 :])
                stuck = 0
            except BlockingIOError:
                stuck += 1
            await asyncio.sleep(0.002)
            held = max([held, *(len(session.octets) for session in server.mx._sessions)])  # type: ignore[attr-defined]
        assert stuck == 100
        assert 64 * 1024 < held < 1024 * 1024


async def test_a8_junk_is_answered_a_hundred_times(server: Server) -> None:
    async with server.client() as client:
        for _ in range(100):
            assert (await client.ask("NOOP"))[0] == 250
        assert (await client.ask("NOOP"))[0] == 421
        assert await client.ends() == b""


async def test_a8_twenty_errors_end_the_connection(server: Server) -> None:
    async with server.client() as client:
        client.send(b"EHLO x\r\n" + b"NONSENSE\r\n" * 30)
        codes = [(await client.reply())[0] for _ in range(22)]
        assert codes == [250] + [500] * 20 + [421]
        assert await client.ends() == b""


async def test_a8_connections_of_one_address(server: Server) -> None:
    server.allow_connections(per_ip=2)
    async with server.client(), server.client(), server.client(greet=False) as third:
        assert (await third.ends()).startswith(b"421 4.7.0")
    async with server.client() as again:
        assert (await again.ask("NOOP"))[0] == 250


async def test_a8_connections_in_all(server: Server) -> None:
    server.allow_connections(total=1)
    async with server.client(), server.client(greet=False) as second:
        assert (await second.ends()).startswith(b"421 4.7.0")


async def test_a10_size_is_exact(server: Server, admin: asyncpg.Connection) -> None:
    server.limit(message_bytes=100_000)
    exact = b".\r\n" * 10_000 + b"x" * 69_998 + b"\r\n"
    assert len(exact) == 100_000
    assert (await server.deliver(exact, "v@postroom.test"))[0] == 250
    async with server.client() as client:
        await client.begin("v@postroom.test")
        client.send(b"y" + exact.replace(b".\r\n", b"..\r\n") + b".\r\n")
        code, text = await client.reply()
        assert (code, text[:5]) == (552, "5.3.4")
        assert (await client.ask("NOOP"))[0] == 250  # read to its end, not cut
    assert [row["size"] for row in await admin.fetch("SELECT size FROM arrivals")] == [100_000]
    assert server.mx.room.memory.held == 0


async def test_a10_a_flood_is_cut(server: Server) -> None:
    server.limit(message_bytes=100_000)
    async with server.client() as client:
        await client.begin("v@postroom.test")
        await _pour(client)
    async with server.client() as client:
        await _pour(client)
    assert server.mx.room.memory.held == 0
    async with server.client() as client:
        assert (await client.ask("NOOP"))[0] == 250


async def _pour(client: Client) -> None:
    """Until the server has had enough: what it says before it cuts may be lost with what it never read."""
    with pytest.raises(ConnectionError):
        for _ in range(10_000):
            client.send(b"x" * 10_000)
            await client.writer.drain()


async def test_a10_all_that_comes_in_at_once_is_bounded(server: Server) -> None:
    server.mx.room.memory.take(512 * 1024 * 1024 - 50_000)
    async with server.client() as client:
        await client.begin("v@postroom.test")
        client.send(b"A: b\r\n\r\n" + b"x" * 200_000 + b"\r\n.\r\n")
        code, text = await client.reply()
        assert (code, text[:5]) == (452, "4.3.1")
    assert (await server.deliver(b"A: b\r\n\r\nsmall\r\n", "v@postroom.test"))[0] == 250


class Hanging(MemoryBlobs):
    """Keeps nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def put(self, key: str, content: bytes) -> None:
        self.asked.set()
        await self.go_on.wait()
        await super().put(key, content)


async def test_a_mail_counts_until_it_is_answered(store: Store, ringer: Ringer, domain: UUID) -> None:
    blobs = Hanging()
    mail = b"A: b\r\n\r\n" + b"x" * 200_000 + b"\r\n"
    async with serving(Recipients(store), Receives(store, ringer, blobs)) as server, server.client() as slow:
        memory = server.mx.room.memory
        memory.take(512 * 1024 * 1024 - 300_000)
        before = memory.held
        first = asyncio.create_task(server.deliver(mail, "v@postroom.test"))
        async with asyncio.timeout(60):
            await blobs.asked.wait()
        code, text = await server.deliver(mail, "v@postroom.test")
        assert (code, text[:5]) == (452, "4.3.1"), "the first one is still here"
        blobs.go_on.set()
        assert (await first)[0] == 250
        assert memory.held == before
        blobs.asked.clear()
        blobs.go_on.clear()
        await slow.begin("v@postroom.test")
        server.limit(command_seconds=0.2)
        slow.send(mail + b"again\r\n.\r\n")
        async with asyncio.timeout(60):
            await blobs.asked.wait()
            assert memory.held > before
            assert (await slow.ends()).startswith(b"421 4.4.2")
            assert memory.held > before, "it has gone, and its mail is still here"
            blobs.go_on.set()
            while memory.held > before:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(("length", "code"), [(998, 250), (2_000, 250), (100_000, 250), (1024 * 1024 - 2, 250)])
async def test_a11_long_lines_are_kept(server: Server, admin: asyncpg.Connection, length: int, code: int) -> None:
    assert (await server.deliver(b"A: b\r\n\r\n" + b"x" * length + b"\r\n", "v@postroom.test"))[0] == code
    assert await admin.fetchval("SELECT size FROM arrivals") == length + 10


async def test_a11_a_line_beyond_the_limit_is_refused(server: Server, admin: asyncpg.Connection) -> None:
    for place in (b"%b\r\n", b"A: b\r\n\r\n%b\r\nend\r\n"):
        code, text = await server.deliver(place % (b"x" * (1024 * 1024)), "v@postroom.test")
        assert (code, text[:5]) == (554, "5.6.0")
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 0


@pytest.mark.parametrize(("hops", "code"), [(49, 250), (50, 554), (51, 554)])
async def test_a13_mail_that_goes_in_circles(server: Server, hops: int, code: int) -> None:
    message = b"Received: from a by b\r\n\tfor <c@d>\r\n" * hops + b"Subject: x\r\n\r\nReceived: in the body\r\n"
    found, text = await server.deliver(message, "v@postroom.test")
    assert found == code
    assert code == 250 or text.startswith("5.4.6")


async def test_a9_a_client_that_says_nothing_is_let_go(server: Server) -> None:
    server.limit(command_seconds=0.2)
    async with server.client() as client:
        assert (await client.ends()).startswith(b"421 4.4.2")


async def test_a9_a_client_that_falls_silent_in_a_message_is_let_go(server: Server, admin: asyncpg.Connection) -> None:
    async with server.client() as client:
        server.limit(data_seconds=0.2)
        await client.begin("v@postroom.test")
        client.send(b"A: b\r\n")
        assert (await client.ends()).startswith(b"421 4.4.2")
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 0
    assert server.mx.room.memory.held == 0


async def test_a9_a_client_that_drips_is_let_go(server: Server) -> None:
    server.limit(data_grace_seconds=0.01, data_bytes_per_second=1_000_000_000)
    async with server.client() as client:
        await client.begin("v@postroom.test")
        ended = False
        while not ended:
            client.send(b"x")
            await client.writer.drain()
            try:
                line = await asyncio.wait_for(client.reader.readline(), 0.02)
            except TimeoutError:
                continue
            assert line.startswith(b"421 4.4.2")
            ended = True


async def test_what_is_under_way_is_finished_before_the_end(server: Server, admin: asyncpg.Connection) -> None:

    async with server.client() as idle, server.client() as busy:
        await busy.begin("v@postroom.test")
        draining = asyncio.create_task(server.mx.drain())
        assert (await idle.ends()).startswith(b"421 4.3.2")
        assert not draining.done()
        busy.send(b"A: b\r\n\r\nc\r\n.\r\n")
        assert (await busy.reply())[0] == 250
        assert (await busy.ends()).startswith(b"421 4.3.2")
        await asyncio.wait_for(draining, 60)
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 1
