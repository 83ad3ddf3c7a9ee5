"""GET /v1/trace says what outbound does: loops, versions of IP, warm-ups of domains, sites of domains without mail, held ways."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from fakes.dns_server import DnsServer
from mailcore.dns.resolver import DnsResolver
from mailcore.kit.errors import Refused
from mailcore.kit.ids import uuid7
from mailcore.store import holds
from mailcore.store.session import Store
from outbound.main import routes
from outbound.routes import Finder
from outbound.settings import Settings

from .harness import MakeClient, email
from .test_reputation import traced

SEALED_BY = bytes(range(32)).hex()
ZONES = {
    "mail.ours.test": {"A": ["192.0.2.1"]},
    "loop.test": {"MX": ["10 mail.ours.test.", "20 worse.test."]},
    "alias.test": {"MX": ["10 same.test."]},
    "same.test": {"A": ["192.0.2.1"]},
    "backup.test": {"MX": ["10 mx1.big.test.", "20 mail.ours.test.", "30 worse.test."]},
    "worse.test": {"A": ["127.0.0.3"]},
    "workspace.test": {"MX": ["10 mx2.big.test.", "5 mx1.big.test."]},
    "mx1.big.test": {"A": ["127.0.0.1"]},
    "mx2.big.test": {"A": ["127.0.0.2"]},
    "pooled.test": {"A": ["192.0.2.77"]},
    "six.test": {"MX": ["10 mx.six.test."]},
    "mx.six.test": {"AAAA": ["::1"]},
    "postroom.test": {"MX": ["10 mail.ours.test."]},
}
BIG = "mx:mx1.big.test,mx2.big.test"


@asynccontextmanager
async def tracer(
    token: str, make_client: MakeClient, **outbound: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, Any]]]:
    """A client of the api, and the settings that it runs with."""
    async with DnsServer(ZONES) as server:
        given: dict[str, Any] = {
            "dns": {"nameservers": [server.address], "timeout_seconds": 60},
            "network": {"allow": {"mx": ["127.0.0.0/8", "192.0.2.0/24", "::1/128"]}},
            "domains": {"mx_host": "mail.ours.test"},
            "outbound": {"route": "mx", "ehlo_name": "out.test", **outbound},
        }
        yield await make_client(token, **given), given


@pytest.fixture
async def tracing(token: str, make_client: MakeClient) -> AsyncIterator[httpx.AsyncClient]:
    async with tracer(token, make_client) as (client, _):
        yield client


def finder(store: Store, given: dict[str, Any]) -> Finder:
    """As outbound makes it of the same settings."""
    settings = Settings(encryption_key=SEALED_BY, **given)
    resolver = DnsResolver(settings.dns.nameservers, timeout=60, cache_size=0)
    return routes(settings, store, resolver)._finder


# ---- ourselves -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["loop.test", "alias.test"])
async def test_mail_that_would_come_back_to_us_stops(
    token: str, make_client: MakeClient, store: Store, domain: str
) -> None:
    async with tracer(token, make_client) as (client, given):
        verdict, steps = await traced(client, f"you@{domain}")
        with pytest.raises(Refused) as refused:
            await finder(store, given).find(domain)
    assert (verdict, steps["mx"]["verdict"]) == ("stop", "stop")
    assert refused.value.public in steps["mx"]["text"]
    assert steps["mx"]["facts"]["enhanced_code"] == refused.value.enhanced == "5.4.6"
    assert "addresses" not in steps


@pytest.mark.parametrize("local", [None, "10.0.0.77"])
async def test_an_address_of_a_pool_is_ours_too_as_the_world_sees_it(
    tracing: httpx.AsyncClient, admin: asyncpg.Connection, local: str | None
) -> None:
    """Behind a NAT the one that is bound is in nobody's DNS."""
    assert (await traced(tracing, "you@pooled.test"))[0] == "ok"
    pool, source = uuid7(), uuid7()
    await admin.execute("INSERT INTO pools (id, name) VALUES ($1, 'own')", pool)
    await admin.execute(
        "INSERT INTO sources (id, pool_id, ipv4, local_ipv4, ehlo_name) VALUES ($1, $2, '192.0.2.77', $3::text::inet, 'own.test')",
        *(source, pool, local),
    )
    await admin.execute(
        "INSERT INTO warmups (id, source_id, state, schedule) VALUES ($1, $2, 'warm', '{50}')", uuid7(), source
    )
    verdict, steps = await traced(tracing, "you@pooled.test")
    assert (verdict, steps["mx"]["facts"]["enhanced_code"]) == ("stop", "5.4.6")


async def test_the_address_that_mail_leaves_from_without_a_pool_is_ours_too(
    token: str, make_client: MakeClient, store: Store
) -> None:
    async with tracer(token, make_client, source_ip="192.0.2.77") as (client, given):
        verdict, steps = await traced(client, "you@pooled.test")
        assert (verdict, steps["mx"]["facts"]["enhanced_code"]) == ("stop", "5.4.6")
        with pytest.raises(Refused) as refused:
            await finder(store, given).find("pooled.test")
    assert refused.value.enhanced == "5.4.6"


async def test_hosts_no_better_than_ourselves_are_not_tried(token: str, make_client: MakeClient, store: Store) -> None:
    async with tracer(token, make_client) as (client, given):
        verdict, steps = await traced(client, "you@backup.test")
        tried = [hop.host for hop in (await finder(store, given).find("backup.test")).hops]
    assert verdict == "ok" and tried == ["mx1.big.test"]
    shown = {each["host"]: each.get("tried", True) for each in steps["mx"]["facts"]["hosts"]}
    assert shown == {"mx1.big.test": True, "mail.ours.test": False, "worse.test": False}
    assert {each["host"] for each in steps["addresses"]["facts"]["addresses"]} == {"mx1.big.test"}


async def test_a_domain_that_we_receive_for_is_no_loop(
    tracing: httpx.AsyncClient, admin: asyncpg.Connection, domain: UUID
) -> None:
    await admin.execute("UPDATE domains SET receiving = true")
    verdict, steps = await traced(tracing, "you@postroom.test")
    assert (verdict, steps["mx"]["verdict"]) == ("ok", "ok"), steps["mx"]


# ---- versions of IP --------------------------------------------------------------------------------------------------


async def test_only_the_versions_of_ip_that_mail_leaves_by_count(
    token: str, make_client: MakeClient, store: Store
) -> None:
    async with tracer(token, make_client, ip_versions="4") as (client, given):
        verdict, steps = await traced(client, "you@six.test")
        with pytest.raises(Refused) as refused:
            await finder(store, given).find("six.test")
    assert refused.value.name == "no-address"
    assert (verdict, steps["addresses"]["verdict"]) == ("stop", "stop") and "no addresses" in steps["addresses"]["text"]
    async with tracer(token, make_client, ip_versions="6,4") as (client, _):
        assert (await traced(client, "you@six.test"))[0] == "ok"


# ---- sites -----------------------------------------------------------------------------------------------------------


async def test_a_new_domain_of_a_known_site_waits_while_that_rests(
    token: str, make_client: MakeClient, store: Store, admin: asyncpg.Connection
) -> None:
    await admin.execute(
        "INSERT INTO sites (key, suspended_until, failures, last_reply) "
        "VALUES ($1, now() + interval '1 hour', 3, '421 4.7.0 try later')",
        BIG,
    )
    async with tracer(token, make_client) as (client, given):
        assert (await finder(store, given).find("workspace.test")).key == BIG
        verdict, steps = await traced(client, "you@workspace.test")
        assert (verdict, steps["site"]["verdict"]) == ("wait", "wait") and "421 4.7.0" in steps["site"]["text"]
        assert steps["site"]["facts"]["key"] == BIG
        assert await admin.fetchval("SELECT count(*) FROM recipient_domains") == 0, "nothing is written"

        # also one whose first mail waits, and whose MX nobody has looked at
        assert (await client.post("/emails", json=email(to="you@workspace.test"))).status_code == 200
        assert (await traced(client, "you@workspace.test"))[1]["site"]["facts"]["key"] == BIG

        # held, and then free
        await admin.execute("UPDATE sites SET suspended_until = NULL")
        site = await admin.fetchval("SELECT id FROM sites WHERE key = $1", BIG)
        async with store.worker() as db:
            await holds.place(db, site, None, origin="operator", reason="Google asks for a pause")
        verdict, steps = await traced(client, "you@workspace.test")
        assert verdict == "wait" and "Google asks for a pause" in steps["site"]["text"]
        async with store.worker() as db:
            await holds.lift(db, site, None)
        verdict, steps = await traced(client, "you@workspace.test")
        assert verdict == "ok" and steps["site"]["facts"]["key"] == BIG


async def test_a_domain_that_rests_by_itself_is_not_sent_to_its_mx_site(
    tracing: httpx.AsyncClient, admin: asyncpg.Connection
) -> None:
    """The DNS did not answer when its mail was due: until that is over nobody asks again."""
    await admin.execute("INSERT INTO sites (key) VALUES ($1)", BIG)
    rests = await admin.fetchval(
        "INSERT INTO sites (key, suspended_until, last_reply) "
        "VALUES ('domain:workspace.test', now() + interval '1 minute', 'the DNS did not answer') RETURNING id"
    )
    await admin.execute("INSERT INTO recipient_domains (domain, site_id) VALUES ('workspace.test', $1)", rests)
    verdict, steps = await traced(tracing, "you@workspace.test")
    assert verdict == "wait" and "the DNS did not answer" in steps["site"]["text"]


async def test_the_site_of_a_smart_host_is_known_before_a_domains_first_mail(
    token: str, make_client: MakeClient, admin: asyncpg.Connection
) -> None:
    await admin.execute(
        "INSERT INTO sites (key, suspended_until) VALUES ('smarthost:relay.test:587', now() + interval '1 hour')"
    )
    async with tracer(token, make_client, route="smarthost", smarthost_host="relay.test") as (client, _):
        verdict, steps = await traced(client, "you@workspace.test")
    assert (verdict, steps["site"]["verdict"]) == ("wait", "wait"), steps["site"]


async def test_a_held_way_is_passed_over(
    tracing: httpx.AsyncClient, store: Store, admin: asyncpg.Connection, org: UUID
) -> None:
    ways = []
    for name in ("first", "second"):
        site = await admin.fetchval("INSERT INTO sites (key) VALUES ($1) RETURNING id", f"smarthost:{uuid7()}")
        way = uuid7()
        await admin.execute(
            "INSERT INTO ways (id, org_id, name, kind, secrets_sealed, site_id) VALUES ($1, $2, $3, 'smarthost', '', $4)",
            *(way, org, name, site),
        )
        ways.append((way, site))
    await admin.execute(
        "INSERT INTO routes_out (id, org_id, ways) VALUES ($1, $2, $3)", uuid7(), org, [w for w, _ in ways]
    )
    async with store.worker() as db:
        await holds.place(db, ways[0][1], org, origin="operator", reason="it bills too much")
    verdict, steps = await traced(tracing, "you@workspace.test")
    assert verdict == "ok" and "`second`, way 2 of 2" in steps["way"]["text"]
    async with store.worker() as db:
        await holds.place(db, ways[1][1], None, origin="operator", reason="so does this")
    verdict, steps = await traced(tracing, "you@workspace.test")
    assert (verdict, steps["way"]["verdict"]) == ("wait", "wait")


# ---- warm-ups --------------------------------------------------------------------------------------------------------


async def test_a_sending_domain_in_warm_up_that_has_sent_todays_mail_waits(
    tracing: httpx.AsyncClient, admin: asyncpg.Connection, domain: UUID, org: UUID
) -> None:
    warmup = uuid7()
    await admin.execute(
        "INSERT INTO warmups (id, domain, state, schedule) VALUES ($1, 'postroom.test', 'warming', '{5}')", warmup
    )
    await admin.execute(
        "INSERT INTO warmup_days (warmup_id, day, cap, leased) VALUES ($1, (now() AT TIME ZONE 'UTC')::date, 5, 4)",
        warmup,
    )
    verdict, steps = await traced(tracing, "you@workspace.test")
    assert verdict == "ok"
    assert steps["source"]["facts"]["domain_warmup"] == {
        "state": "warming",
        "cap_today": 5,
        "used_today": 4,
        "room": True,
    }
    await admin.execute("UPDATE warmup_days SET leased = 5")
    verdict, steps = await traced(tracing, "you@workspace.test")
    assert (verdict, steps["source"]["verdict"]) == ("wait", "wait") and "warm-up of postroom.test" in steps["source"][
        "text"
    ]
    # also where the mail leaves by somebody else's addresses
    site = await admin.fetchval("INSERT INTO sites (key) VALUES ('way:relay') RETURNING id")
    way = uuid7()
    await admin.execute(
        "INSERT INTO ways (id, org_id, name, kind, secrets_sealed, site_id) VALUES ($1, $2, 'relay', 'smarthost', '', $3)",
        *(way, org, site),
    )
    await admin.execute("INSERT INTO routes_out (id, org_id, ways) VALUES ($1, $2, $3)", uuid7(), org, [way])
    assert (await traced(tracing, "you@workspace.test"))[0] == "wait"
    # but not where nothing is sent
    assert (await traced(tracing, "delivered@resend.dev"))[0] == "ok"
    await admin.execute("UPDATE warmups SET state = 'paused'")
    verdict, steps = await traced(tracing, "you@workspace.test")
    assert verdict == "wait" and "paused" in steps["source"]["text"]
    await admin.execute("UPDATE warmups SET state = 'warm'")
    assert (await traced(tracing, "you@workspace.test"))[0] == "ok"


async def test_a_pool_without_an_address_carries_nothing(tracing: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    pool = uuid7()
    await admin.execute("INSERT INTO pools (id, name) VALUES ($1, 'empty')", pool)
    await admin.execute("INSERT INTO pool_serves (domain, class, pool_id) VALUES ('', 0, $1)", pool)
    verdict, steps = await traced(tracing, "you@workspace.test")
    assert (verdict, steps["source"]["facts"]["pool"]) == ("ok", None)


async def test_a_source_that_a_known_provider_bars_is_barred_for_its_new_domains(
    tracing: httpx.AsyncClient, admin: asyncpg.Connection
) -> None:
    pool, source = uuid7(), uuid7()
    await admin.execute("INSERT INTO pools (id, name) VALUES ($1, 'own')", pool)
    await admin.execute("INSERT INTO pool_serves (domain, class, pool_id) VALUES ('', 0, $1)", pool)
    await admin.execute(
        "INSERT INTO sources (id, pool_id, ipv4, ehlo_name) VALUES ($1, $2, '192.0.2.9', 'own.test')", source, pool
    )
    await admin.execute(
        "INSERT INTO warmups (id, source_id, state, schedule) VALUES ($1, $2, 'warm', '{50}')", uuid7(), source
    )
    assert (await traced(tracing, "you@workspace.test"))[0] == "ok"
    await admin.execute(
        "INSERT INTO source_bars (source_id, place, until, reason) VALUES ($1, $2, now() + interval '1 hour', 'x')",
        *(source, BIG),
    )
    verdict, steps = await traced(tracing, "you@workspace.test")
    assert (verdict, steps["source"]["facts"]["sources"][0]["barred"]) == ("wait", True)


# ---- what became of one ----------------------------------------------------------------------------------------------


async def test_holds_of_a_mail_with_a_route_are_those_of_its_way(
    tracing: httpx.AsyncClient, store: Store, admin: asyncpg.Connection, org: UUID
) -> None:
    site = await admin.fetchval("INSERT INTO sites (key) VALUES ('smarthost:relay') RETURNING id")
    way = uuid7()
    await admin.execute(
        "INSERT INTO ways (id, org_id, name, kind, secrets_sealed, site_id) VALUES ($1, $2, 'relay', 'smarthost', '', $3)",
        *(way, org, site),
    )
    await admin.execute("INSERT INTO routes_out (id, org_id, ways) VALUES ($1, $2, $3)", uuid7(), org, [way])
    id_ = (await tracing.post("/emails", json=email(to="you@workspace.test"))).json()["id"]
    of_mx = await admin.fetchval("SELECT site_id FROM recipient_domains WHERE domain = 'workspace.test'")
    assert await admin.fetchval("SELECT route_id FROM lanes") != 0

    async def why() -> str:
        (told,) = (await tracing.get(f"/v1/emails/{id_}/deliveries")).json()["data"]
        return str(told["next_attempt"]["why"])

    async with store.worker() as db:
        await holds.place(db, of_mx, None, origin="operator", reason="the MX moves house")
    assert "held" not in await why(), "nothing of this mail goes there"
    async with store.worker() as db:
        await holds.place(db, site, None, origin="operator", reason="the relay moves house")
    assert "It is held until it is resumed: the relay moves house." in await why()
    # where another way of the route is free, here the installation's own, that one takes it
    await admin.execute("UPDATE routes_out SET ways = $1", [way, UUID(int=0)])
    async with store.worker() as db:
        await holds.lift(db, of_mx, None)
    assert "held" not in await why()


async def test_the_next_attempt_is_when_its_site_and_the_operator_let_it_leave(
    tracing: httpx.AsyncClient, store: Store, admin: asyncpg.Connection, org: UUID
) -> None:
    id_ = (await tracing.post("/emails", json=email(to="you@workspace.test"))).json()["id"]
    due = await admin.fetchval("SELECT due_at FROM queue")

    async def told() -> dict[str, Any]:
        (found,) = (await tracing.get(f"/v1/emails/{id_}/deliveries")).json()["data"]
        assert found["next_attempt_at"] == found["next_attempt"]["at"]
        return dict(found["next_attempt"])

    assert (await told())["at"] == due.isoformat()
    rest = await admin.fetchval(
        "UPDATE sites SET suspended_until = now() + interval '1 minute', failures = 1, last_reply = 'The DNS is silent.' "
        "RETURNING suspended_until"
    )
    next_ = await told()
    assert next_["at"] == rest.isoformat()
    assert next_["why"].endswith(f"rests until {rest.isoformat()}, after 1 failure: The DNS is silent.")
    async with store.worker() as db:
        await holds.place(db, None, None, origin="rule", reason="421", seconds=30)
        longer = await holds.place(db, None, org, origin="operator", reason="", seconds=3600)
    next_ = await told()
    assert longer.until is not None and next_["at"] == longer.until.isoformat(), "the last that ends"
    assert f"It is held until {longer.until.isoformat()}. " in next_["why"]
