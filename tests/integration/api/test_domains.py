"""Domains through the API: made, changed, claimed, removed; what is said of each (resend.md §6)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from mailcore.kit.ids import uuid7

from .harness import MakeClient, MakeKey, assert_error, email

MakeOrg = Callable[[], Awaitable[UUID]]
MakeDomain = Callable[[UUID, str], Awaitable[UUID]]


async def _events(admin: asyncpg.Connection) -> list[tuple[str, dict[str, Any]]]:
    rows = await admin.fetch("SELECT type, detail FROM events WHERE type LIKE 'domain.%' ORDER BY id")
    return [(row["type"], row["detail"]) for row in rows]


@pytest.fixture
async def made(api: httpx.AsyncClient) -> dict[str, Any]:
    answer = await api.post("/domains", json={"name": "new.example.com", "capabilities": {"receiving": "enabled"}})
    assert answer.status_code == 201
    found: dict[str, Any] = answer.json()
    return found


async def test_names(api: httpx.AsyncClient) -> None:
    for name, shown, send in (
        ("bücher.example", "xn--bcher-kva.example", "send"),
        ("EXAMPLE.co.uk.", "example.co.uk", "send"),
        ("a.b.example.co.uk", "a.b.example.co.uk", "send.a.b"),
        ("mail.example.com.br", "mail.example.com.br", "send.mail"),
    ):
        answer = (await api.post("/domains", json={"name": name})).json()
        assert (answer["name"], answer["records"][0]["name"]) == (shown, send)
    for name in ("com", "co.uk", "com.br", "xn--55qx5d.cn"):
        words = "full domain name" if "." not in name else "Names are registered below"
        assert_error(await api.post("/domains", json={"name": name}), 422, "validation_error", words)
    too_long = ".".join(["a" * 60] * 3 + ["b" * 10, "example"])
    assert_error(await api.post("/domains", json={"name": too_long}), 422, "validation_error", "at most 189 characters")
    asked = {"name": "x.example", "tracking_subdomain": "send"}
    assert_error(await api.post("/domains", json=asked), 422, "validation_error", "must differ")


async def test_there_is_a_limit(token: str, make_client: MakeClient) -> None:
    api = await make_client(token, domains={"max_per_organization": 2})
    answers = await asyncio.gather(*(api.post("/domains", json={"name": f"d{n}.example"}) for n in range(5)))
    assert sorted(each.status_code for each in answers) == [201, 403, 403, 403, 403], "however many ask at once"
    refused = next(each for each in answers if each.status_code == 403)
    assert_error(refused, 403, "validation_error", "limit of 2 domains")


async def test_each_change_is_an_event(api: httpx.AsyncClient, made: dict[str, Any], admin: asyncpg.Connection) -> None:
    path = f"/domains/{made['id']}"
    await api.patch(path, json={"open_tracking": True})
    await api.patch(path, json={"open_tracking": True})  # changes nothing
    await api.post(f"{path}/verify")
    await api.post(f"{path}/verify")
    await api.delete(path)
    events = await _events(admin)
    assert [(type_, detail["status"]) for type_, detail in events] == [
        ("domain.created", "not_started"),
        ("domain.updated", "not_started"),
        ("domain.updated", "pending"),
        ("domain.deleted", "pending"),
    ]
    for _, detail in events:
        assert {"id", "name", "status", "created_at", "region", "records", "capabilities"} <= set(detail)
        assert [each["record"] for each in detail["records"]] == ["SPF", "SPF", "DKIM", "DKIM", "Receiving MX"]
        assert all({"name", "type", "ttl", "status", "value"} <= set(each) for each in detail["records"])
    assert events[1][1]["open_tracking"] is True


async def test_update(api: httpx.AsyncClient, made: dict[str, Any]) -> None:
    path = f"/domains/{made['id']}"
    asked = {
        "id": made["id"],  # the Python client sends it
        "open_tracking": True,
        "click_tracking": True,
        "tls": "enforced",
        "capabilities": {"receiving": "disabled"},
        "tracking_subdomain": "Links",
    }
    answer = await api.patch(path, json=asked)
    assert (answer.status_code, answer.json()) == (200, {"object": "domain", "id": made["id"]})
    got = (await api.get(path)).json()
    assert (got["open_tracking"], got["click_tracking"], got["tls"]) == (True, True, "enforced")
    assert got["capabilities"] == {"sending": "enabled", "receiving": "disabled"}, "what is not named stays"
    assert got["tracking_subdomain"] == "links"
    assert [each["record"] for each in got["records"]] == ["SPF", "SPF", "DKIM", "DKIM", "Tracking"]
    tracking = got["records"][-1]
    assert (tracking["name"], tracking["type"]) == ("links.new.example.com", "CNAME")
    assert "priority" not in tracking


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"tls": "never"}, "`tls`"),
        ({"open_tracking": "yes"}, "`open_tracking`"),
        ({"capabilities": {"sending": "disabled", "receiving": "disabled"}}, "at least one"),
        ({"capabilities": {"sending": "maybe"}}, "`capabilities.sending`"),
        ({"tracking_subdomain": "-"}, "`tracking_subdomain`"),
        ({"tracking_subdomain": "send"}, "must differ"),
        ([], "JSON object"),
    ],
)
async def test_bad_updates(api: httpx.AsyncClient, made: dict[str, Any], asked: Any, words: str) -> None:
    assert_error(await api.patch(f"/domains/{made['id']}", json=asked), 422, "validation_error", words)
    assert (await api.get(f"/domains/{made['id']}")).json() == {
        "object": "domain",
        **made,
        "custom_return_path": "send",
        "tls": "opportunistic",
    }


async def test_the_tracking_subdomain_changes_once_a_day_and_is_never_lost(
    api: httpx.AsyncClient, made: dict[str, Any], admin: asyncpg.Connection
) -> None:
    path = f"/domains/{made['id']}"
    assert (await api.patch(path, json={"tracking_subdomain": "one"})).status_code == 200
    answer = await api.patch(path, json={"tracking_subdomain": "two"})
    assert_error(answer, 422, "validation_error", "once in 24 hours", "Try again after")
    assert_error(await api.patch(path, json={"tracking_subdomain": None}), 422, "validation_error", "not removed")
    for name in ("two", "one"):
        await admin.execute("UPDATE domains SET tracking_changed_at = tracking_changed_at - interval '25 hours'")
        assert (await api.patch(path, json={"tracking_subdomain": name})).status_code == 200
    got = (await api.get(path)).json()
    names = [each["name"] for each in got["records"] if each["record"] == "Tracking"]
    assert (got["tracking_subdomain"], names) == ("one", ["one.new.example.com", "two.new.example.com"])


async def test_a_verified_domain_that_is_to_receive_too_goes_on_sending(
    api: httpx.AsyncClient, domain: UUID, admin: asyncpg.Connection
) -> None:
    await admin.execute(
        "UPDATE domains SET receiving = false, record_status = "
        """'{"spf_mx": "verified", "spf_txt": "verified", "dkim:rsa": "verified", "dkim:ed25519": "verified"}'"""
    )
    await api.patch(f"/domains/{domain}", json={"capabilities": {"receiving": "enabled"}})
    got = (await api.get(f"/domains/{domain}")).json()
    assert got["status"] == "partially_verified"
    assert [each["status"] for each in got["records"]] == ["verified"] * 4 + ["pending"]
    assert await admin.fetchval("SELECT check_due_at <= now() FROM domains"), "and the DNS is asked"
    assert (await api.post("/emails", json=email())).status_code == 200
    await api.patch(f"/domains/{domain}", json={"capabilities": {"receiving": "disabled"}})
    assert (await api.get(f"/domains/{domain}")).json()["status"] == "verified"


async def test_the_labs_own_domain_stays_verified(
    token: str, make_client: MakeClient, domain: UUID, tmp_path: Path
) -> None:
    api = await make_client(token, catch={"dir": str(tmp_path)})
    got = (await api.get(f"/domains/{domain}")).json()
    assert {each["status"] for each in got["records"]} == {"verified"}, "though nobody has looked"
    for change in ("disabled", "enabled"):
        await api.patch(f"/domains/{domain}", json={"capabilities": {"receiving": change}})
        assert (await api.get(f"/domains/{domain}")).json()["status"] == "verified"


async def test_a_domain_that_only_receives_proves_whose_it_is(api: httpx.AsyncClient) -> None:
    capabilities = {"sending": "disabled", "receiving": "enabled"}
    got = (await api.post("/domains", json={"name": "in.example", "capabilities": capabilities})).json()
    assert [(each["record"], each["type"]) for each in got["records"]] == [("DKIM", "TXT"), ("Receiving", "MX")]


async def test_verify_needs_no_redis(
    token: str, make_client: MakeClient, domain: UUID, admin: asyncpg.Connection
) -> None:
    api = await make_client(token, redis={"url": "redis://127.0.0.1:1/0", "timeout_seconds": 0.05})
    assert (await api.post(f"/domains/{domain}/verify")).json() == {"object": "domain", "id": str(domain)}
    assert await admin.fetchval("SELECT check_due_at <= now() FROM domains"), "the sweep finds it"


async def test_advice_goes_by_how_mail_leaves(token: str, make_client: MakeClient) -> None:
    seen = {}
    for route, settings in (
        ("mx", {"source_ip": "192.0.2.25"}),
        ("smarthost", {"smarthost_host": "relay.test"}),
        ("catch", {}),
    ):
        api = await make_client(token, outbound={"route": route, **settings})
        asked = {"name": f"{route}.example", "click_tracking": True, "capabilities": {"receiving": "enabled"}}
        answer = (await api.post("/domains", json=asked)).json()
        advice = {each["topic"]: each for each in answer["advice"]}
        assert set(advice) == {"ReturnPath", "DMARC", "MTA-STS", "TLS-RPT", "Tracking"}
        assert (advice["DMARC"]["status"], advice["DMARC"]["name"]) == ("unknown", "_dmarc")
        assert advice["DMARC"]["value"] == f"v=DMARC1; p=none; rua=mailto:dmarc@{route}.example"
        assert advice["TLS-RPT"]["name"] == "_smtp._tls"
        assert "mode: testing" in advice["MTA-STS"]["message"]
        seen[route] = (advice["ReturnPath"], answer["records"][1]["value"])
    assert seen["mx"][0]["status"] == "ok" and "192.0.2.25" in seen["mx"][0]["message"]
    assert seen["mx"][1] == '"v=spf1 ip4:192.0.2.25 ~all"'
    assert seen["smarthost"][0]["status"] == "warning" and "POSTROOM_DOMAINS__SPF" in seen["smarthost"][0]["message"]
    assert "catches all mail" in seen["catch"][0]["message"]


async def test_a_lost_record_is_said(api: httpx.AsyncClient, domain: UUID, admin: asyncpg.Connection) -> None:
    await admin.execute(
        """UPDATE domains SET waiting_since = '2026-01-01', record_status = '{"spf_mx": "temporary_failure"}', """
        """seen = '{"spf": {"lookups": 13, "void": 3, "records": 2, "wide_mx": true, "loop": false, "incomplete": true}}'"""
    )
    got = (await api.get(f"/domains/{domain}")).json()
    lost, spf = [each for each in got["advice"] if each["topic"] in ("Records", "SPF")]
    assert (
        lost["status"] == "warning" and "MX send.postroom.test" in lost["message"] and "2026-01-04" in lost["message"]
    )
    assert (
        spf["status"] == "warning" and "at least 13 DNS lookups" in spf["message"] and "2 SPF records" in spf["message"]
    )


# ---- claims -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def other(make_org: MakeOrg, make_key: MakeKey, make_client: MakeClient, domain: UUID) -> httpx.AsyncClient:
    """Another organization, which wants postroom.test."""
    return await make_client(await make_key(await make_org()))


async def test_claim(other: httpx.AsyncClient, api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    assert_error(
        await other.post("/domains", json={"name": "postroom.test"}),
        *(403, "validation_error", "The `postroom.test` domain has been registered already.", "/domains/claim"),
    )
    first = await other.post("/domains/claim", json={"name": "Postroom.test.", "region": "eu-west-1"})
    assert first.status_code == 201
    claim = first.json()
    assert set(claim) == {
        *("object", "id", "name", "status", "domain_id", "region", "record", "blocked_reason", "failure_reason"),
        *("created_at", "expires_at"),
    }
    assert (claim["object"], claim["status"], claim["region"]) == ("domain_claim", "pending", "eu-west-1")
    assert set(claim["record"]) == {"type", "name", "value", "ttl"}
    assert claim["record"]["value"].startswith("resend-domain-verification=")
    assert claim["record"]["name"] == "postroom.test"
    again = await other.post("/domains/claim", json={"name": "postroom.test", "region": "eu-west-1"})
    assert (again.status_code, again.json()) == (200, claim)
    path = f"/domains/{claim['domain_id']}/claim"
    assert (await other.get(path)).json() == claim
    for _ in range(2):
        assert (await other.post(f"{path}/verify")).json() == claim
    assert await admin.fetchval("SELECT check_due_at <= now() FROM domain_claims")
    # its owner sees nothing of it
    assert_error(await api.get(path), 404, "not_found", "Domain not found")
    assert_error(await api.post(f"{path}/verify"), 404, "not_found", "Domain not found")
    assert (await api.get(f"/domains/{uuid4()}/claim")).content == (await api.get(path)).content
    assert (await other.delete(f"/domains/{claim['domain_id']}")).status_code == 200
    assert await admin.fetchval("SELECT status FROM domain_claims") == "canceled"


async def test_of_equal_claims_at_once_one_is_made(other: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    answers = await asyncio.gather(*(other.post("/domains/claim", json={"name": "postroom.test"}) for _ in range(5)))
    assert sorted(each.status_code for each in answers) == [200, 200, 200, 200, 201]
    assert len({each.content for each in answers}) == 1
    assert await admin.fetchval("SELECT count(*) FROM domain_claims") == 1


async def test_bad_claims(other: httpx.AsyncClient, api: httpx.AsyncClient, domain: UUID) -> None:
    ask = other.post
    assert_error(await ask("/domains/claim", json={}), 422, "missing_required_field", "Missing `name` field.")
    assert_error(await ask("/domains/claim", json={"name": "com"}), 422, "validation_error", "`name`")
    assert_error(await ask("/domains/claim", json={"name": "a.example"}), 422, "validation_error", "nothing to claim")
    assert_error(
        await api.post("/domains/claim", json={"name": "postroom.test"}), 403, "validation_error", "registered already"
    )
    assert_error(await api.get(f"/domains/{domain}/claim"), 404, "not_found", "Domain claim not found")
    assert_error(await api.get("/domains/x/claim"), 422, "invalid_parameter", "`id`")


# ---- the sandbox ------------------------------------------------------------------------------------------------------


async def test_all_may_send_from_the_sandbox_to_themselves(
    make_org: MakeOrg,
    make_domain: MakeDomain,
    make_key: MakeKey,
    make_client: MakeClient,
    admin: asyncpg.Connection,
    domain: UUID,
) -> None:
    owner, guest = await make_org(), await make_org()
    sandbox = await make_domain(owner, "try.test")
    user = uuid7()
    await admin.execute("INSERT INTO users (id, email) VALUES ($1, 'Ann@Guest.example')", user)
    await admin.execute("INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, 'owner')", guest, user)
    api = await make_client(await make_key(guest), sandbox={"domain": "Try.test"})
    mine = email(**{"from": "onboarding@try.test", "to": "ann@guest.example"})
    sent = await api.post("/emails", json=mine)
    assert sent.status_code == 200, sent.text
    row = await admin.fetchrow("SELECT org_id, domain_id FROM emails")
    assert row is not None
    assert (row["org_id"], row["domain_id"]) == (guest, sandbox), "signed with the sandbox's keys"
    words = ("You can only send testing emails to your own email address (Ann@Guest.example).", "verify a domain")
    for changed in (
        {"to": "you@example.com"},
        {"to": ["ann@guest.example", "you@example.com"]},
        {"bcc": "b@example.com"},
    ):
        assert_error(await api.post("/emails", json={**mine, **changed}), 403, "validation_error", *words)
    answer = await api.post(
        "/emails/batch", json=[mine, {**mine, "to": "x@example.com"}], headers={"x-batch-validation": "permissive"}
    )
    assert (len(answer.json()["data"]), answer.json()["errors"][0]["index"]) == (1, 1)
    assert "testing emails" in answer.json()["errors"][0]["message"]
    # the owner sends from it as from any of its own
    own = await make_client(await make_key(owner), sandbox={"domain": "try.test"})
    assert (await own.post("/emails", json={**mine, "to": "you@example.com"})).status_code == 200
    # a key for certain domains sends from no other
    limited = await make_client(
        await make_key(guest, permission="sending_access", domain_id=await make_domain(guest, "guest.test")),
        sandbox={"domain": "try.test"},
    )
    assert_error(await limited.post("/emails", json=mine), 403, "validation_error", "`try.test`")
    # and without the setting, or its record, there is none
    off = await make_client(await make_key(guest))
    assert_error(await off.post("/emails", json=mine), 403, "validation_error", "not verified")
    await admin.execute("UPDATE domains SET status = 'failed' WHERE id = $1", sandbox)
    assert_error(await api.post("/emails", json=mine), 403, "validation_error", "not verified")
