"""Sites and verbs as the operator asks for them; and that nobody else may."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from mailcore.kit.ids import uuid7
from mailcore.store import bars
from mailcore.store.session import Store

from .harness import MakeClient, MakeKey, assert_error, email

ALL = (
    ("GET", "/v1/sites"),
    ("GET", "/v1/sites/1"),
    ("PATCH", "/v1/sites/1"),
    ("POST", "/v1/sites/1/suspend"),
    ("POST", "/v1/sites/1/resume"),
    ("POST", "/v1/queue/hold"),
    ("POST", "/v1/queue/resume"),
    ("POST", "/v1/queue/flush"),
    ("POST", "/v1/queue/bounce"),
    ("POST", "/v1/queue/purge"),
    ("GET", "/v1/queue/holds"),
    ("GET", "/v1/queue/orders"),
    ("GET", f"/v1/queue/orders/{UUID(int=1)}"),
)


@pytest.mark.parametrize(("method", "path"), ALL)
async def test_only_the_first_organization_operates(
    method: str,
    path: str,
    api: httpx.AsyncClient,
    make_client: MakeClient,
    make_key: MakeKey,
    make_org: Any,
    domain: UUID,
    org: UUID,
) -> None:
    asked: dict[str, Any] = {} if method != "POST" else {"dry_run": True}
    if path.rpartition("/")[2] in ("flush", "bounce", "purge"):
        asked["all"] = True
    mine = await api.request(method, path, json=asked)
    assert mine.status_code in (200, 404), mine.text
    stranger = await make_client(await make_key(await make_org()))
    assert_error(await stranger.request(method, path, json={}), 403, "invalid_permission", "first organization")
    limited = await make_client(await make_key(org, domain_id=domain))
    assert_error(await limited.request(method, path, json={}), 403, "invalid_permission")
    sender = await make_client(await make_key(org, permission="sending_access"))
    assert_error(await sender.request(method, path, json={}), 401, "restricted_api_key")


async def _site(api: httpx.AsyncClient, domain: str = "one.test") -> dict[str, Any]:
    await api.post("/emails", json=email(to=f"you@{domain}"))
    listed = (await api.get("/v1/sites", params={"domain": domain})).json()
    assert len(listed["data"]) == 1
    site: dict[str, Any] = listed["data"][0]
    return site


async def test_a_site_with_its_depth_limits_and_words(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    site = await _site(api)
    assert (site["key"], site["state"], site["depth"]["waiting"]) == ("domain:one.test", "open", 1)
    await admin.execute(
        "UPDATE sites SET key = 'mx:aspmx.l.google.com', failures = 2, suspended_until = now() + interval '1 minute', "
        "last_reply = '421 later', replies = $1 WHERE id = $2",
        [{"at": "x", "code": 421, "enhanced_code": None, "text": "later", "rule": None, "count": 3}],
        int(site["id"]),
    )
    worker = await admin.fetchval("INSERT INTO workers (service, host, pid) VALUES ('outbound', 'h', 1) RETURNING id")
    await admin.execute(
        "INSERT INTO site_shares (site_id, worker, connections, bears, open, rate) VALUES ($1, $2, 10, 2, 1, 12.5)",
        *(int(site["id"]), worker),
    )
    whole = (await api.get(f"/v1/sites/{site['id']}")).json()
    assert (whole["state"], whole["provider"], whole["hosts"]) == ("resting", "google", ["aspmx.l.google.com"])
    assert whole["connections"] == {"limit": 10, "granted": 10, "in_use": 2, "open": 1, "processes": 1}
    assert (whole["rate"], whole["last_failure"], whole["failures"]) == (12.5, "421 later", 2)
    assert whole["limits"]["mails_per_connection"] == 50
    assert whole["domains"] == ["one.test"]
    assert whole["replies"][0]["count"] == 3
    assert whole["rules"][0] == "google 1"
    assert whole["own_limits"]["connections"] is None


async def test_limits_and_rules_are_the_operators(api: httpx.AsyncClient) -> None:
    path = f"/v1/sites/{(await _site(api))['id']}"
    rule = {"match": "go away", "class": "block", "do": "suspend-source", "for": "15m"}
    changed = await api.patch(path, json={"limits": {"connections": 3, "per_minute": 30}, "rules": [rule]})
    assert changed.status_code == 200, changed.text
    body = changed.json()
    assert (body["limits"]["connections"], body["limits"]["per_minute"]) == (3, 30)
    assert body["own_rules"] == [{**rule, "times": 1, "within": "1h"}]
    assert body["rules"][0] == "site 1"
    body = (await api.patch(path, json={"limits": {"per_minute": None}})).json()
    assert (body["own_limits"]["connections"], body["own_limits"]["per_minute"]) == (3, None)
    body = (await api.patch(path, json={"limits": None, "rules": None})).json()
    assert (body["limits"]["connections"], body["own_rules"]) == (20, [])
    for wrong in (
        {"limits": {"connections": 0}},
        {"limits": {"conections": 3}},
        {"limits": {"connections": "3"}},
        {"rules": [{"match": "(", "do": "suspend", "for": "1m"}]},
        {"rules": [{"match": "a(?=b)", "do": "suspend", "for": "1m"}]},
        {"rules": [{"match": "x", "do": "suspend", "for": "1 minute"}]},
        {"rules": [{"match": "x", "class": "bounce", "do": "suspend", "for": "1m"}]},
        {"rules": [rule] * 51},
    ):
        assert_error(await api.patch(path, json=wrong), 422, "validation_error")


async def test_a_list_of_sites(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    for name in ("one.test", "two.test", "three.test"):
        await _site(api, name)
    await admin.execute("DELETE FROM queue WHERE lane_id IN (SELECT id FROM lanes WHERE domain = 'two.test')")
    listed = (await api.get("/v1/sites", params={"limit": 2})).json()
    assert (len(listed["data"]), listed["has_more"]) == (2, True)
    rest = (await api.get("/v1/sites", params={"limit": 2, "after": listed["data"][-1]["id"]})).json()
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    waiting = (await api.get("/v1/sites", params={"waiting": "true"})).json()["data"]
    assert {site["key"] for site in waiting} == {"domain:one.test", "domain:three.test"}
    assert_error(await api.get("/v1/sites", params={"waiting": "maybe"}), 422, "invalid_parameter")
    assert_error(await api.get("/v1/sites", params={"domain": "no domain"}), 422, "invalid_parameter")
    assert_error(await api.get("/v1/sites", params={"after": "x"}), 422, "validation_error")
    for unknown in ("99999", "x", str(uuid4()), "9" * 30):
        assert_error(await api.get(f"/v1/sites/{unknown}"), 404, "not_found", "Site not found")


async def test_depth_of_a_long_queue_is_bounded(
    api: httpx.AsyncClient, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await _site(api)
    monkeypatch.setattr("mailcore.store.site_list.LANE_ROWS", 10)
    monkeypatch.setattr("mailcore.store.site_list.SITE_ROWS", 20)
    lane, org = await admin.fetchrow("SELECT id, org_id FROM lanes WHERE domain = 'one.test'")  # type: ignore[misc]
    await admin.executemany(
        "INSERT INTO queue (email_id, n, org_id, lane_id, due_at) VALUES ($1, 0, $2, $3, $4)",
        [(uuid7(), org, lane, datetime.now(UTC)) for _ in range(30)],
    )
    listed = (await api.get("/v1/sites", params={"domain": "one.test"})).json()["data"][0]["depth"]
    assert (listed["waiting"], listed["at_least"]) == (10, True)
    whole = (await api.get(f"/v1/sites/{site['id']}")).json()["depth"]
    assert (whole["waiting"], whole["at_least"], whole["lanes"]) == (20, True, 1)


async def test_suspend_and_resume(api: httpx.AsyncClient, org: UUID, make_org: Callable[[], Awaitable[UUID]]) -> None:
    path = f"/v1/sites/{(await _site(api))['id']}"
    dry = (await api.post(f"{path}/suspend", json={"dry_run": True})).json()
    assert (dry["dry_run"], dry["order"], dry["touches"]["deliveries"]) == (True, None, 1)
    assert (await api.get(path)).json()["state"] == "open"
    told = (await api.post(f"{path}/suspend", json={"reason": "their maintenance", "seconds": 3600})).json()
    assert (told["order"]["verb"], told["order"]["state"], told["order"]["touched"]) == ("hold", "done", 1)
    site = (await api.get(path)).json()
    assert (site["state"], site["holds"][0]["reason"], site["holds"][0]["origin"]) == (
        "held",
        "their maintenance",
        "operator",
    )
    assert len((await api.get("/v1/queue/holds")).json()["data"]) == 1
    resumed = (await api.post(f"{path}/resume", json={})).json()
    assert len(resumed["holds"]) == 1
    assert (await api.get(path)).json()["state"] == "open"
    one = (await api.post(f"{path}/suspend", json={"organization_id": str(org)})).json()
    assert one["holds"][0]["organization_id"] == str(org)
    site = (await api.get(path)).json()
    assert (site["state"], len(site["holds"])) == ("open", 1)  # for the others
    assert_error(await api.post("/v1/sites/99999/suspend", json={}), 404, "not_found")
    assert_error(await api.post(f"{path}/suspend", json={"organization_id": str(uuid4())}), 404, "not_found")
    assert_error(await api.post(f"{path}/suspend", json={"seconds": 0}), 422, "validation_error")


async def test_a_source_that_is_barred_is_shown_with_both_and_resume_lifts_it(
    api: httpx.AsyncClient, admin: asyncpg.Connection, store: Store
) -> None:
    path = f"/v1/sites/{(await _site(api))['id']}"
    await admin.execute("UPDATE sites SET key = 'mx:acme.mail.protection.outlook.com'")
    pool = (await api.post("/v1/pools", json={"name": "all"})).json()["id"]
    made = {"pool": pool, "ipv4": "203.0.113.7", "ehlo_name": "out7.example.com"}
    source = (await api.post("/v1/sources", json=made)).json()["id"]
    async with store.worker() as db:
        await bars.place(db, UUID(source), "office365", 3600, "rule office365 2: 550 5.7.606 banned")
        await bars.place(db, UUID(source), "mx:elsewhere.test", 3600, "rule default 3: 554 5.7.1 listed")
        await bars.place(db, UUID(source), "mx:acme.mail.protection.outlook.com", 60, "greeting-refused: 554 listed")
    here, at_all = (await api.get(path)).json()["bars"]
    assert (here["site"], here["provider"]) == ("mx:acme.mail.protection.outlook.com", None)
    assert (at_all["site"], at_all["provider"], at_all["source_id"]) == (None, "office365", source)
    assert at_all["reason"].startswith("rule office365 2") and at_all["until"] > at_all["created_at"]
    assert (await api.get("/v1/sites")).json()["data"][0]["bars"] == [here, at_all]
    for shown in ((await api.get(f"/v1/sources/{source}")).json(), (await api.get("/v1/sources")).json()["data"][0]):
        assert {bar["site"] or bar["provider"] for bar in shown["bars"]} == {
            *("office365", "mx:elsewhere.test", "mx:acme.mail.protection.outlook.com"),
        }
    assert (await api.post(f"{path}/resume", json={"dry_run": True})).json()["bars"] == 2
    assert len((await api.get(path)).json()["bars"]) == 2
    assert (await api.post(f"{path}/resume", json={})).json()["bars"] == 2
    assert (await api.get(path)).json()["bars"] == []
    assert len((await api.get(f"/v1/sources/{source}")).json()["bars"]) == 1


async def test_hold_all_and_orders(api: httpx.AsyncClient) -> None:
    await _site(api)
    held = (await api.post("/v1/queue/hold", json={"reason": "stop"})).json()
    assert (held["holds"][0]["site_id"], held["holds"][0]["organization_id"]) == (None, None)
    assert (await api.get("/v1/sites")).json()["data"][0]["state"] == "held"
    assert len((await api.post("/v1/queue/resume", json={})).json()["holds"]) == 1
    dry = (await api.post("/v1/queue/purge", json={"domain": "one.test", "dry_run": True})).json()
    assert dry["touches"]["deliveries"] == 1
    assert dry["touches"]["sample"][0]["recipient"] == "you@one.test"
    ordered = (await api.post("/v1/queue/purge", json={"domain": "One.Test", "class": "transactional"})).json()["order"]
    assert (ordered["state"], ordered["query"]) == ("waiting", {"domain": "one.test", "class": "transactional"})
    assert ordered["ordered_by"].startswith("api key ")
    assert (await api.get(f"/v1/queue/orders/{ordered['id']}")).json() == ordered
    listed = (await api.get("/v1/queue/orders")).json()["data"]
    assert [(each["verb"], each["query"]) for each in listed[1:]] == [("resume", {}), ("hold", {})]
    assert listed[0] == ordered
    assert_error(await api.get(f"/v1/queue/orders/{uuid4()}"), 404, "not_found", "Order not found")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"all": True, "domain": "one.test"},
        {"scheduled": True},
        {"domain": "not a domain"},
        {"class": "bulk"},
        {"site_id": "x"},
        {"email_id": "x"},
        {"older_than_seconds": -1},
        {"domain": "one.test", "older_than": 3600},
        {"domain": "one.test", "dryrun": True},
    ],
)
async def test_an_order_says_which_mail_it_means(wrong: dict[str, Any], api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/queue/bounce", json=wrong)
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/v1/queue/hold", {"organisation_id": str(UUID(int=1))}),
        ("/v1/queue/resume", {"dry-run": True}),
        ("/v1/sites/{site}/suspend", {"second": 60}),
        ("/v1/sites/{site}/resume", {"org_id": str(UUID(int=1))}),
    ],
)
async def test_a_misspelt_key_orders_nothing(path: str, wrong: dict[str, Any], api: httpx.AsyncClient) -> None:
    answer = await api.post(path.format(site=(await _site(api))["id"]), json=wrong)
    assert_error(answer, 422, "validation_error", "There is no such field")
    assert (await api.get("/v1/queue/orders")).json()["data"] == []


async def test_an_order_for_what_does_not_exist(api: httpx.AsyncClient, org: UUID) -> None:
    site = await _site(api)
    mine = await api.post("/v1/queue/flush", json={"site_id": site["id"], "organization_id": str(org)})
    assert mine.json()["order"]["query"] == {"site_id": site["id"], "organization_id": str(org)}
    answer = await api.post("/v1/queue/flush", json={"site_id": "424242"})
    assert_error(answer, 404, "not_found", "Site not found")
    answer = await api.post("/v1/queue/flush", json={"organization_id": str(uuid4()), "dry_run": True})
    assert_error(answer, 404, "not_found", "Organization not found")
