"""The addresses that our advice puts into DNS records: taken whatever a domain does with unknown ones, and where it only sends."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from .harness import Server

RAW = b"From: <r@big.example>\r\nSubject: Report Domain: postroom.test\r\n\r\nsee the file\r\n"


async def rcpt(server: Server, address: str) -> int:
    async with server.client() as client:
        await client.ask("EHLO client.example")
        await client.ask("MAIL FROM:<r@big.example>")
        return (await client.ask(f"RCPT TO:<{address}>"))[0]


@pytest.mark.parametrize("local", ["dmarc", "tls-reports", "DMARC+x"])
async def test_a_domain_that_refuses_unknown_addresses_takes_them(
    server: Server, admin: asyncpg.Connection, domain: UUID, local: str
) -> None:
    await admin.execute("UPDATE domains SET catch_all = 'reject'")
    assert await rcpt(server, f"{local}@postroom.test") == 250
    assert await rcpt(server, "nobody@postroom.test") == 550


async def test_who_made_the_address_and_refuses_it_is_heard(
    server: Server, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    await admin.execute("UPDATE domains SET catch_all = 'reject'")
    await admin.execute(
        "INSERT INTO addresses (id, org_id, domain_id, local, kind, targets) "
        "VALUES (gen_random_uuid(), $1, $2, 'dmarc', 'reject', '{}')",
        *(org, domain),
    )
    assert await rcpt(server, "dmarc@postroom.test") == 550


async def test_a_domain_that_only_sends_has_them_at_its_return_path(
    server: Server, admin: asyncpg.Connection, org: UUID
) -> None:
    await admin.execute("UPDATE domains SET receiving = false")
    assert await rcpt(server, "dmarc@postroom.test") == 550
    assert (await server.deliver(RAW, "dmarc@send.postroom.test", sender="r@big.example"))[0] == 250
    assert tuple(await admin.fetchrow("SELECT org_id, rcpt_to FROM arrivals")) == (org, ["dmarc@send.postroom.test"])
    for other in ("nobody@send.postroom.test", "dmarc@other.postroom.test", "dmarc@send.elsewhere.test"):
        assert await rcpt(server, other) == 550
    await admin.execute("UPDATE domains SET status = 'failed'")
    assert await rcpt(server, "dmarc@send.postroom.test") == 550
