"""What is said of one source's address bars it from the site, or from all sites of a provider: other sources' mail goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer, Step, Talk
from integration.outbound.harness import Tenant, until
from mailcore.flow import sources as flow
from mailcore.kit.clock import SystemClock
from mailcore.store import bars, sources
from mailcore.store.session import Store
from outbound.placement import Source
from outbound.sources import Sources

NEWS, MAIL = "127.0.0.2", "127.0.0.3"
LISTED = "554 5.7.1 Service unavailable; Client host [127.0.0.2] blocked using zen.spamhaus.org"


@pytest.fixture
async def pools(store: Store) -> dict[str, UUID]:
    """Broadcasts leave from one address, all other mail from another. The sources' ids by address."""
    found = {}
    for name, class_, ip in (("news", sources.BROADCAST, NEWS), ("mail", sources.TRANSACTIONAL, MAIL)):
        async with store.worker() as db:
            pool = await sources.add_pool(db, name, [("", class_)], None)
        of = {"pool_id": pool, "ipv4": ip, "ehlo_name": f"{name}.test"}
        found[ip] = await flow.add_source(store, of, schedule=[1], warm=True, now=SystemClock().now())
    return found


def _listed(talk: Talk) -> Step | None:
    return Step(LISTED) if talk.peer[0] == NEWS else None


def _asked(*servers: SmtpServer) -> Counter[str]:
    """Recipients named, by the address they came from."""
    talks = [talk for server in servers for talk in server.talks]
    return Counter(talk.peer[0] for talk in talks for said in talk.commands if said.upper().startswith("RCPT"))


def _own(tmp_path: Path, text: str) -> str:
    file = tmp_path / "shaping.toml"
    file.write_text(text)
    return str(file)


async def _left(tenant: Tenant, email_id: UUID) -> bool:
    """After one more look at what waits."""
    await tenant.admin.execute("UPDATE queue SET due_at = now() WHERE worker IS NULL")
    return bool((await tenant.delivery(email_id))["state"] == "delivered")


async def _waits(admin: asyncpg.Connection, rows: int) -> None:
    """So many rows wait for a source, and nothing else is left."""
    await until(
        lambda: admin.fetchval("SELECT count(*) = $1 AND count(waits_for) = $1 FROM queue", rows), f"{rows} rows wait"
    )


async def test_a_listed_address_is_barred_and_mail_from_the_other_pool_goes_on(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection, pools: dict[str, UUID]
) -> None:
    """By the shipped rule: five refusals of one address in ten minutes."""
    async with SmtpServer({"rcpt": _listed}) as sink:
        async with outbound(sink, max_connections=1):
            news = await tenant.send_each([[f"n{n}@example.com"] for n in range(30)], broadcast=True)
            await until(lambda: admin.fetchval("SELECT count(*) FROM source_bars"), "barred")
            await until(lambda: admin.fetchval("SELECT count(waits_for) = count(*) FROM queue"), "the rest waits")
            for email_id in await tenant.send_each([[f"m{n}@example.com"] for n in range(5)]):
                await tenant.state(email_id, "delivered")
            asked = _asked(sink)
            assert asked[MAIL] == 5
            assert 5 <= asked[NEWS] <= 6, "what was on the wire, and no more"
            assert await admin.fetchval("SELECT count(*) FROM holds") == 0
            bar = await admin.fetchrow("SELECT *, until > now() + interval '25 minutes' AS long FROM source_bars")
            assert bar is not None and bar["long"]
            assert (bar["source_id"], bar["place"]) == (pools[NEWS], f"catch:127.0.0.1:{sink.port}")
            assert bar["reason"].startswith("rule default 3: 554 5.7.1 Service unavailable")
        # another process knows from its beginning
        async with outbound(sink, max_connections=1):
            more = await tenant.send("late@example.com", broadcast=True)
            await _waits(admin, 30 - asked[NEWS] + 1)
            assert _asked(sink) == asked
            assert not await tenant.attempts(more)
            # the operator lifts it
            sink.script.clear()
            async with tenant.store.worker() as db:
                assert await bars.lift(db, [bar["place"]]) == 1
            await until(lambda: _left(tenant, more), "it leaves once that is known")
    assert Counter([(await tenant.delivery(id_))["state"] for id_ in news])["bounced"] == asked[NEWS]


async def test_mail_of_a_barred_source_takes_the_others_of_its_pool(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection, store: Store, pools: dict[str, UUID]
) -> None:
    async with store.worker() as db:
        news = await sources.find_pool(db, "news")
    of = {"pool_id": news, "ipv4": "127.0.0.4", "ehlo_name": "other.test"}
    await flow.add_source(store, of, schedule=[1], warm=True, now=SystemClock().now())
    async with SmtpServer({"rcpt": _listed}) as sink, outbound(sink, max_connections=2):
        ids = await tenant.send_each([[f"n{n}@example.com"] for n in range(60)], broadcast=True)
        await until(lambda: admin.fetchval("SELECT NOT EXISTS (SELECT FROM queue)"), "nothing waits")
    asked = _asked(sink)
    assert 5 <= asked[NEWS] < 20
    assert asked["127.0.0.4"] == len(ids) - asked[NEWS]


async def test_a_greeting_that_a_rule_knows_bars_the_source_and_the_site_does_not_rest(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection, tmp_path: Path, pools: dict[str, UUID]
) -> None:
    file = _own(tmp_path, "[[default.rules]]\nmatch = '^554 .*ask for reset'\ndo = 'suspend-source'\nfor = '6h'\n")

    def greet(talk: Talk) -> Step | None:
        return Step("554 A problem occurred. Ask for reset\r\n", cut=True) if talk.peer[0] == NEWS else None

    async with SmtpServer({"greeting": greet}) as sink, outbound(sink, shaping_file=file):
        await tenant.send_each([[f"n{n}@example.com"] for n in range(10)], broadcast=True)
        await until(lambda: admin.fetchval("SELECT count(*) FROM source_bars"), "barred")
        for email_id in await tenant.send_each([[f"m{n}@example.com"] for n in range(5)]):
            await tenant.state(email_id, "delivered")
        assert await admin.fetchval("SELECT failures FROM sites WHERE key LIKE 'catch:%'") == 0
        assert await admin.fetchval("SELECT count(*) FROM attempts WHERE outcome = 'deferred'") == 1, "one pays for all"


async def test_a_greeting_of_a_list_to_the_only_address_of_a_pool_leaves_the_others_alone(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection, pools: dict[str, UUID]
) -> None:
    def greet(talk: Talk) -> Step | None:
        return Step("554 5.7.1 your IP is listed at spamhaus\r\n", cut=True) if talk.peer[0] == NEWS else None

    async with SmtpServer({"greeting": greet}) as sink, outbound(sink):
        await tenant.send("n@example.com", broadcast=True)
        await _waits(admin, 1)
        await tenant.state(await tenant.send("m@example.com"), "delivered")
    assert await admin.fetchval("SELECT failures FROM sites WHERE key LIKE 'catch:%'") == 0


async def test_without_pools_it_is_the_site_that_is_suspended(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection
) -> None:
    async with SmtpServer({"rcpt": Step(LISTED)}) as sink, outbound(sink, max_connections=1):
        await tenant.send_each([[f"n{n}@example.com"] for n in range(30)])
        await until(lambda: admin.fetchval("SELECT count(*) FROM holds"), "held")
        await until(lambda: admin.fetchval("SELECT count(worker) = 0 FROM queue"), "given back")
        hold = await admin.fetchrow("SELECT * FROM holds")
    assert hold is not None and hold["org_id"] is None and hold["site_id"] is not None
    assert _asked(sink)["127.0.0.1"] < 15


PROVIDER = """
[provider.house]
mx = [".house.test"]
[[provider.house.rules]]
match = 'banned'
do = 'suspend-source'
for = '2h'
times = 3
"""
"""Each of its customers has MX names of his own."""
CUSTOMERS = ("a", "b", "c", "d")


@pytest.fixture
def customers(outbound: Any, tmp_path: Path) -> Any:
    """The service in a world where each customer of a provider is a site."""

    @asynccontextmanager
    async def run(server: SmtpServer) -> AsyncIterator[None]:
        zone: dict[str, dict[str, list[str]]] = {"other.example": {"MX": ["10 mx.elsewhere.test."]}}
        zone["evil.example"] = {"MX": ["10 mx.evil.test.", "20 evil.house.test."]}
        zone["mx.evil.test"] = zone["evil.house.test"] = {"A": ["127.0.0.1"]}
        zone["mx.elsewhere.test"] = {"A": ["127.0.0.1"]}
        for name in CUSTOMERS:
            zone |= {f"{name}.example": {"MX": [f"10 {name}.house.test."]}, f"{name}.house.test": {"A": ["127.0.0.1"]}}
        async with (
            DnsServer(zone) as dns,
            outbound(
                route="mx",
                mx_port=server.port,
                network={"allow": {"mx": ["127.0.0.0/8"]}},
                dns={"nameservers": [dns.address]},
                shaping_file=_own(tmp_path, PROVIDER),
                max_connections=1,
            ),
        ):
            yield

    return run


async def test_what_customers_of_one_provider_say_counts_together_and_holds_for_all_of_them(
    tenant: Tenant, customers: Any, admin: asyncpg.Connection, pools: dict[str, UUID]
) -> None:
    def rcpt(talk: Talk) -> Step | None:
        return Step("550 5.7.606 banned") if talk.peer[0] == NEWS else None

    async with SmtpServer({"rcpt": rcpt}) as server, customers(server):
        for name in ("a", "b", "c"):  # once at each: none of them would be enough by itself
            await tenant.state(await tenant.send(f"n@{name}.example", broadcast=True), "bounced")
        await until(lambda: admin.fetchval("SELECT count(*) FROM source_bars"), "barred")
        assert await admin.fetchval("SELECT place FROM source_bars") == "house"
        for name in CUSTOMERS:  # also the one that has never been asked
            await tenant.send(f"late@{name}.example", broadcast=True)
        await _waits(admin, 4)
        assert _asked(server) == {NEWS: 3}
        for name in CUSTOMERS:
            await tenant.state(await tenant.send(f"m@{name}.example"), "delivered")
        await tenant.state(await tenant.send("n@other.example", broadcast=True), "bounced")
        assert _asked(server) == {NEWS: 4, MAIL: 4}, "elsewhere it is asked as before"
        assert await admin.fetchval("SELECT count(*) FROM holds") == 0


async def test_who_names_a_providers_host_beside_his_own_speaks_for_his_own_site_alone(
    tenant: Tenant, customers: Any, admin: asyncpg.Connection, pools: dict[str, UUID]
) -> None:
    """Else anybody with a domain could bar our sources from all sites of a provider."""
    async with SmtpServer({"rcpt": Step("550 5.7.606 banned")}) as server, customers(server):
        for n in range(3):
            await tenant.state(await tenant.send(f"n{n}@evil.example", broadcast=True), "bounced")
        await until(lambda: admin.fetchval("SELECT count(*) FROM source_bars"), "barred")
        assert await admin.fetchval("SELECT place FROM source_bars") == "mx:evil.house.test,mx.evil.test"
        server.script.clear()
        await tenant.state(await tenant.send("n@a.example", broadcast=True), "delivered")


async def test_a_greeting_of_a_list_is_by_the_providers_rule_where_he_has_one(
    tenant: Tenant, customers: Any, admin: asyncpg.Connection, pools: dict[str, UUID]
) -> None:
    """It holds for all of his sites, and for as long as the rule says, not for the half hour of a greeting that no rule knows."""

    def greet(talk: Talk) -> Step | None:
        return Step("554 5.7.1 your IP is banned, listed at spamhaus\r\n", cut=True) if talk.peer[0] == NEWS else None

    async with SmtpServer({"greeting": greet}) as server, customers(server):
        for name in ("a", "b", "c"):
            await tenant.send(f"n@{name}.example", broadcast=True)
        await _waits(admin, 3)
        places = "SELECT place, until > now() + interval '90 minutes' AS long FROM source_bars"
        assert {row["place"]: row["long"] for row in await admin.fetch(places)}["house"] is True
        await tenant.state(await tenant.send("m@d.example"), "delivered")


async def test_without_pools_each_site_of_the_provider_is_suspended_by_its_first_word(
    tenant: Tenant, customers: Any, admin: asyncpg.Connection
) -> None:
    async with SmtpServer({"rcpt": Step("550 5.7.606 banned")}) as server, customers(server):
        for name in ("a", "b", "c", "d"):
            await tenant.state(await tenant.send(f"n@{name}.example"), "bounced")
        await until(lambda: admin.fetchval("SELECT count(*) = 2 FROM holds"), "two are held")
        held = await admin.fetch("SELECT s.key FROM holds h JOIN sites s ON s.id = h.site_id ORDER BY 1")
    assert [row["key"] for row in held] == ["mx:c.house.test", "mx:d.house.test"], (
        "the third word, and each one after it"
    )


async def test_one_process_learns_of_anothers_bar(store: Store, pools: dict[str, UUID]) -> None:
    one, two = (Sources(store, Source(), host=host) for host in ("one", "two"))
    await one.tick()
    await two.tick()
    one.bars.place(pools[NEWS], "mx:mx.test", 3600, "listed")
    assert one.bars.barred(pools[NEWS], "mx:mx.test"), "at once"
    await one.drain()
    assert not two.bars.barred(pools[NEWS], "mx:mx.test")
    await two.tick()
    assert two.bars.barred(pools[NEWS], "mx:mx.test")
    assert not two.bars.barred(pools[NEWS], "mx:elsewhere.test")
    assert not two.bars.barred(pools[MAIL], "mx:mx.test")
    async with store.worker() as db:
        await bars.lift(db, ["mx:mx.test"])
    await two.tick()
    assert not two.bars.barred(pools[NEWS], "mx:mx.test")


async def test_a_bar_that_is_over_is_forgotten(store: Store, admin: asyncpg.Connection, pools: dict[str, UUID]) -> None:
    async with store.worker() as db:
        await bars.place(db, pools[NEWS], "google", 3600, "listed")
        await bars.place(db, pools[NEWS], "google", 60, "a rule shortens nothing")
        await bars.place(db, UUID(int=1), "google", 60, "a source that is gone needs none")
    assert await admin.fetchval("SELECT until > now() + interval '50 minutes' FROM source_bars") is True
    await admin.execute("UPDATE source_bars SET until = now()")
    sources_ = Sources(store, Source())
    await sources_.tick()
    assert not sources_.bars.barred(pools[NEWS], "google")
    async with store.worker() as db:
        assert await bars.in_force(db) == []
        await bars.forget(db)
    assert await admin.fetchval("SELECT count(*) FROM source_bars") == 0
