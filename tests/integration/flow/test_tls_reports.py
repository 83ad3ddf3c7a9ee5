"""TLS reports: sent once by mail and by POST, and taken in about our own domains."""

from __future__ import annotations

import email
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.authority import Authority
from fakes.https_server import HttpsServer
from mailcore.blob.local import LocalBlobs
from mailcore.dns.resolver import StaticResolver
from mailcore.dsn import tls_report
from mailcore.dsn.tls_report import GZIP, Count
from mailcore.flow import tls_reports as door
from mailcore.flow.submit import Submits
from mailcore.flow.tls_reports import Sender, TlsReports, intake_token, read_intake
from mailcore.kit.errors import Exceeded, Invalid, NotFound
from mailcore.kit.guard import Guard, GuardedClient, tls_context
from mailcore.queue.bell import Ringer
from mailcore.store import tls_reports
from mailcore.store.session import Store
from mailcore.store.tls_reports import Counted

YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date()
POLICY = '{"policy-domain": "b.example", "policy-type": "no-policy-found"}'
FAILURE = '{"result-type": "starttls-not-supported"}'
Reports = Callable[[dict[str, list[str]]], TlsReports]


@pytest.fixture
async def host() -> AsyncIterator[tuple[HttpsServer, Authority]]:
    authority = Authority()
    async with HttpsServer(authority.server("localhost").context) as server:
        yield server, authority


@pytest.fixture
async def reports(
    store: Store, ringer: Ringer, domain: UUID, tmp_path: Path, host: tuple[HttpsServer, Authority]
) -> AsyncIterator[Reports]:
    """`reports({"b.example": ["mailto:…"]})`: whoever is asked to send, with these TXT records."""
    context = tls_context()
    context.load_verify_locations(cadata=host[1].pem.decode())
    client = GuardedClient(Guard("mx", [ip_network("127.0.0.0/8"), ip_network("::1/128")]), tls=context)
    submits = Submits(store, ringer, LocalBlobs(tmp_path))

    def make(wanted: dict[str, list[str]]) -> TlsReports:
        zones = {f"_smtp._tls.{name}": {"TXT": [f"v=TLSRPTv1; rua={','.join(uris)}"]} for name, uris in wanted.items()}
        return TlsReports(store, submits, StaticResolver(zones), client, Sender("", ""), spread=0)

    yield make
    await client.close()


async def count(store: Store, sessions: int, failure: str | None = None, day: date = YESTERDAY) -> None:
    digest = f"{day} {failure}".encode()
    async with store.worker() as db:
        await tls_reports.add(db, [Counted(digest, day, "b.example", POLICY, failure, sessions)])


async def state(admin: asyncpg.Connection) -> asyncpg.Record:
    row = await admin.fetchrow("SELECT * FROM tls_reports WHERE domain = 'b.example'")
    assert row is not None
    return row


async def test_a_report_goes_by_mail_and_by_post_once(
    store: Store, reports: Reports, admin: asyncpg.Connection, host: tuple[HttpsServer, Authority]
) -> None:
    await count(store, 3)
    await count(store, 2)
    await count(store, 1, FAILURE)
    await count(store, 9, day=datetime.now(UTC).date())  # today is not over
    host[0].pages["/rpt"] = (201, "text/plain", b"")
    wanted = {"b.example": ["mailto:r@b.example", f"https://localhost:{host[0].port}/rpt"]}
    first, second = reports(wanted), reports(wanted)
    assert [await first.send(), await second.send()] == [1, 0]

    row = await state(admin)
    assert (row["state"], len(row["done"]), row["last_error"]) == ("sent", 2, None)
    sent = await admin.fetchrow("SELECT * FROM emails")
    assert sent is not None
    assert (sent["from_"], sent["to_"]) == ("tls-reports@postroom.test", ["r@b.example"])
    message = email.message_from_bytes(sent["raw"])
    attached: Any = message.get_payload()
    (posted,) = host[0].asked
    assert (posted.method, posted.headers["content-type"]) == ("POST", GZIP)
    assert posted.body == attached[1].get_payload(decode=True)
    report = tls_report.read(posted.body, GZIP)
    assert (report.successful, report.failed, report.report_id) == (5, 1, row["report_id"])
    assert report.begins_at.date() == report.ends_at.date() == YESTERDAY
    left = await admin.fetch("SELECT day FROM tls_results")
    assert [each["day"] for each in left] == [datetime.now(UTC).date()]


async def test_a_host_that_does_not_answer_is_asked_again_and_gets_the_same_report(
    store: Store, reports: Reports, admin: asyncpg.Connection, host: tuple[HttpsServer, Authority]
) -> None:
    await count(store, 1)
    host[0].pages["/rpt"] = (503, "text/plain", b"")
    sender = reports({"b.example": ["mailto:r@b.example", f"https://localhost:{host[0].port}/rpt"]})
    assert await sender.send() == 0
    row = await state(admin)
    assert (row["state"], row["last_error"], row["attempt"]) == ("due", "the host answered 503", 1)
    assert await sender.send() == 0, "it rests"
    host[0].pages["/rpt"] = (200, "text/plain", b"")
    await admin.execute("UPDATE tls_reports SET due_at = now()")
    assert await sender.send() == 1
    assert (await state(admin))["state"] == "sent"
    assert host[0].asked[0].body == host[0].asked[1].body
    assert await admin.fetchval("SELECT count(*) FROM emails") == 1, "the mail had gone"


async def test_who_does_not_want_one_gets_none(store: Store, reports: Reports, admin: asyncpg.Connection) -> None:
    await count(store, 1)
    assert await reports({}).send() == 1
    row = await state(admin)
    assert (row["state"], row["report"]) == ("unwanted", None)
    assert await admin.fetchval("SELECT count(*) FROM emails") == 0
    assert await admin.fetchval("SELECT count(*) FROM tls_results") == 0


async def test_an_address_that_is_none_ends_it_with_the_reason(
    store: Store, reports: Reports, admin: asyncpg.Connection
) -> None:
    await count(store, 1)
    assert await reports({"b.example": ["mailto:nobody", "https://192.168.0.1/x"]}).send() == 1
    row = await state(admin)
    assert row["state"] == "failed"
    assert "closed to mx" in row["last_error"]


# ---- taking in -------------------------------------------------------------------------------------------------------


def report_about(name: str, report_id: str = "1") -> tls_report.Report:
    counts = [Count({"policy-type": "sts", "policy-domain": name}, None, 4)]
    made = tls_report.compose(counts, day=YESTERDAY, organization="A", contact="a@a.example", report_id=report_id)
    return tls_report.read(tls_report.packed(made), GZIP)


async def test_a_report_that_comes_twice_is_one(
    store: Store, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    report = report_about("Postroom.TEST.")
    first = await door.receive(store, org, domain, report, door="https", source="192.0.2.1")
    assert first is not None
    assert await door.receive(store, org, domain, report, door="mail", source="a@a.example") is None
    row = await admin.fetchrow("SELECT * FROM received_tls_reports")
    assert row is not None
    assert (row["id"], row["door"], row["successful"], row["failed"]) == (first, "https", 4, 0)


async def test_what_is_about_somebody_else_is_refused(
    store: Store, org: UUID, domain: UUID, make_org: Callable[[], Awaitable[UUID]]
) -> None:
    with pytest.raises(Invalid, match=r"not about postroom\.test"):
        await door.receive(store, org, domain, report_about("other.test"), door="https", source="")
    with pytest.raises(NotFound):
        await door.receive(store, await make_org(), domain, report_about("postroom.test"), door="https", source="")


async def test_a_days_reports_are_bounded(
    store: Store, org: UUID, domain: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_A_DAY", 2)
    for n in range(2):
        await door.receive(store, org, domain, report_about("postroom.test", str(n)), door="https", source="")
    with pytest.raises(Exceeded):
        await door.receive(store, org, domain, report_about("postroom.test", "2"), door="https", source="")


def test_tokens_of_the_intake() -> None:
    org_id, domain_id = UUID(int=1), UUID(int=2)
    token = intake_token(b"k", org_id, domain_id)
    assert read_intake([b"new", b"k"], token) == (org_id, domain_id)
    assert read_intake([b"other"], token) is None
    for broken in (token[:-1], token + "A", "!" * 56, ("B" if token[0] == "A" else "A") + token[1:], ""):
        assert read_intake([b"k"], broken) is None
