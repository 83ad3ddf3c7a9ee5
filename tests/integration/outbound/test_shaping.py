"""What a site says changes what we do: fewer connections, a pause, one organization's mail held; other sites go on as before."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer, Step, Talk
from integration.outbound.harness import Tenant, until
from mailcore.flow import operate
from mailcore.queue.bell import Ringer
from mailcore.store import holds
from mailcore.store.queue_orders import Query
from mailcore.store.session import Store
from outbound.paces import Paces

SITE = "SELECT * FROM sites WHERE key LIKE 'catch:%'"


def _own(tmp_path: Path, text: str) -> str:
    file = tmp_path / "shaping.toml"
    file.write_text(text)
    return str(file)


async def test_a_reply_suspends_the_site_and_costs_the_others_no_attempt(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    file = _own(tmp_path, "[[default.rules]]\nmatch = 'address is listed'\ndo = 'suspend'\nfor = '1h'\n")
    refuses = True

    def rcpt(_: Talk) -> Step | None:
        return Step("451 4.7.1 your address is listed") if refuses else None

    async with SmtpServer({"rcpt": rcpt}) as sink, outbound(sink, max_connections=1, shaping_file=file):
        ids = await tenant.send_each([[f"u{n}@example.com"] for n in range(200)])
        await until(lambda: admin.fetchval("SELECT count(*) FROM holds"), "held")
        await until(
            lambda: admin.fetchval("SELECT count(*) = 0 FROM queue WHERE worker IS NOT NULL"), "rows given back"
        )
        attempts = await admin.fetchval("SELECT count(*) FROM attempts")
        assert attempts < 10, "what was on the wire, and no more"
        hold = await admin.fetchrow("SELECT * FROM holds")
        assert hold is not None
        assert (hold["origin"], hold["org_id"]) == ("rule", None)
        assert "rule default 1: 451 4.7.1 your address is listed" in hold["reason"]
        refuses = False
        await asyncio.sleep(0.5)  # sweeps pass over it
        assert await admin.fetchval("SELECT count(*) FROM attempts") == attempts
        await admin.execute("UPDATE holds SET until = now()")
        await admin.execute("UPDATE queue SET due_at = now()")
        for email_id in ids:
            await tenant.state(email_id, "delivered")
        assert await admin.fetchval("SELECT count(*) FROM queue") == 0


async def test_one_tenant_is_suspended_on_one_site_and_nobody_else(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection, make_org: Any, make_domain: Any, tmp_path: Path
) -> None:
    other = await make_org()
    await make_domain(other, "other.test")
    file = _own(
        tmp_path, "[[default.rules]]\nmatch = 'unauthenticated'\ndo = 'suspend-tenant'\nfor = '1h'\ntimes = 3\n"
    )

    def mail(talk: Talk) -> Step | None:
        return Step("450 4.7.26 unauthenticated") if "postroom.test" in talk.commands[-1] else None

    async with SmtpServer({"mail": mail}) as sink, outbound(sink, max_connections=2, shaping_file=file):
        await tenant.send_each([[f"u{n}@example.com"] for n in range(60)])
        await until(lambda: admin.fetchval("SELECT count(*) FROM holds"), "held")
        hold = await admin.fetchrow("SELECT h.*, s.key FROM holds h JOIN sites s ON s.id = h.site_id")
        assert hold is not None
        assert hold["org_id"] == tenant.org_id
        ids = await tenant.send_each([[f"v{n}@example.com"] for n in range(20)], org_id=other, domain="other.test")
        for email_id in ids:
            await tenant.state(email_id, "delivered")
        tried = await admin.fetchval("SELECT count(*) FROM attempts WHERE outcome = 'deferred'")
        assert 3 <= tried < 20
        assert await admin.fetchval("SELECT count(*) FROM queue WHERE org_id = $1", tenant.org_id) == 60
    # elsewhere the same tenant is served: the hold is of that site
    async with SmtpServer() as elsewhere, outbound(elsewhere, shaping_file=file):
        email_id = await tenant.send("w@another.example")
        await tenant.state(email_id, "delivered")


async def test_what_is_held_is_neither_claimed_nor_forgotten(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection, store: Store
) -> None:
    async with store.worker() as db:
        await holds.place(db, None, None, origin="operator", reason="maintenance")
    async with outbound(sink):
        email_id = await tenant.send("you@example.com")
        await asyncio.sleep(0.6)
        row = await tenant.queued(email_id)
        assert row is not None
        assert (row["attempt"], row["worker"]) == (0, None)
        async with store.worker() as db:
            assert len(await holds.lift(db, None, None)) == 1
        await tenant.state(email_id, "delivered")


async def test_an_order_is_carried_out_by_the_service(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection, store: Store, ringer: Ringer
) -> None:
    async with store.worker() as db:
        await holds.place(db, None, None, origin="operator", reason="looked at first")
    async with outbound(sink):
        ids = await tenant.send_each([[f"u{n}@gone.example"] for n in range(5)])
        kept = await tenant.send("you@example.com")
        await operate.order(
            store, ringer, "bounce", Query(domain="gone.example"), reason="gone", ordered_by="tests", dry_run=False
        )
        for email_id in ids:
            await tenant.state(email_id, "bounced")
        await until(lambda: admin.fetchval("SELECT state = 'done' FROM queue_orders WHERE verb = 'bounce'"), "done")
        assert await admin.fetchval("SELECT touched FROM queue_orders") == 5
        await operate.resume(store, ringer, None, None, ordered_by="tests", dry_run=False)
        await tenant.state(kept, "delivered")
    assert sink.recipients == ["you@example.com"]


async def test_a_run_under_way_stops_when_everything_is_held(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection, store: Store
) -> None:
    gate = asyncio.Event()
    async with (
        SmtpServer({"dot": lambda _: None if gate.is_set() else Step("250 ok", wait=gate)}) as sink,
        outbound(sink, Paces(beat=0.1), max_connections=2),
    ):
        await tenant.send_each([[f"u{n}@example.com"] for n in range(100)])
        await until(lambda: admin.fetchval("SELECT count(*) > 0 FROM queue WHERE dot_sent"), "under way")
        await until(lambda: admin.fetchval("SELECT bool_and(bears > 0) FROM site_shares"), "told by a heartbeat")
        async with store.worker() as db:
            await holds.place(db, None, None, origin="operator", reason="stop")
        await until(lambda: admin.fetchval("SELECT bool_and(bears = 0) FROM site_shares"), "the run knows")
        await until(
            lambda: admin.fetchval("SELECT count(*) < 10 FROM queue WHERE worker IS NOT NULL"), "the rest given back"
        )
        gate.set()
        await until(lambda: admin.fetchval("SELECT count(*) = 0 FROM queue WHERE worker IS NOT NULL"), "quiet")
        left = await admin.fetchval("SELECT count(*) FROM queue")
        assert 80 < left < 100
        async with store.worker() as db:
            await holds.lift(db, None, None)
        await until(lambda: admin.fetchval("SELECT NOT EXISTS (SELECT FROM queue)"), "all delivered")
    assert len(sink.caught) == 100


async def test_a_storm_of_421_shrinks_to_two_probes_and_leaves_other_sites_alone(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection
) -> None:
    """Twenty connections before it; in it one probe at a time, at most two; and afterwards all is delivered, nothing bounced."""
    storm = False
    refused = 0

    def greeting(_: Talk) -> Step | None:
        nonlocal refused
        if storm:
            refused += 1
            return Step("421 4.7.0 try again later\r\n", cut=True)
        return None

    def mail(_: Talk) -> Step | None:
        return Step("421 4.7.0 try again later\r\n", cut=True) if storm else None

    async with (
        SmtpServer({"greeting": greeting, "mail": mail, "dot": _slowly}) as big,
        SmtpServer(host="127.0.0.2", port=big.port),
        DnsServer({"big.example": {"A": ["127.0.0.1"]}, "small.example": {"A": ["127.0.0.2"]}}) as dns,
        outbound(
            paces=Paces(busy_first=0.1, busy_longest=0.4),
            route="mx",
            mx_port=big.port,
            network={"allow": {"mx": ["127.0.0.0/8"]}},
            dns={"nameservers": [dns.address]},
            retry_schedule=[0.5] * 200,
        ),
    ):
        await tenant.send_each([[f"u{n}@big.example"] for n in range(1_500)])
        await until(lambda: _reached(big, 15), "many connections")
        storm = True
        await until(lambda: _shrunk(admin), "the site rests")
        await until(lambda: _quiet(big), "connections closed")
        big.most_open = 0
        probes = refused
        others = await tenant.send_each([[f"v{n}@small.example"] for n in range(50)])
        for email_id in others:
            await tenant.state(email_id, "delivered")
        await until(lambda: _more(lambda: refused, probes + 3), "probes go on")
        assert big.most_open <= 2
        told = await admin.fetch("SELECT attempt FROM attempts WHERE outcome = 'deferred'")
        assert len(told) < 200, "the mails of a site that rests are not attempted one by one"
        assert {row["attempt"] for row in told} == {0}, "and a 421 costs none of them anything"
        storm = False
        await until(lambda: admin.fetchval("SELECT NOT EXISTS (SELECT FROM queue)"), "all delivered", seconds=60)
    assert await admin.fetchval("SELECT count(*) FROM deliveries WHERE state <> 'delivered'") == 0
    assert len(big.caught) == 1_500


async def test_a_site_rests_whatever_octets_it_says_so_with(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection
) -> None:
    async with SmtpServer({"greeting": Step("554 no\x00 mail \udcff here")}) as sink, outbound(sink):
        await tenant.send("a@example.com", "b@example.com")
        await until(
            lambda: admin.fetchval("SELECT suspended_until > now() FROM sites WHERE key LIKE 'catch:%'"), "at rest"
        )
    assert await admin.fetchval("SELECT count(*) FROM attempts") == 1


async def test_the_operators_rate_is_kept_at_the_mx(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    file = _own(tmp_path, "[default]\nper_second = 20\n")
    at: list[float] = []

    def dot(_: Talk) -> Step | None:
        at.append(time.monotonic())
        return None

    async with SmtpServer({"dot": dot}) as sink, outbound(sink, max_connections=5, shaping_file=file):
        await tenant.send_each([[f"u{n}@example.com"] for n in range(60)])
        await until(lambda: admin.fetchval("SELECT NOT EXISTS (SELECT FROM queue)"), "all delivered")
    fullest = max(sum(first <= other < first + 1 for other in at) for first in at)
    # what waits for a connection was let go before: its number at most is over
    assert fullest <= 20 + 5
    assert at[-1] - at[0] > 1.5


async def test_what_a_site_said_is_kept_for_the_operator(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection
) -> None:
    answers = [Step("450 4.2.0 later"), Step("450 4.2.0 later"), Step("550 5.1.1 nobody\x00here"), Step("250 ok")]
    async with SmtpServer({"rcpt": answers}) as sink, outbound(sink, Paces(beat=0.1), max_connections=1):
        for n in range(4):
            await tenant.send(f"u{n}@example.com")
        await until(lambda: admin.fetchval("SELECT heard_at IS NOT NULL FROM sites WHERE key LIKE 'catch:%'"), "told")
        await until(
            lambda: admin.fetchval("SELECT jsonb_array_length(replies) >= 2 FROM sites WHERE key LIKE 'catch:%'"),
            "kept",
        )
        site = await admin.fetchrow(SITE)
    assert site is not None
    said = {(each["code"], each["text"]) for each in site["replies"]}
    assert (450, "later") in said
    assert any(code == 550 for code, _ in said)
    assert sum(each["count"] for each in site["replies"]) == 3


async def test_a_slow_rule_halves_and_says_so(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection, tmp_path: Path, org: UUID
) -> None:
    file = _own(tmp_path, "[[default.rules]]\nmatch = 'slow down'\ndo = 'slow'\nfor = '10m'\n")
    async with (
        SmtpServer({"rcpt": [Step("450 4.7.1 please slow down"), Step("250 ok")]}) as sink,
        outbound(sink, max_connections=8, shaping_file=file),
    ):
        await tenant.send("you@example.com")
        await until(lambda: admin.fetchval("SELECT slow_until > now() FROM sites WHERE key LIKE 'catch:%'"), "slowed")
        site = await admin.fetchrow(SITE)
        assert site is not None
        assert site["slow_rule"] == "rule default 1: 450 4.7.1 please slow down"
        await tenant.send_each([[f"u{n}@example.com"] for n in range(200)])
        await until(lambda: admin.fetchval("SELECT count(*) = 1 FROM queue"), "the others delivered")
    assert sink.most_open <= 4


async def _reached(server: SmtpServer, connections: int) -> bool:
    return server.open >= connections


async def _shrunk(admin: asyncpg.Connection) -> bool:
    return bool(await admin.fetchval("SELECT failures > 0 FROM sites WHERE key LIKE 'mx:%big%'"))


async def _quiet(server: SmtpServer) -> bool:
    return server.open == 0


async def _more(count: Any, than: int) -> bool:
    return bool(count() > than)


def _slowly(_: Talk) -> Step:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, event.set)
    return Step("250 2.0.0 kept", wait=event)
