"""What a peer sends is kept bit for bit, by whatever way it comes, and answered only when it is on disk."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from inbound_smtp.recipients import Recipients
from inbound_smtp.router import Router
from mailcore.blob.base import INLINE_BYTES, BlobStore
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Receives
from mailcore.flow.route import Routes
from mailcore.queue.bell import Ringer
from mailcore.store.session import Store

from .harness import Server, certificate, serving

EVERY_OCTET = bytes(i for i in range(256) if i not in (0, 10, 13))


@pytest.mark.parametrize("size", [0, 10, 998, 2_000, INLINE_BYTES - 100, INLINE_BYTES * 3], ids=str)
async def test_mail_is_kept_bit_for_bit(server: Server, admin: asyncpg.Connection, blobs: BlobStore, size: int) -> None:
    line = (EVERY_OCTET * (size // len(EVERY_OCTET) + 1))[:size]
    message = b"Subject: \xc3\xa9 \xff\r\nX: \t y \r\n\r\n.\r\n..a\r\n" + line + b"\r\n\r\n.end\r\n \r\n"
    code, text = await server.deliver(message, "v@postroom.test")
    assert code == 250
    row = await admin.fetchrow("SELECT * FROM arrivals")
    assert text == f"2.0.0 Ok: queued as {row['id']}"
    kept = row["raw"] if row["raw_blob"] is None else await blobs.get(row["raw_blob"])
    assert kept == message
    assert row["size"] == len(message)
    assert (row["raw_blob"] is not None) == (len(message) > INLINE_BYTES)


async def test_who_handed_it_over_stands_beside_it(server: Server, admin: asyncpg.Connection) -> None:
    async with server.client() as client:
        assert (await client.ask("EHLO client.example"))[0] == 250
        assert (await client.ask("MAIL FROM:<> SIZE=100 BODY=8BITMIME"))[0] == 250
        assert (await client.ask("RCPT TO:<V@PostRoom.Test>"))[0] == 250
        assert (await client.ask("RCPT TO:<V@postroom.test>"))[0] == 250
        assert (await client.ask("DATA"))[0] == 354
        assert (await client.ask("A: b\r\n."))[0] == 250
    row = await admin.fetchrow("SELECT * FROM arrivals")
    assert (row["door"], row["source"], row["mail_from"]) == ("smtp", "127.0.0.1", "")
    assert row["rcpt_to"] == ["V@postroom.test"]
    facts = row["facts"]
    assert (facts["helo"], facts["protocol"], facts["body"], facts["tls"]) == (
        "client.example",
        "ESMTP",
        "8BITMIME",
        None,
    )
    assert facts["by"] == "mx.postroom.test"


async def test_ehlo_offers_what_is_true(server: Server) -> None:
    async with server.client() as client:
        code, text = await client.ask("EHLO client.example")
        assert code == 250
        assert text.split("\n") == [
            *(
                "mx.postroom.test",
                "PIPELINING",
                f"SIZE {40 * 1024 * 1024}",
                "ENHANCEDSTATUSCODES",
                "8BITMIME",
                "DSN",
                "CHUNKING",
                "SMTPUTF8",
            ),
        ]


async def test_commands_come_in_groups_also_right_behind_a_message(server: Server, admin: asyncpg.Connection) -> None:
    one = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<v@postroom.test>\r\nRCPT TO:<x@elsewhere.example>\r\nDATA\r\n"
    async with server.client() as client:
        client.send(b"EHLO x\r\n" + one)
        assert [(await client.reply())[0] for _ in range(5)] == [250, 250, 250, 550, 354]
        client.send(b"N: 1\r\n\r\none\r\n.\r\n" + one + b"N: 2\r\n\r\ntwo\r\n.\r\nNOOP\r\nQUIT\r\n")
        assert [(await client.reply())[0] for _ in range(8)] == [250, 250, 250, 550, 354, 250, 250, 221]
        assert await client.ends() == b""
    assert [row["raw"] for row in await admin.fetch("SELECT raw FROM arrivals ORDER BY id")] == [
        b"N: 1\r\n\r\none\r\n",
        b"N: 2\r\n\r\ntwo\r\n",
    ]


async def test_a_client_that_closes_its_side_is_still_answered(server: Server, admin: asyncpg.Connection) -> None:
    async with server.client() as client:
        client.send(
            b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<v@postroom.test>\r\nDATA\r\nA: b\r\n\r\nc\r\n.\r\nQUIT\r\n"
        )
        client.writer.write_eof()
        assert [(await client.reply())[0] for _ in range(6)] == [250, 250, 250, 354, 250, 221]
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 1


async def test_a_mail_for_two_organizations_is_two_arrivals_of_one_transaction(
    server: Server,
    admin: asyncpg.Connection,
    org: UUID,
    make_org: Callable[[], Awaitable[UUID]],
    make_domain: Callable[[UUID, str], Awaitable[UUID]],
) -> None:
    other = await make_org()
    await make_domain(other, "other.test")
    code, _ = await server.deliver(b"A: b\r\n\r\nc\r\n", "x@postroom.test", "y@other.test", "z@postroom.test")
    assert code == 250
    rows = await admin.fetch("SELECT org_id, rcpt_to, xmin::text FROM arrivals")
    assert {row["org_id"]: row["rcpt_to"] for row in rows} == {
        org: ["x@postroom.test", "z@postroom.test"],
        other: ["y@other.test"],
    }
    assert len({row["xmin"] for row in rows}) == 1


async def test_smtputf8(server: Server, admin: asyncpg.Connection) -> None:
    async with server.client() as client:
        await client.ask("EHLO x")
        assert (await client.ask("MAIL FROM:<jürgen@sender.example>"))[0] == 553
        assert (await client.ask("MAIL FROM:<jürgen@sender.example> SMTPUTF8"))[0] == 250
        assert (await client.ask("RCPT TO:<用户@postroom.test>"))[0] == 250
        assert (await client.ask("DATA"))[0] == 354
        assert (await client.ask("A: é\r\n\r\nc\r\n."))[0] == 250
        assert (await client.ask("MAIL FROM:<a@sender.example>"))[0] == 250
        code, text = await client.ask("RCPT TO:<用户@postroom.test>")
        assert (code, text[:5]) == (553, "5.6.7")
    row = await admin.fetchrow("SELECT mail_from, rcpt_to, facts FROM arrivals")
    assert (row["mail_from"], row["rcpt_to"]) == ("jürgen@sender.example", ["用户@postroom.test"])
    assert row["facts"]["protocol"] == "UTF8SMTP"


# ---- TLS ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def tls_server(domain: UUID, store: Store, receives: Receives, tmp_path: Path):  # type: ignore[no-untyped-def]
    async with serving(Recipients(store), receives, **certificate(tmp_path)) as server:
        yield server


async def test_smtplib_delivers_over_starttls(tls_server: Server, admin: asyncpg.Connection) -> None:
    def deliver() -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with smtplib.SMTP("127.0.0.1", tls_server.port, timeout=60) as client:
            client.starttls(context=context)
            client.ehlo()
            assert not client.has_extn("starttls")
            client.sendmail("a@sender.example", ["v@postroom.test"], b"Subject: x\r\n\r\n" + b"y" * 300_000 + b"\r\n")

    await asyncio.to_thread(deliver)
    row = await admin.fetchrow("SELECT facts, size FROM arrivals")
    assert row["facts"]["tls"].startswith("TLSv1.3 ")
    assert (row["facts"]["protocol"], row["size"]) == ("ESMTPS", 300_016)


async def test_a3_what_was_said_before_tls_counts_for_nothing_after_it(tls_server: Server) -> None:
    async with tls_server.client() as client:
        assert "STARTTLS" in (await client.ask("EHLO x"))[1].split("\n")
        assert (await client.ask("MAIL FROM:<a@b.example>"))[0] == 250
        client.send(b"STARTTLS\r\nRCPT TO:<v@postroom.test>\r\nNOOP\r\n")
        assert (await client.reply())[0] == 220
        await client.start_tls()
        # nothing that was sent in clear is answered within TLS: this reply belongs to this command
        assert (await client.ask("RCPT TO:<v@postroom.test>"))[0] == 503
        assert (await client.ask("MAIL FROM:<a@b.example>"))[0] == 503
        code, text = await client.ask("EHLO x")
        assert code == 250
        assert "STARTTLS" not in text.split("\n")
        assert (await client.ask("STARTTLS"))[0] == 503


async def test_a_broken_handshake_ends_the_connection_and_no_other(tls_server: Server) -> None:
    async with tls_server.client() as client:
        await client.ask("EHLO x")
        assert (await client.ask("STARTTLS"))[0] == 220
        client.send(b"this is no handshake\r\n" * 5)
        await client.ends()
    async with tls_server.client() as client:
        assert (await client.ask("EHLO x"))[0] == 250


async def test_tls_is_not_offered_without_a_certificate(server: Server) -> None:
    async with server.client() as client:
        assert "STARTTLS" not in (await client.ask("EHLO x"))[1]
        assert (await client.ask("STARTTLS"))[0] == 502


# ---- PROXY --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "header"),
    [
        ("v1", b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 25\r\n"),
        ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x01\xc3\x50\0\x19"),
    ],
)
async def test_the_balancer_names_the_client(
    domain: UUID, store: Store, receives: Receives, admin: asyncpg.Connection, version: str, header: bytes
) -> None:
    async with serving(Recipients(store), receives, proxy_protocol=version) as server:
        async with server.client(greet=False) as client:
            client.send(header)
            assert (await client.reply())[0] == 220
            await client.begin("v@postroom.test")
            assert (await client.ask("A: b\r\n."))[0] == 250
        async with server.client(greet=False) as client:
            client.send(b"EHLO x\r\n")
            assert await client.ends() == b""
        other = b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 25\r\n" if version == "v2" else b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
        async with server.client(greet=False) as client:
            client.send(other)
            assert await client.ends() == b""
    assert await admin.fetchval("SELECT source FROM arrivals") == "192.0.2.7"


# ---- the database is away -----------------------------------------------------------------------------------------------


async def test_while_the_database_is_away_the_peer_keeps_the_mail(
    server: Server, admin: asyncpg.Connection, database: str, postgres_server: Any
) -> None:
    other = await asyncpg.connect(postgres_server.admin_url())
    async with server.client() as client:
        await client.begin("v@postroom.test")
        await other.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename = 'postroom'",
            database,
        )
        client.send(b"A: b\r\n\r\nc\r\n.\r\n")
        code, text = await client.reply()
        assert (code, text[:5]) == (451, "4.3.0")
        assert (await client.ask("NOOP"))[0] == 250
    async with server.client() as client:
        await client.ask("EHLO x")
        await client.ask("MAIL FROM:<a@b.example>")
        code, text = await client.ask("RCPT TO:<v@never-asked.example>")
        assert (code, text[:5]) == (451, "4.3.0")
    await other.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
    await other.close()
    code, first = await server.deliver(b"A: b\r\n\r\nc\r\n", "v@postroom.test")
    assert code == 250
    assert (await server.deliver(b"A: b\r\n\r\nc\r\n", "v@postroom.test")) == (250, first)
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 1


async def test_a_blob_store_that_fails_is_a_451(
    domain: UUID, store: Store, ringer: Ringer, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    from mailcore import blob

    (tmp_path / "taken").write_bytes(b"a file where the folder should be")
    async with serving(Recipients(store), Receives(store, ringer, blob.open(f"file://{tmp_path}/taken"))) as server:
        assert (await server.deliver(b"A: b\r\n\r\nsmall\r\n", "v@postroom.test"))[0] == 250
        code, text = await server.deliver(b"A: b\r\n\r\n" + b"x" * 100_000 + b"\r\n", "v@postroom.test")
        assert (code, text[:5]) == (451, "4.3.0")
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 1


async def test_who_answers_for_this_server_itself(
    server: Server,
    admin: asyncpg.Connection,
    org: UUID,
    make_org: Callable[[], Awaitable[UUID]],
    routes: Routes,
    lease: WorkerLease,
    store: Store,
) -> None:
    await make_org()  # the operator is the one that was first
    for address in ("postmaster", "Abuse@MX.postroom.test", "postmaster@mx.postroom.test", "abuse@postroom.test"):
        mail = b"Subject: to %b\r\n\r\nhelp\r\n" % address.encode()
        assert (await server.deliver(mail, address))[0] == 250
    async with server.client() as client:
        await client.ask("EHLO x")
        await client.ask("MAIL FROM:<a@sender.example>")
        for address in ("somebody@mx.postroom.test", "abuse@elsewhere.example"):
            assert (await client.ask(f"RCPT TO:<{address}>"))[0] == 550
    router = Router(store, lease, routes, batch=50)
    while await router.work(None):
        pass
    rows = await admin.fetch(
        "SELECT b.org_id, b.address, count(*) FROM messages m JOIN mailboxes b ON b.id = m.mailbox_id GROUP BY 1, 2 ORDER BY 2"
    )
    assert [tuple(row) for row in rows] == [
        (org, "abuse@mx.postroom.test", 1),
        (org, "abuse@postroom.test", 1),
        (org, "postmaster@mx.postroom.test", 2),
    ]
