"""MTA-STS policies and TLS reports of our own domains, and which hosts may have certificates."""

from __future__ import annotations

import gzip
from datetime import date
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from fakes.dns_server import DnsServer
from integration.api.harness import MakeClient, MakeKey, assert_error
from mailcore.dns.mta_sts import read_policy
from mailcore.dsn import tls_report
from mailcore.dsn.tls_report import GZIP, JSON, Count

WELL_KNOWN = "/.well-known/mta-sts.txt"


async def publish(api: httpx.AsyncClient, domain: UUID, **changes: object) -> dict:
    answer = await api.patch(f"/v1/domains/{domain}/tls", json=changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_policy_is_served_by_the_name_of_its_host(api: httpx.AsyncClient, domain: UUID) -> None:
    host = {"host": "MTA-STS.postroom.test:443"}
    assert_error(await api.get(WELL_KNOWN, headers=host), 404, "not_found")
    made = await publish(api, domain, mode="testing", mx=["*.backup.example", "Mail2.example."])
    assert (made["policy"]["mode"], made["policy"]["max_age"]) == ("testing", 86_400)
    answer = await api.get(WELL_KNOWN, headers={**host, "authorization": ""})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    policy = read_policy(answer.content)
    assert policy.mx == ("mail.localhost", "*.backup.example", "mail2.example")
    assert (await api.head(WELL_KNOWN, headers=host)).status_code == 200
    for other in ("mta-sts.other.test", "postroom.test", "mta-sts.", "mta-sts.a..b", "x" * 300):
        assert (await api.get(WELL_KNOWN, headers={"host": other})).status_code == 404, other


async def test_the_records_tell_which_policy_is_served(api: httpx.AsyncClient, domain: UUID) -> None:
    bare = (await api.get(f"/v1/domains/{domain}/tls")).json()
    assert bare["policy"] is None
    assert [record["record"] for record in bare["records"]] == ["TLS-RPT"]
    first = await publish(api, domain, mode="testing")
    second = await publish(api, domain, mode="enforce")
    assert second["policy"]["max_age"] == 86_400, "what is not given stays"
    again = await publish(api, domain)
    assert again == second == (await api.get(f"/v1/domains/{domain}/tls")).json()
    records = {record["record"]: record for record in second["records"]}
    assert records["MTA-STS"]["name"] == "_mta-sts.postroom.test"
    assert records["MTA-STS"]["value"] == f"v=STSv1; id={second['policy']['id']}"
    assert records["MTA-STS host"] | {"value": ""} == {
        "record": "MTA-STS host",
        "name": "mta-sts.postroom.test",
        "type": "CNAME",
        "value": "",
        "ttl": "Auto",
    }
    assert first["policy"]["id"] != second["policy"]["id"]
    gone = await publish(api, domain, mode=None)
    assert gone == bare


async def test_the_dns_is_asked_for_the_records(
    org: UUID, domain: UUID, make_client: MakeClient, make_key: MakeKey, make_org
) -> None:
    zones: dict[str, dict[str, list[str]]] = {}
    async with DnsServer(zones, ttl=0) as dns:
        api = await make_client(
            await make_key(org),
            dns={"nameservers": [dns.address], "timeout_seconds": 60},
            domains={"tracking_host": "links.here.test"},
            http={"public_url": "https://api.here.test"},
        )

        async def told() -> list[str]:
            answer = await api.post(f"/v1/domains/{domain}/tls/verify")
            assert answer.status_code == 200, answer.text
            return [record["status"] for record in answer.json()["records"]]

        records = (await publish(api, domain, mode="testing"))["records"]
        assert await told() == ["missing"] * 3
        for record in records:
            value = record["value"] + ("." if record["type"] == "CNAME" else "")
            zones[record["name"]] = {record["type"]: [value]}
        assert await told() == ["verified"] * 3
        await publish(api, domain, mode="enforce")
        assert await told() == ["verified", "other", "verified"], "the policy has another id now"
        zones["links.here.test"] = {"A": ["192.0.2.1"]}
        zones["mta-sts.postroom.test"] = {"A": ["192.0.2.1"]}
        zones["_smtp._tls.postroom.test"] = {"TXT": ["v=TLSRPTv1; rua=mailto:somebody@else.example"]}
        assert await told() == ["other", "other", "verified"]
        zones["mta-sts.postroom.test"] = {"A": ["192.0.2.9"]}
        dns.failing = ["_smtp._tls.postroom.test"]
        assert await told() == ["unknown", "other", "other"]
        stranger = await make_client(await make_key(await make_org()))
        assert_error(await stranger.post(f"/v1/domains/{domain}/tls/verify"), 404, "not_found", "Domain not found")


async def test_what_may_not_be_published(
    api: httpx.AsyncClient,
    domain: UUID,
    make_client: MakeClient,
    make_key: MakeKey,
    make_org,
    admin: asyncpg.Connection,
) -> None:
    path = f"/v1/domains/{domain}/tls"
    assert_error(await api.patch(path, json={"max_age": 5}), 422, "validation_error", "mode")
    assert_error(await api.patch(path, json={"mode": "strict"}), 422, "validation_error", "mode")
    assert_error(await api.patch(path, json={"mode": "testing", "mx": ["192.0.2.1"]}), 422, "validation_error", "mx")
    assert_error(await api.patch(path, json={"mode": "testing", "max_age": 31_557_601}), 422, "validation_error")
    await admin.execute("UPDATE domains SET receiving = false")
    assert_error(await api.patch(path, json={"mode": "testing"}), 422, "validation_error", "receiving")
    stranger = await make_client(await make_key(await make_org()))
    for client, id_ in ((stranger, domain), (api, uuid4())):
        assert_error(await client.get(f"/v1/domains/{id_}/tls"), 404, "not_found", "Domain not found")
        assert_error(await client.patch(f"/v1/domains/{id_}/tls", json={"mode": "testing"}), 404, "not_found")


async def test_hosts_that_may_have_a_certificate(
    api: httpx.AsyncClient, domain: UUID, admin: asyncpg.Connection, make_org, make_domain
) -> None:
    async def may(host: str) -> bool:
        answer = await api.get("/v1/tls/ask", params={"domain": host}, headers={"authorization": ""})
        assert answer.status_code in (200, 404)
        return answer.status_code == 200

    await admin.execute("UPDATE domains SET tracking_subdomain = 'links', old_tracking = '{click}'")
    assert [await may(host) for host in ("links.postroom.test", "LINKS.postroom.test.", "click.postroom.test")] == [
        True
    ] * 3
    assert not await may("mta-sts.postroom.test"), "no policy yet"
    await publish(api, domain, mode="testing")
    assert await may("mta-sts.postroom.test")
    for other in (
        "postroom.test",
        "www.postroom.test",
        "mta-sts.links.postroom.test",
        "mta-sts.test",
        "127.0.0.1",
        "",
        "a b",
    ):
        assert not await may(other), other
    assert (await api.get("/v1/tls/ask")).status_code == 404
    listed = (await api.get("/v1/tls/hosts")).json()
    assert {"click.postroom.test", "links.postroom.test", "mta-sts.postroom.test"} <= set(listed["data"])
    page = (await api.get("/v1/tls/hosts", params={"limit": 1, "after": "click.postroom.test"})).json()
    assert (page["data"], page["has_more"]) == (["links.postroom.test"], True)
    await admin.execute("UPDATE domains SET status = 'failed'")
    assert not await may("mta-sts.postroom.test")
    assert not await may("links.postroom.test")


# ---- reports ---------------------------------------------------------------------------------------------------------


def a_report(name: str, report_id: str = "r1") -> bytes:
    counts = [Count({"policy-type": "sts", "policy-domain": name}, {"result-type": "certificate-expired"}, 3)]
    made = tls_report.compose(
        counts, day=date(2026, 3, 1), organization="Sender", contact="c@s.example", report_id=report_id
    )
    return tls_report.packed(made)


async def rua(api: httpx.AsyncClient, domain: UUID) -> str:
    """The path that the TXT record names."""
    record = (await api.get(f"/v1/domains/{domain}/tls")).json()["records"][0]
    assert record["value"].startswith("v=TLSRPTv1; rua=http")
    return "/" + record["value"].split("/", 3)[3]


async def test_reports_come_in_and_are_shown(
    api: httpx.AsyncClient, domain: UUID, make_client: MakeClient, make_key: MakeKey, make_org
) -> None:
    path = await rua(api, domain)
    headers = {"content-type": GZIP, "authorization": ""}
    posted = await api.post(path, content=a_report("postroom.test"), headers=headers)
    assert (posted.status_code, posted.json()["report_id"]) == (201, "r1")
    plain = gzip.decompress(a_report("postroom.test", "r2"))
    assert (await api.post(path, content=plain, headers={**headers, "content-type": JSON})).status_code == 201
    assert (await api.post(path, content=a_report("postroom.test"), headers=headers)).status_code == 200
    listed = (await api.get("/v1/tls/reports", params={"domain_id": str(domain)})).json()["data"]
    assert [(each["report_id"], each["organization"], each["failed_sessions"]) for each in listed] == [
        *(("r2", "Sender", 3), ("r1", "Sender", 3))
    ]
    whole = (await api.get(f"/v1/tls/reports/{listed[1]['id']}")).json()
    assert whole["report"]["policies"][0]["failure-details"][0]["result-type"] == "certificate-expired"
    stranger = await make_client(await make_key(await make_org()))
    assert (await stranger.get("/v1/tls/reports")).json()["data"] == []
    assert_error(await stranger.get(f"/v1/tls/reports/{listed[1]['id']}"), 404, "not_found", "TLS report not found")
    assert_error(await stranger.get("/v1/tls/sent"), 403, "invalid_permission")
    assert_error(await stranger.get("/v1/tls/hosts"), 403, "invalid_permission")
    assert (await api.get("/v1/tls/sent")).json() == {"object": "list", "data": []}


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", JSON, 422),
        (b"\0" * 100, GZIP, 422),
        (gzip.compress(b" " * 9_000_000), GZIP, 422),
        (b"x" * 1_000_001, JSON, 413),
        (a_report("other.test"), GZIP, 422),
        (a_report("postroom.test"), "text/plain", 415),
    ],
    ids=["no JSON", "no gzip", "a bomb", "too long", "about others", "another type"],
)
async def test_what_is_no_report_is_refused(
    api: httpx.AsyncClient, domain: UUID, content: bytes, kind: str, status: int, admin: asyncpg.Connection
) -> None:
    path = await rua(api, domain)
    answer = await api.post(path, content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"statusCode", "name", "message"}
    assert await admin.fetchval("SELECT count(*) FROM received_tls_reports") == 0


async def test_nobody_reports_where_no_record_leads(api: httpx.AsyncClient, domain: UUID) -> None:
    path = await rua(api, domain)
    headers = {"content-type": GZIP}
    changed = path[:-1] + ("A" if path[-1] != "A" else "B")
    for other in (changed, path + "A", "/v1/tls/intake/" + "A" * 56, "/v1/tls/intake/x"):
        assert_error(await api.post(other, content=a_report("postroom.test"), headers=headers), 404, "not_found")
