"""Keys change while mail goes out: by the running service, over a real name server. No mail is ever signed by a key that its
receiver could not find, or would no longer find a week later."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, until
from mailcore.dns.required import Published
from mailcore.dns.resolver import DnsResolver
from mailcore.flow.dkim import Dkim
from mailcore.flow.domains import Domains
from mailcore.kit.seal import Keyring
from mailcore.mailauth.dkim.verify import Status, Verified, verify
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import VERIFY
from mailcore.store.session import Store
from outbound.paces import Paces

Zones = dict[str, dict[str, list[str]]]
PUBLISHED = Published("mail.us.test", "a:mail.us.test")


@pytest.fixture
async def zones(admin: asyncpg.Connection, domain: UUID) -> Zones:
    keys = await admin.fetch("SELECT selector, public_txt FROM dkim_keys")
    return {f"{key['selector']}._domainkey.postroom.test": {"TXT": [key["public_txt"]]} for key in keys}


async def test_keys_change_while_mail_goes_out(
    tenant: Tenant,
    sink: SmtpServer,
    outbound: Any,
    store: Store,
    ringer: Ringer,
    keyring: Keyring,
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    zones: Zones,
) -> None:
    door = Dkim(store, ringer, keyring, Domains(store, ringer, keyring, PUBLISHED, most=10))
    async with (
        DnsServer(zones) as server,
        outbound(sink, Paces(keys_ttl=0.05), dns={"nameservers": [server.address]}),
    ):

        async def sent() -> set[str]:
            """Selectors of one more mail, each of which verifies by what the DNS says now."""
            await tenant.state(await tenant.send("you@example.com"), "delivered")
            found = await verified(sink.caught[-1].content, server)
            assert [each.status for each in found] == [Status.PASS, Status.PASS], found
            return {each.signature.selector for each in found if each.signature}

        async def states() -> list[str]:
            rows = await admin.fetch("SELECT state FROM dkim_keys WHERE algorithm = 'rsa-sha256' ORDER BY id")
            return [row["state"] for row in rows]

        async def moved(to: list[str]) -> None:
            """Somebody asks for a look."""
            await admin.execute("UPDATE domains SET dkim_due_at = now()")
            await ringer.enqueue(VERIFY, str(domain))

            async def there() -> bool:
                return await states() == to

            await until(there, str(to))

        old = await sent()
        await door.rotate(org, domain)
        assert await sent() == old
        for key in await admin.fetch("SELECT selector, public_txt FROM dkim_keys WHERE state = 'pending'"):
            zones[f"{key['selector']}._domainkey.postroom.test"] = {"TXT": [key["public_txt"]]}
        await moved(["active", "published"])
        assert await sent() == old
        before = sink.caught[-1].content
        await admin.execute("UPDATE dkim_keys SET published_at = published_at - interval '10 minutes'")
        await moved(["retiring", "active"])
        await asyncio.sleep(0.1)  # what processes keep of keys
        new = await sent()
        assert not old & new
        assert {each.status for each in await verified(before, server)} == {Status.PASS}, (
            "mail on its way is good still"
        )
        await admin.execute("UPDATE dkim_keys SET keep_until = now() WHERE state = 'retiring'")
        await moved(["retired", "active"])
        for selector in old:
            del zones[f"{selector}._domainkey.postroom.test"]
        assert await sent() == new


async def verified(content: bytes, server: DnsServer) -> list[Verified]:
    head, _, body = content.partition(b"\r\n\r\n")
    resolver = DnsResolver([server.address], cache_size=0)
    return await verify(head + b"\r\n", body, resolver, now=int(time.time()))
