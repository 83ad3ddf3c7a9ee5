"""Pools with the service running: what a server on loopback sees, and addresses that cannot be used."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

import asyncpg

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer, Step, Talk
from integration.outbound.harness import Tenant, until
from integration.outbound.sources_lab import NEW, OLD, Add, add, pool, quiet, senders
from mailcore.flow.ways import seal
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.store import sites, sources, ways
from mailcore.store.session import Store
from outbound.binding import bind_error

__all__ = ["add", "pool"]


async def test_the_address_and_the_name_are_those_of_the_source(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add
) -> None:
    await add(NEW)
    async with outbound(sink):
        email_id = await tenant.send("you@example.com")
        await tenant.state(email_id, "delivered")
    talk = sink.talks[0]
    assert talk.peer[0] == NEW
    assert talk.commands[0] == "EHLO out2.test"
    assert (await tenant.attempts(email_id))[0]["source_ip"] == NEW


async def test_without_pools_all_is_as_the_settings_say(tenant: Tenant, sink: SmtpServer, outbound: Any) -> None:
    async with outbound(sink, source_ip="127.0.0.9"):
        await tenant.state(await tenant.send("you@example.com"), "delivered")
    assert (sink.talks[0].peer[0], sink.talks[0].commands[0]) == ("127.0.0.9", "EHLO outbound.test")


async def test_mail_that_would_come_back_to_a_source_of_a_pool(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, admin: asyncpg.Connection
) -> None:
    """RFC 5321 §5.1: its name is one of ours."""
    await add(NEW)
    zones = {"back.example": {"MX": ["10 out2.test."]}, "out2.test": {"A": ["127.0.0.1"]}}
    settings = {"route": "mx", "mx_port": sink.port, "network": {"allow": {"mx": ["127.0.0.0/8"]}}}
    async with (
        DnsServer(zones) as dns,
        outbound(**settings, dns={"nameservers": [dns.address]}),
    ):
        await until(lambda: admin.fetchval("SELECT count(*) FROM source_hosts"), "the pool is known")
        email_id = await tenant.send("you@back.example")
        await tenant.state(email_id, "bounced")
    assert (await tenant.attempts(email_id))[0]["rule"] == "mail-loop"
    assert sink.talks == []


async def test_a_domains_own_pool_comes_before_everybodys(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, store: Store, make_domain: Any
) -> None:
    await make_domain(tenant.org_id, "shop.test")
    await add(OLD)
    async with store.worker() as db:
        own = await sources.add_pool(db, "shop", [("shop.test", 0)], None)
    await add(NEW, pool_id=own)
    async with outbound(sink):
        ours = await tenant.send("a@example.com")
        theirs = await tenant.send("a@example.com", domain="shop.test")
        news = await tenant.send("a@example.com", domain="shop.test", broadcast=True)
        for id_ in (ours, theirs, news):
            await tenant.state(id_, "delivered")
    from_ = {id_: (await tenant.attempts(id_))[0]["source_ip"] for id_ in (ours, theirs, news)}
    assert from_ == {ours: OLD, theirs: NEW, news: OLD}


async def test_what_has_no_room_goes_the_way_that_the_pool_names(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, admin: asyncpg.Connection, store: Store, pool: UUID,
    keyring: Keyring,
) -> None:  # fmt: skip
    await add(NEW, cap=3)
    async with SmtpServer() as smart_host:
        async with store.worker() as db:
            site = await sites.ensure(db, f"smarthost:{(way := uuid7())}", 5)
            of = {"org_id": None, "name": "old", "kind": "smarthost", "reports": False, "site_id": site.id}
            at = {"host": "127.0.0.1", "port": smart_host.port, "tls": "none"}
            await ways.add(db, way_id=way, settings=at, secrets_sealed=seal(keyring, {}), **of)
            await sources.change_pool(db, pool, name=None, serves=None, overflow=(way,))
        async with outbound(sink):
            ids = await tenant.send_each([[f"u{n}@d{n % 2}.example"] for n in range(10)])
            for id_ in ids:
                await tenant.state(id_, "delivered")
        assert senders(sink) == {NEW: 3}
        assert senders(smart_host) == {"127.0.0.1": 7}
    by_site = Counter(row["site"] for row in await admin.fetch("SELECT site FROM attempts"))
    assert by_site == {f"catch:127.0.0.1:{sink.port}": 3, f"smarthost:{way}": 7}
    async with store.worker() as db:
        await sources.change_pool(db, pool, name=None, serves=None, overflow=(None,))
    async with outbound(sink):
        await tenant.send("more@d1.example")
        await quiet(admin, 1)


async def test_an_address_that_is_not_here_takes_nothing_with_it(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, admin: asyncpg.Connection
) -> None:
    elsewhere = await add("198.51.100.7", cap=50)
    await add(OLD)
    async with outbound(sink):
        await tenant.state(await tenant.send("you@example.com"), "delivered")
    assert senders(sink) == {OLD: 1}
    error = await admin.fetchval("SELECT error FROM source_hosts WHERE source_id = $1", elsewhere)
    assert error is not None and error.startswith("198.51.100.7: ")
    assert await admin.fetchval("SELECT failures FROM sites WHERE key LIKE 'catch:%'") == 0


async def test_of_two_addresses_one_may_be_elsewhere(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, admin: asyncpg.Connection
) -> None:
    await add(NEW, ipv6="2001:db8::7")
    async with outbound(sink):
        await tenant.state(await tenant.send("you@example.com"), "delivered")
    assert senders(sink) == {NEW: 1}
    seen = await admin.fetchrow("SELECT usable, error FROM source_hosts")
    assert seen is not None and seen["usable"] and seen["error"].startswith("2001:db8::7: ")


async def test_a_site_that_refuses_one_address_gets_the_others(
    tenant: Tenant, outbound: Any, add: Add, admin: asyncpg.Connection
) -> None:
    await add(NEW, cap=50)
    await add(OLD)

    def greet(talk: Talk) -> Step | None:
        return Step("554 5.7.1 your IP is listed at spamhaus\r\n", cut=True) if talk.peer[0] == NEW else None

    async with SmtpServer({"greeting": greet}) as sink, outbound(sink, retry_schedule=[0.3] * 10):
        ids = await tenant.send_each([[f"u{n}@example.com"] for n in range(6)])
        for id_ in ids:
            await tenant.state(id_, "delivered")
    assert senders(sink) == {OLD: 6}
    assert await admin.fetchval("SELECT failures FROM sites WHERE key LIKE 'catch:%'") == 0


async def test_a_site_that_refuses_the_only_address_rests(
    tenant: Tenant, outbound: Any, add: Add, admin: asyncpg.Connection
) -> None:
    await add(NEW, cap=50)
    step = Step("554 5.7.1 your IP is listed at spamhaus\r\n", cut=True)
    async with SmtpServer({"greeting": step}) as sink, outbound(sink):
        email_id = await tenant.send("you@example.com")
        await until(lambda: admin.fetchval("SELECT failures = 1 FROM sites WHERE key LIKE 'catch:%'"), "the site rests")
    assert len(sink.talks) == 1
    (attempt,) = await tenant.attempts(email_id)
    assert (attempt["outcome"], attempt["code"], attempt["source_ip"]) == ("deferred", 554, NEW)
    assert await admin.fetchval("SELECT attempts FROM warmup_days") == 0, "nothing was sent: no room is used up"
    assert await admin.fetchval("SELECT blocked FROM warmup_days") == 1


def test_binding_is_tried() -> None:
    assert bind_error("127.0.0.1") is None
    assert "198.51.100.1" in (bind_error("198.51.100.1") or "")
