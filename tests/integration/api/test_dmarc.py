"""DMARC reports by the API: uploaded, read, and what they come to."""

from __future__ import annotations

import base64
import gzip
from uuid import UUID, uuid4

import asyncpg
import httpx

from integration.api.harness import MakeClient, MakeKey, assert_error

DAY = 86_400
BEGIN = 1_790_000_000
SPAN = {"start_date": "2026-09-01", "end_date": "2026-10-31"}


def record(ip: str, count: int, dkim: bool, spf: bool, from_: str = "postroom.test", disposition: str = "none") -> str:
    verdict = "".join(f"<{name}>{'pass' if ok else 'fail'}</{name}>" for name, ok in (("dkim", dkim), ("spf", spf)))
    return (
        f"<record><row><source_ip>{ip}</source_ip><count>{count}</count><policy_evaluated><disposition>{disposition}"
        f"</disposition>{verdict}<reason><type>forwarded</type><comment>c</comment></reason></policy_evaluated></row>"
        f"<identifiers><header_from>{from_}</header_from><envelope_from>b.{from_}</envelope_from></identifiers>"
        "<auth_results><spf><domain>b.postroom.test</domain><result>softfail</result></spf></auth_results></record>"
    )


def report(id_: str, *records: str, day: int = 0, domain: str = "postroom.test", by: str = "Big") -> bytes:
    begin = BEGIN + day * DAY
    return (
        f"<feedback><report_metadata><org_name>{by}</org_name><email>d@big.example</email><report_id>{id_}</report_id>"
        f"<date_range><begin>{begin}</begin><end>{begin + DAY - 1}</end></date_range></report_metadata>"
        f"<policy_published><domain>{domain}</domain><p>none</p></policy_published>{''.join(records)}</feedback>"
    ).encode()


async def upload(api: httpx.AsyncClient, octets: bytes) -> httpx.Response:
    return await api.post("/v1/dmarc/reports", json={"content": base64.encodebytes(octets).decode()})


async def test_who_fails_from_where_since_when(api: httpx.AsyncClient, domain: UUID) -> None:
    good, bad, half = "192.0.2.1", "203.0.113.9", "2001:db8::7"
    for n, octets in enumerate(
        (
            report("1", record(good, 100, True, True), record(half, 5, False, True)),
            gzip.compress(report("2", record(good, 50, True, False), record(bad, 7, False, False), day=1)),
            report(
                "3",
                record(bad, 70, False, False, disposition="reject"),
                record(half, 3, False, False),
                day=2,
                by="Other",
            ),
        )
    ):
        answer = await upload(api, octets)
        assert answer.status_code == 201, answer.text
        assert answer.json() | {"id": ""} == {
            **{"object": "dmarc_report", "id": "", "domain": "postroom.test"},
            "report_id": str(n + 1),
        }
    found = (await api.get("/v1/dmarc/sources", params=SPAN)).json()
    assert (found["object"], found["has_more"]) == ("list", False)
    assert [(each["source_ip"], each["messages"], each["passed"], each["failed"]) for each in found["data"]] == [
        (bad, 77, 0, 77),
        (half, 8, 5, 3),
        (good, 150, 150, 0),
    ]
    worst, mixed, best = found["data"]
    assert worst == {
        "source_ip": bad,
        "domain_id": str(domain),
        "domain": "postroom.test",
        **{"messages": 77, "passed": 0, "failed": 77, "quarantined": 0, "rejected": 70},
        "first_seen": "2026-09-22T14:13:20+00:00",
        "last_seen": "2026-09-24T14:13:19+00:00",
        "failing_since": "2026-09-22T14:13:20+00:00",
        "last_failed": "2026-09-24T14:13:19+00:00",
        **{"dkim_aligned": 0, "spf_aligned": 0},
        **{"header_from": ["postroom.test"], "envelope_from": ["b.postroom.test"], "reported_by": ["Big", "Other"]},
    }
    assert (mixed["first_seen"], mixed["failing_since"]) == ("2026-09-21T14:13:20+00:00", "2026-09-23T14:13:20+00:00")
    assert (best["failing_since"], best["dkim_aligned"], best["spf_aligned"]) == (None, 150, 100)
    failing = (await api.get("/v1/dmarc/sources", params=SPAN | {"failing": "true", "limit": 1})).json()
    assert ([each["source_ip"] for each in failing["data"]], failing["has_more"]) == ([bad], True)
    rest = (await api.get("/v1/dmarc/sources", params=SPAN | {"failing": "true", "offset": 1})).json()
    assert [each["source_ip"] for each in rest["data"]] == [half]
    early = {"start_date": "2026-09-01", "end_date": "2026-09-21"}
    assert [each["source_ip"] for each in (await api.get("/v1/dmarc/sources", params=early)).json()["data"]] == [
        *(good, half)
    ]
    assert (await api.get("/v1/dmarc/sources", params=SPAN | {"proven": "true"})).json()["data"] == []
    (of,) = (await api.get("/v1/dmarc/domains", params=SPAN)).json()["data"]
    assert (of["domain"], of["messages"], of["failed"], of["sources"], of["failing_sources"], of["reports"]) == (
        *("postroom.test", 235, 80, 3, 2, 3),
    )
    assert of["failing_since"] == "2026-09-22T14:13:20+00:00"


async def test_a_report_is_read_as_it_came(api: httpx.AsyncClient, domain: UUID) -> None:
    octets = report("x", record("192.0.2.1", 2, True, False), "<record><row/></record>")
    assert (await upload(api, octets)).status_code == 201
    again = await upload(api, octets)
    assert (again.status_code, again.json()["id"]) == (200, None)
    (summary,) = (await api.get("/v1/dmarc/reports", params={"domain_id": str(domain)})).json()["data"]
    assert (
        summary["organization"],
        summary["messages"],
        summary["failed"],
        summary["proven"],
        summary["arrival_id"],
    ) == (*("Big", 2, 0, None, None),)
    found = (await api.get(f"/v1/dmarc/reports/{summary['id']}")).json()
    assert found == summary | {
        "object": "dmarc_report",
        "policy": {"p": "none"},
        "defects": ["a record without an address or a number of messages was passed over"],
        "rows": [
            {
                **{"source_ip": "192.0.2.1", "messages": 2, "dkim_aligned": True, "spf_aligned": False},
                **{"disposition": "none", "header_from": "postroom.test", "envelope_from": "b.postroom.test"},
                "reasons": [{"type": "forwarded", "comment": "c"}],
                "results": {"dkim": [], "spf": [{"domain": "b.postroom.test", "result": "softfail"}]},
            }
        ],
    }


async def test_what_is_refused(api: httpx.AsyncClient) -> None:
    assert_error(await upload(api, b"unused"), 422, "validation_error")
    assert_error(await upload(api, report("1", domain="other.test")), 404, "not_found")
    assert_error(await upload(api, b"x" * 2_000_001), 422, "validation_error")
    for body in ({}, {"content": "a"}, {"content": "%%%%"}, {"content": 1}, {"content": "A" * 3_000_000}):
        assert (await api.post("/v1/dmarc/reports", json=body)).status_code == 422
    assert_error(await api.get(f"/v1/dmarc/reports/{uuid4()}"), 404, "not_found")
    for query in ({"offset": "-1"}, {"offset": "10001"}, {"failing": "x"}, {"limit": "0"}, {"start_date": "x"}):
        assert_error(await api.get("/v1/dmarc/sources", params=query), 422, "validation_error")
    assert (await api.get("/v1/dmarc/sources", params={"domain_id": "x"})).status_code == 422


async def test_nobody_elses(
    api: httpx.AsyncClient, make_client: MakeClient, make_key: MakeKey, make_org, admin: asyncpg.Connection
) -> None:
    assert (await upload(api, report("1", record("192.0.2.1", 2, True, False)))).status_code == 201
    id_ = (await api.get("/v1/dmarc/reports")).json()["data"][0]["id"]
    stranger = await make_client(await make_key(await make_org()))
    for path in ("reports", "sources", "domains"):
        assert (await stranger.get(f"/v1/dmarc/{path}", params=SPAN)).json()["data"] == []
    assert_error(await stranger.get(f"/v1/dmarc/reports/{id_}"), 404, "not_found")
    assert_error(await upload(stranger, report("2")), 404, "not_found")
    assert await admin.fetchval("SELECT count(*) FROM dmarc_reports") == 1
