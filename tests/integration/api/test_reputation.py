"""GET /v1/domains/:id/reputation, /v1/alarms and the operator's verbs; the health of sending; trace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from fakes.dns_server import DnsServer
from mailcore.flow import bulk
from mailcore.flow.reputation import guard
from mailcore.kit.ids import uuid7
from mailcore.kit.settings import Reputation
from mailcore.store import health, holds
from mailcore.store.health import Finding
from mailcore.store.session import Store

from .harness import MakeClient, MakeKey, assert_error, email

MakeOrg = Callable[[], Awaitable[UUID]]
MakeDomain = Callable[[UUID, str], Awaitable[UUID]]


async def bounced(store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID, n: int, delivered: int = 0) -> None:
    """Counts of today, as flow.count writes them."""
    for kind, much in (("bounced_permanent", n), ("delivered", delivered), ("sent", n + delivered)):
        await admin.execute(
            "INSERT INTO event_counts (org_id, at, domain_id, kind, n) VALUES ($1, date_bin('15 minutes', now(), "
            "'2000-01-01Z'), $2, $3, $4)",
            *(org, domain, kind, much),
        )


async def test_a_paused_domain_is_refused_with_a_reason_shown_and_resumed_by_the_operator(
    api: httpx.AsyncClient, store: Store, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    assert (await api.post("/emails", json=email())).status_code == 200
    today = datetime.now(UTC).date().isoformat()
    await bounced(store, admin, org, domain, 30, 70)
    await guard(store, Reputation())
    found = (await api.get(f"/v1/domains/{domain}/reputation")).json()
    assert (found["object"], found["name"], found["state"]) == ("reputation", "postroom.test", "paused")
    days = {day["date"]: day["bounced"] for day in found["days"][:2]}
    assert found["last_24_hours"]["bounce_rate"] == 0.3
    assert days[today] == 30 or datetime.now(UTC).date().isoformat() != today, days
    assert [alarm["kind"] for alarm in found["alarms"]] == ["bounces"]
    assert found["broadcasts"]["allowed"] is False
    assert found["thresholds"]["bounce_limit"] == 0.05

    # what this process remembers of the domain is over within three seconds; another one's answer is fresh
    alarm = found["alarms"][0]
    listed = (await api.get("/v1/alarms?open=true")).json()
    assert [each["id"] for each in listed["data"]] == [alarm["id"]] and listed["has_more"] is False
    ended = (await api.post(f"/v1/alarms/{alarm['id']}/end")).json()
    assert (ended["object"], ended["ended_by"]) == ("alarm", "person")
    assert (await api.get("/v1/alarms?open=true")).json()["data"] == []
    assert (await api.get(f"/v1/alarms/{alarm['id']}")).json() == ended
    assert (await api.get(f"/v1/domains/{domain}/reputation")).json()["state"] == "good"


async def test_a_bulk_sender_is_shown_by_its_registered_domain_with_its_alarm(
    api: httpx.AsyncClient, store: Store, org: UUID, make_domain: MakeDomain, admin: asyncpg.Connection
) -> None:
    domain = await make_domain(org, "shop.bulk.test")
    assert (await api.get(f"/v1/domains/{domain}/reputation")).json()["bulk_sender_since"] is None
    await admin.execute(
        "INSERT INTO event_counts (org_id, at, domain_id, kind, n) VALUES ($1, date_bin('15 minutes', now(), '2000-01-01Z'), $2, "
        "'sent', 5001)",
        *(org, domain),
    )
    await bulk.count(store)
    await bulk.look(store, Reputation())
    found = (await api.get(f"/v1/domains/{domain}/reputation")).json()
    assert found["bulk_sender_since"] is not None and found["state"] == "warned"
    # who only says that a name is his is told nothing of it
    await admin.execute("UPDATE domains SET status = 'pending' WHERE id = $1", domain)
    assert (await api.get(f"/v1/domains/{domain}/reputation")).json()["bulk_sender_since"] is None
    await admin.execute("UPDATE domains SET status = 'verified' WHERE id = $1", domain)
    assert await admin.fetchval("SELECT domain FROM bulk_senders") == "bulk.test"
    (alarm,) = (await api.get("/v1/alarms?open=true")).json()["data"]
    assert (alarm["kind"], alarm["action"], alarm["domain"]) == ("bulk", "warned", "shop.bulk.test")
    # the fixture's domain has no record that anybody has seen; what nobody knows is not missing
    assert [each["name"] for each in alarm["facts"]["missing"]] == ["SPF", "DKIM"]
    requirements = {each["name"] for each in found["broadcasts"]["requirements"] if each["status"] == "missing"}
    assert {"SPF", "DKIM"} <= requirements


async def test_sending_from_a_paused_domain_is_403(
    token: str, make_client: MakeClient, org: UUID, domain: UUID
) -> None:
    api = await make_client(token)
    paused = await api.post(f"/v1/domains/{domain}/pause", json={"reason": "phishing, says a bank"})
    assert paused.status_code == 200, paused.text
    refused = await api.post("/emails", json=email())
    assert_error(refused, 403, "validation_error", "`postroom.test` domain is paused", "phishing, says a bank")
    batch = await api.post("/emails/batch", json=[email()])
    assert_error(batch, 403, "validation_error", "paused")
    await api.post(f"/v1/alarms/{paused.json()['id']}/end")
    assert (await api.post("/emails", json=email())).status_code == 200
    assert_error(await api.post(f"/v1/domains/{domain}/pause", json={}), 422, "missing_required_field", "reason")


async def test_another_organization_sees_nothing_of_it_and_may_end_nothing(
    api: httpx.AsyncClient, make_client: MakeClient, make_key: MakeKey, make_org: MakeOrg, domain: UUID, store: Store
) -> None:
    other = await make_client(await make_key(await make_org()))
    alarm = (await api.post(f"/v1/domains/{domain}/pause", json={"reason": "x"})).json()
    for path in (f"/v1/domains/{domain}/reputation", f"/v1/alarms/{alarm['id']}"):
        theirs, unknown = await other.get(path), await other.get(path.replace(path.split("/")[3], str(uuid7())))
        assert theirs.status_code == unknown.status_code == 404
        assert theirs.json() == unknown.json()
    assert (await other.get("/v1/alarms")).json()["data"] == []
    assert_error(await other.post(f"/v1/alarms/{alarm['id']}/end"), 403, "invalid_permission")
    assert_error(await other.post(f"/v1/domains/{domain}/pause", json={"reason": "x"}), 403, "invalid_permission")
    # the operator stops anybody's domain
    assert_error(await api.post(f"/v1/alarms/{uuid7()}/end"), 404, "not_found", "Alarm not found")


async def test_the_operator_stops_another_organizations_domain(
    api: httpx.AsyncClient, make_client: MakeClient, make_key: MakeKey, make_org: MakeOrg, make_domain: MakeDomain
) -> None:
    theirs = await make_org()
    domain = await make_domain(theirs, "theirs.test")
    other = await make_client(await make_key(theirs))
    assert (await api.post(f"/v1/domains/{domain}/pause", json={"reason": "spam"})).status_code == 200
    refused = await other.post("/emails", json=email(**{"from": "a@theirs.test"}))
    assert_error(refused, 403, "validation_error", "spam")
    assert [alarm["kind"] for alarm in (await other.get("/v1/alarms")).json()["data"]] == ["manual"]
    assert (await api.get("/v1/alarms")).json()["data"] == []
    of_all = (await api.get("/v1/alarms?all=true&open=true")).json()["data"]
    assert [alarm["org_id"] for alarm in of_all] == [str(theirs)]
    assert_error(await other.get("/v1/alarms?all=true"), 403, "invalid_permission")


async def test_what_keys_send_is_counted(
    api: httpx.AsyncClient, org: UUID, admin: asyncpg.Connection, token: str, make_client: MakeClient
) -> None:
    client = await make_client(token)
    for _ in range(2):
        assert (await client.post("/emails", json=email(cc=["b@example.com"]))).status_code == 200
    assert (await client.post("/emails/batch", json=[email(), email()])).status_code == 200
    await client._transport.app.ctx.keys.write_use()  # type: ignore[attr-defined]
    row = await admin.fetchrow("SELECT sum(sent) AS sent, sum(cardinality(sample)) AS sampled FROM key_counts")
    assert row is not None and (row["sent"], row["sampled"]) == (6, 4)


# ---- health ----------------------------------------------------------------------------------------------------------


async def test_the_health_of_sending(
    api: httpx.AsyncClient, store: Store, make_client: MakeClient, make_key: MakeKey, make_org: MakeOrg
) -> None:
    none = (await api.get("/v1/health/sending")).json()
    assert none == {"object": "health", "status": "unknown", "checked_at": None, "data": []}
    async with store.worker() as db:
        found = [Finding("ptr", "192.0.2.1", "ok", "fine"), Finding("dmarc", "a.test", "wrong", "none", "Publish it.")]
        await health.replace(db, found, datetime.now(UTC))
    found_ = (await api.get("/v1/health/sending")).json()
    assert (found_["status"], [each["check"] for each in found_["data"]]) == ("wrong", ["dmarc", "ptr"])
    assert found_["data"][0]["advice"] == "Publish it." and found_["checked_at"]
    asked = await api.post("/v1/health/sending")
    assert (asked.status_code, asked.json()) == (202, {"object": "health", "status": "checking"})
    other = await make_client(await make_key(await make_org()))
    for answer in (await other.get("/v1/health/sending"), await other.post("/v1/health/sending")):
        assert_error(answer, 403, "invalid_permission")


# ---- trace -----------------------------------------------------------------------------------------------------------

ZONES = {
    "good.test": {"MX": ["10 mx1.good.test.", "20 mx2.good.test."]},
    "mx1.good.test": {"A": ["127.0.0.1"]},
    "mx2.good.test": {"A": ["10.1.2.3"]},
    "null.test": {"MX": ["0 ."]},
    "private.test": {"MX": ["10 mx.private.test."]},
    "mx.private.test": {"A": ["10.1.2.3"]},
    "bare.test": {"A": ["127.0.0.1"]},
    "broken.test": {"MX": ["10 mx.broken.test."]},
}


@pytest.fixture
async def tracing(token: str, make_client: MakeClient) -> Any:
    async with DnsServer(ZONES, failing=["dead.test", "mx.broken.test"]) as server:
        yield await make_client(
            token,
            dns={"nameservers": [server.address], "timeout_seconds": 60},
            network={"allow": {"mx": ["127.0.0.0/8"]}},
            outbound={"route": "mx", "source_ip": "127.0.0.1", "ehlo_name": "out.test"},
            tracking={"url": "https://links.test"},
        )


async def ready_for_bulk(admin: asyncpg.Connection) -> None:
    """Every domain has what large providers ask of bulk senders."""
    await admin.execute(
        "UPDATE domains SET seen = $1, record_status = $2",
        {"dmarc": "v=DMARC1; p=none"},
        {"spf_txt": "verified", "spf_mx": "verified", "dkim:rsa": "verified", "dkim:ed25519": "verified"},
    )


async def traced(client: httpx.AsyncClient, to: str, **more: str) -> tuple[str, dict[str, Any]]:
    answer = await client.get("/v1/trace", params={"to": to, **more})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["object"], body["to"]) == ("trace", to)
    return body["verdict"], {each["step"]: each for each in body["data"]}


STEPS = [
    "address",
    "suppression",
    "sender",
    "reputation",
    "quota",
    "lane",
    "way",
    "mx",
    "addresses",
    "tls",
    "site",
    "source",
]


async def test_every_step_of_a_mail_that_would_be_sent(
    tracing: httpx.AsyncClient, admin: asyncpg.Connection, org: UUID
) -> None:
    verdict, steps = await traced(tracing, "You <you@good.test>")
    assert (verdict, list(steps)) == ("ok", STEPS)
    assert steps["address"]["facts"]["address"] == "you@good.test"
    assert steps["sender"]["facts"]["return_path"] == "send.postroom.test"
    assert [host["host"] for host in steps["mx"]["facts"]["hosts"]] == ["mx1.good.test", "mx2.good.test"]
    allowed = {each["ip"]: each["allowed"] for each in steps["addresses"]["facts"]["addresses"]}
    assert allowed == {"127.0.0.1": True, "10.1.2.3": False}
    assert steps["source"]["facts"]["ip"] == "127.0.0.1"
    for table in ("emails", "queue", "lanes", "recipient_domains", "events", "usage_deltas"):
        assert await admin.fetchval(f"SELECT count(*) FROM {table}") == 0, "nothing is written"


@pytest.mark.parametrize(
    ("to", "stops", "verdict", "words"),
    [
        ("nobody", "address", "stop", ""),
        ("you@null.test", "mx", "stop", "does not accept mail"),
        ("you@nowhere.test", "mx", "stop", "does not exist"),
        ("you@dead.test", "mx", "wait", "did not answer"),
        ("you@private.test", "addresses", "stop", "POSTROOM_NETWORK__ALLOW__MX"),
        ("you@broken.test", "addresses", "wait", "mail waits"),
    ],
)
async def test_where_a_mail_would_end(
    tracing: httpx.AsyncClient, to: str, stops: str, verdict: str, words: str
) -> None:
    found, steps = await traced(tracing, to)
    assert (found, steps[stops]["verdict"]) == (verdict, verdict)
    assert words in steps[stops]["text"]


async def test_without_mx_the_domain_itself_and_test_domains(tracing: httpx.AsyncClient) -> None:
    verdict, steps = await traced(tracing, "you@bare.test")
    assert verdict == "ok" and "its own mail host" in steps["mx"]["text"]
    verdict, steps = await traced(tracing, "bounced@resend.dev")
    assert verdict == "ok" and "mx" not in steps and steps["way"]["facts"] == {"route": "test"}


async def test_what_the_organization_itself_stands_in_the_way_of(
    tracing: httpx.AsyncClient, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await admin.execute(
        "INSERT INTO suppressions (id, org_id, email, origin) VALUES ($1, $2, 'you@good.test', 'complaint')",
        uuid7(),
        org,
    )
    verdict, steps = await traced(tracing, "YOU@good.test")
    assert (verdict, steps["suppression"]["facts"]["origin"]) == ("stop", "complaint")
    await admin.execute("DELETE FROM suppressions")
    await admin.execute("UPDATE organizations SET daily_quota = 1")
    await admin.execute("INSERT INTO usage (org_id, day, sent) VALUES ($1, (now() AT TIME ZONE 'UTC')::date, 1)", org)
    verdict, steps = await traced(tracing, "you@good.test")
    assert (verdict, steps["quota"]["facts"]["daily"]) == ("stop", 1)
    await admin.execute("UPDATE organizations SET daily_quota = 0")
    await tracing.post(f"/v1/domains/{domain}/pause", json={"reason": "spam"})
    verdict, steps = await traced(tracing, "you@good.test")
    assert (verdict, steps["reputation"]["text"]) == ("stop", "postroom.test is paused. spam")
    verdict, steps = await traced(tracing, "you@good.test", **{"from": "me@elsewhere.test"})
    assert verdict == "stop" and "elsewhere.test" in steps["sender"]["text"]


async def test_a_recipient_who_unsubscribed_gets_no_broadcast(
    tracing: httpx.AsyncClient, org: UUID, admin: asyncpg.Connection
) -> None:
    nil = UUID(int=0)
    await admin.execute(
        "INSERT INTO unsubscribes (org_id, recipient, list_id, email_id) VALUES ($1, 'you@good.test', $2, $2)", org, nil
    )
    assert (await traced(tracing, "you@good.test"))[0] == "ok"
    verdict, steps = await traced(tracing, "you@good.test", broadcast="true")
    assert verdict == "stop" and "unsubscribed" in steps["suppression"]["text"]


async def test_a_broadcast_stops_where_the_domain_lacks_what_bulk_senders_must_have(
    tracing: httpx.AsyncClient, admin: asyncpg.Connection, domain: UUID
) -> None:
    verdict, steps = await traced(tracing, "you@good.test", broadcast="true")
    assert (verdict, steps["bulk"]["verdict"]) == ("stop", "stop")
    assert "SPF: " in steps["bulk"]["text"] and "Publish the SPF records" in steps["bulk"]["text"]
    assert steps["bulk"]["facts"]["requirements"]["Unsubscribe"] == "ok"
    verdict, steps = await traced(tracing, "you@good.test")
    assert verdict == "ok" and "bulk" not in steps, "other mail is asked for nothing of it"
    await ready_for_bulk(admin)
    verdict, steps = await traced(tracing, "you@good.test", broadcast="true")
    assert (verdict, steps["bulk"]["verdict"]) == ("ok", "ok")
    assert list(steps) == [*STEPS[:4], "bulk", *STEPS[4:]]
    assert (await tracing.get(f"/v1/domains/{domain}/reputation")).json()["broadcasts"]["allowed"] is True
    await tracing.post(f"/v1/domains/{domain}/pause", json={"reason": "phishing"})
    verdict, steps = await traced(tracing, "you@good.test", broadcast="true")
    assert steps["bulk"]["verdict"] == "stop" and "phishing" in steps["bulk"]["text"]


async def test_a_site_that_rests_and_a_lane_that_waits(tracing: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    for _ in range(3):
        assert (await tracing.post("/emails", json=email(to="you@good.test"))).status_code == 200
    await admin.execute(
        "UPDATE sites SET suspended_until = now() + interval '1 hour', failures = 4, last_reply = '421 too many'"
    )
    verdict, steps = await traced(tracing, "you@good.test")
    assert verdict == "wait" and "421 too many" in steps["site"]["text"] and steps["site"]["facts"]["failures"] == 4
    assert steps["lane"]["facts"]["waiting"] == 3
    await admin.execute('UPDATE sites SET suspended_until = NULL, limits = \'{"connections": 3, "per_minute": 60}\'')
    verdict, steps = await traced(tracing, "you@good.test")
    assert verdict == "ok" and "over 3 connections" in steps["site"]["text"]
    assert {"mails": 60, "seconds": 60.0} in steps["site"]["facts"]["limits"]["rates"]


async def test_mail_that_is_held_waits_and_its_delivery_says_so(
    tracing: httpx.AsyncClient, store: Store, org: UUID
) -> None:
    id_ = (await tracing.post("/emails", json=email(to="you@good.test"))).json()["id"]
    async with store.worker() as db:
        await holds.place(db, None, None, origin="operator", reason="moving house")
    verdict, steps = await traced(tracing, "you@good.test")
    assert (verdict, steps["site"]["facts"]["holds"][0]["reason"]) == ("wait", "moving house")
    (told,) = (await tracing.get(f"/v1/emails/{id_}/deliveries")).json()["data"]
    assert steps["site"]["text"] == "Mail is held until it is resumed: moving house."
    assert (
        told["next_attempt"]["attempt"] == 1
        and "It is held until it is resumed: moving house." in told["next_attempt"]["why"]
    )
    assert (told["next_attempt_at"], told["next_attempt"]["at"]) == (None, None), "nobody knows when"
    async with store.worker() as db:
        await holds.lift(db, None, None)
        await holds.place(db, None, None, origin="rule", reason="450 <someone@else.test> of another organization")
    _, steps = await traced(tracing, "you@good.test")
    (told,) = (await tracing.get(f"/v1/emails/{id_}/deliveries")).json()["data"]
    assert "a rule" in told["next_attempt"]["why"] and "a rule" in steps["site"]["text"]
    assert "else.test" not in str(told) + str(steps), "a site's words may name the recipients of others"


async def test_the_way_of_a_route_and_the_address_of_a_pool(
    tracing: httpx.AsyncClient, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    await ready_for_bulk(admin)
    pool, source, way = uuid7(), uuid7(), uuid7()
    await admin.execute("INSERT INTO pools (id, name) VALUES ($1, 'bulk')", pool)
    await admin.execute("INSERT INTO pool_serves (domain, class, pool_id) VALUES ('', 1, $1)", pool)
    await admin.execute(
        "INSERT INTO sources (id, pool_id, ipv4, ehlo_name) VALUES ($1, $2, '192.0.2.9', 'bulk.test')", source, pool
    )
    await admin.execute(
        "INSERT INTO warmups (id, source_id, state, schedule) VALUES ($1, $2, 'warming', '{50}')", uuid7(), source
    )
    _, steps = await traced(tracing, "you@good.test", broadcast="true")
    assert steps["source"]["facts"]["pool"] == "bulk" and steps["source"]["facts"]["sources"][0]["ipv4"] == "192.0.2.9"
    await admin.execute("UPDATE sources SET paused_at = now()")
    verdict, steps = await traced(tracing, "you@good.test", broadcast="true")
    assert (verdict, steps["source"]["verdict"]) == ("wait", "wait")
    assert (await traced(tracing, "you@good.test"))[0] == "ok", "other mail has nothing to do with it"
    await admin.execute("UPDATE sources SET paused_at = NULL")
    assert (await tracing.post("/emails", json=email(to="you@good.test"))).status_code == 200
    await admin.execute(
        "INSERT INTO source_bars (source_id, place, until, reason) SELECT $1, key, now() + interval '1 hour', 'x' FROM sites",
        source,
    )
    verdict, steps = await traced(tracing, "you@good.test", broadcast="true")
    assert verdict == "wait" and "No address of the pool bulk is taken there now" in steps["source"]["text"]
    assert steps["source"]["facts"]["sources"][0]["barred"] is True

    site = await admin.fetchval("INSERT INTO sites (key) VALUES ('way:relay') RETURNING id")
    await admin.execute(
        "INSERT INTO ways (id, org_id, name, kind, secrets_sealed, site_id) VALUES ($1, $2, 'relay', 'smarthost', '', $3)",
        *(way, org, site),
    )
    await admin.execute(
        "INSERT INTO routes_out (id, org_id, ways) VALUES ($1, $2, $3)", uuid7(), org, [way, UUID(int=0)]
    )
    verdict, steps = await traced(tracing, "you@good.test")
    assert verdict == "ok" and "`relay`, way 1 of 2" in steps["way"]["text"] and "mx" not in steps
    assert steps["site"]["facts"]["key"] == "way:relay"
    await admin.execute("UPDATE sites SET suspended_until = now() + interval '1 hour' WHERE id = $1", site)
    fresh = await traced(tracing, "you@good.test")
    assert fresh[0] == "ok" and "mx" in fresh[1], "the second way of the route is the recipient's own servers"


async def test_only_the_operator_asks_for_another_organization(
    tracing: httpx.AsyncClient, make_client: MakeClient, make_key: MakeKey, make_org: MakeOrg, org: UUID
) -> None:
    other = await make_org()
    theirs = await make_client(await make_key(other))
    refused = await theirs.get("/v1/trace", params={"to": "you@good.test", "org_id": str(org)})
    assert_error(refused, 403, "invalid_permission")
    verdict, steps = await traced(tracing, "you@good.test", org_id=str(other))
    assert verdict == "stop" and "no domain that may send" in steps["sender"]["text"]
    assert_error(await tracing.get("/v1/trace"), 422, "missing_required_parameter", "to")


# ---- deliveries ------------------------------------------------------------------------------------------------------


async def test_conversations_are_kept_for_30_days(
    api: httpx.AsyncClient, store: Store, org: UUID, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    from datetime import timedelta

    from mailcore.flow.upkeep import forget
    from mailcore.kit.ids import lower_bound

    now = datetime.now(UTC)
    old, young = (lower_bound(now - timedelta(days=days)) for days in (31, 29))
    for id_ in (old, young):
        for n in range(3):
            await admin.execute(
                "INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, reply, conversation) "
                "VALUES ($1, $2, 1, $3, now(), 'delivered', 'ok', '[[1, \"said\", \"QUIT\"]]')",
                *(id_, n, org),
            )
    assert await forget(store) == 3
    assert await forget(store) == 0
    rows = await admin.fetch(
        "SELECT email_id, count(*) AS n, count(conversation) AS kept, count(reply) AS replies FROM attempts GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [(old, 3, 0, 3), (young, 3, 3, 3)]
