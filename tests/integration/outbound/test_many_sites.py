"""Mail to many domains at once, each with a mail host of its own that nobody has heard of; and somebody else's beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, until
from mailcore.store import sites
from mailcore.store.due import MOST_DUE, due_lanes
from mailcore.store.session import Store
from outbound.runner import BEGINNINGS, MAX_FINDING, NEXT_FINDING

MANY = max(BEGINNINGS, MAX_FINDING + NEXT_FINDING) + 100


async def test_each_mail_arrives_once(tenant: Tenant, sink: SmtpServer, outbound: Any) -> None:
    """More of them than may be looked up, or begun, at a time; a tenth of the domains take no mail, and one has no name server."""
    zones: dict[str, dict[str, list[str]]] = {}
    for n in range(MANY):
        zones[f"d{n}.example"] = {"MX": ["0 ."] if n % 10 == 9 else [f"10 mx.d{n}.example."]}
        zones[f"mx.d{n}.example"] = {"A": ["127.0.0.1"]}
    async with (
        DnsServer(zones, failing=("d0.example",)) as dns,
        outbound(
            route="mx",
            mx_port=sink.port,
            dns={"nameservers": [dns.address]},
            network={"allow": {"mx": ["127.0.0.0/8"]}},
        ),
    ):
        for round_ in (1, 2):  # at first nothing is known, then all of it
            await tenant.send_each([[f"r{round_}@d{n}.example"] for n in range(MANY)])
            await until(lambda ended=round_ * (MANY - 1): _ended(tenant, ended), "all but one have ended")  # type: ignore[misc]
    wanted = {f"r{round_}@d{n}.example" for round_ in (1, 2) for n in range(1, MANY) if n % 10 != 9}
    assert sorted(rcpt for mail in sink.caught for rcpt in mail.rcpt_to) == sorted(wanted)
    states = dict(await tenant.admin.fetch("SELECT state, count(*) FROM deliveries GROUP BY 1"))
    assert states == {"delivered": len(wanted), "bounced": 2 * (MANY // 10), "queued": 2}
    pointed = await tenant.admin.fetchval(
        "SELECT count(*) FROM recipient_domains r JOIN sites s ON s.id = r.site_id WHERE s.key = 'mx:mx.' || r.domain"
    )
    assert pointed == len(wanted) // 2


async def _ended(tenant: Tenant, count: int) -> bool:
    ended = "SELECT count(*) FROM deliveries WHERE state IN ('delivered', 'bounced')"
    return bool(await tenant.admin.fetchval(ended) == count)


async def test_a_look_sees_each_organization(
    store: Store, admin: asyncpg.Connection, org: UUID, make_org: Callable[[], Awaitable[UUID]]
) -> None:
    """One has more lanes than a look sees, all of them due for longer."""
    other = await make_org()
    site = await admin.fetchval("INSERT INTO sites (key) VALUES ('mx:mx.example') RETURNING id")
    await admin.execute(
        "WITH r AS (INSERT INTO recipient_domains (domain, site_id) SELECT 'd' || n || '.example', $3::bigint "
        "           FROM generate_series(1, $2::int) n RETURNING domain), "
        "     l AS (INSERT INTO lanes (org_id, domain, class) SELECT $1, domain, 0 FROM r RETURNING id) "
        "INSERT INTO queue (email_id, n, org_id, lane_id, due_at) "
        "SELECT gen_random_uuid(), 0, $1, id, now() - interval '1 day' FROM l",
        *(org, MOST_DUE + 10, site),
    )
    await admin.execute(
        "WITH l AS (INSERT INTO lanes (org_id, domain, class) SELECT $1, 'd' || n || '.example', 0 FROM generate_series(1, 2) n "
        "           RETURNING id) "
        "INSERT INTO queue (email_id, n, org_id, lane_id, due_at) SELECT gen_random_uuid(), 0, $1, id, now() FROM l",
        other,
    )
    async with store.worker() as db:
        due = await due_lanes(db)
    assert len(due) == MOST_DUE
    assert [lane.org_id == other for lane in due[:5]].count(True) == 2
    assert [lane.due_at for lane in due if lane.org_id == org] == sorted(
        lane.due_at for lane in due if lane.org_id == org
    )


async def test_what_waits_for_a_busy_site_hides_nothing_else_of_its_organization(
    store: Store, admin: asyncpg.Connection, org: UUID
) -> None:
    """A broadcast to more domains than a look sees, all at one site; a password reset to one of them, and to another site."""
    there = "WITH s AS (INSERT INTO sites (key) VALUES ($1) RETURNING id) "
    domains = (
        "INSERT INTO recipient_domains (domain, site_id) "
        "SELECT $2 || n || '.example', id FROM s, generate_series(1, $3::int) n"
    )
    await admin.execute(there + domains, "mx:mx.busy.test", "d", MOST_DUE + 10)
    await admin.execute(there + domains, "mx:mx.quiet.test", "q", 1)
    rows = (
        "WITH l AS (INSERT INTO lanes (org_id, domain, class) SELECT $1, domain, $2 FROM recipient_domains WHERE domain = ANY ($3) "
        "           RETURNING id) "
        "INSERT INTO queue (email_id, n, org_id, lane_id, due_at) SELECT gen_random_uuid(), 0, $1, id, now() - $4::interval FROM l"
    )
    many = [f"d{n}.example" for n in range(1, MOST_DUE + 11)]
    await admin.execute(rows, org, 1, many, timedelta(days=1))
    await admin.execute(rows, org, 0, ["d7.example", "q1.example"], timedelta(0))
    async with store.worker() as db:
        due = await due_lanes(db)
    assert len(due) == MOST_DUE
    assert {(lane.domain, lane.class_) for lane in due[:3]} >= {("d7.example", 0), ("q1.example", 0)}


async def test_domains_that_become_known_together_point_to_their_sites(store: Store, admin: asyncpg.Connection) -> None:
    await admin.execute(
        "WITH s AS (INSERT INTO sites (key) VALUES ('domain:p') RETURNING id) "
        "INSERT INTO recipient_domains (domain, site_id) SELECT 'p' || n || '.example', s.id FROM s, generate_series(0, 3) n"
    )
    async with store.worker() as db:
        first = await sites.ensure_all(db, ["mx:b", "mx:a"], 7)
        again = await sites.ensure_all(db, ["mx:c", "mx:a"], 9)
        await sites.point(db, {"p1.example": first["mx:a"].id, "p0.example": again["mx:c"].id})
    assert {key: site.max_connections for key, site in (first | again).items()} == {"mx:a": 7, "mx:b": 7, "mx:c": 9}
    assert first["mx:a"] == again["mx:a"]
    found = dict(
        await admin.fetch(
            "SELECT domain, key FROM recipient_domains r JOIN sites s ON s.id = r.site_id WHERE domain LIKE 'p%'"
        )
    )
    assert found == {"p0.example": "mx:c", "p1.example": "mx:a", "p2.example": "domain:p", "p3.example": "domain:p"}
