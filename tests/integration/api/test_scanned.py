"""What scanners found, over the API: arrivals that wait, junk, attachments that are not handed out, what a domain wants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from mailcore import blob
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Arrival, Receives
from mailcore.flow.route import Routes
from mailcore.flow.scan import Scans
from mailcore.queue.bell import Ringer
from mailcore.scanners.base import Finding, Kind, Verdict
from mailcore.scanners.null import NullScanner
from mailcore.scanners.registry import Configured
from mailcore.smtp.envelope import Envelope
from mailcore.store import arrivals
from mailcore.store.session import Store

from .harness import PATIENT, MakeClient, MakeKey, assert_error

MAIL = (
    b"From: Ann <ann@sender.example>\r\nTo: support@postroom.test\r\nSubject: %s\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n"
    b'<p>Look</p><img src="cid:logo">\r\n'
    b"--b\r\nContent-Type: image/png\r\nContent-ID: <logo>\r\nContent-Disposition: inline; filename=logo.png\r\n\r\nPNG\r\n"
    b"--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=bill.pdf\r\n\r\n%%PDF\r\n--b--\r\n"
)
TO = "support@postroom.test"


class Scanned:
    def __init__(self, store: Store, ringer: Ringer, folder: Path) -> None:
        self.spamd = NullScanner({b"buy": Finding("spamd", Verdict.SPAM, 20.0, ("BUY",))}, name="spamd")
        self.clamd = NullScanner(
            {b"worm": Finding("clamd", Verdict.INFECTED, tags=("Worm",))}, name="clamd", kind=Kind.MALWARE
        )
        scans = Scans(store, [Configured(self.spamd, False), Configured(self.clamd, False)], again_seconds=60)
        blobs = blob.open((folder / "blobs").as_uri())
        self._store, self._lease = store, WorkerLease(store, "inbound_smtp")
        self._receives = Receives(store, ringer, blobs)
        self._routes = Routes(store, ringer, blobs, scans=scans, patience=PATIENT)

    async def deliver(self, org: UUID, subject: bytes) -> UUID:
        envelope = Envelope("ann@sender.example", (TO,))
        arrival = Arrival(MAIL % subject, envelope, {}, "192.0.2.7", None, "smtp", {org: [TO]})
        taken = await self._receives.receive(arrival)
        await self.route()
        return taken.ids[org]

    async def route(self) -> None:
        await self._lease.enrol()
        async with self._store.worker() as db:
            claimed = await arrivals.claim(db, self._lease.id, 10)
        await self._routes.route(self._lease.id, claimed)
        await self._lease.leave()


Client = tuple[httpx.AsyncClient, Scanned, UUID]


@pytest.fixture
async def there(
    org: UUID,
    domain: UUID,
    store: Store,
    ringer: Ringer,
    tmp_path: Path,
    make_client: MakeClient,
    make_key: MakeKey,
) -> Client:
    return await make_client(await make_key(org)), Scanned(store, ringer, tmp_path), org


Read = Callable[[httpx.AsyncClient, str], Awaitable[Any]]


async def _get(client: httpx.AsyncClient, path: str) -> Any:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_b44_junk_is_listed_apart(there: Client) -> None:
    client, scanned, org = there
    bad, good = await scanned.deliver(org, b"buy"), await scanned.deliver(org, b"hello")
    junk = await _get(client, "/v1/messages?junk=true")
    assert [one["arrival_id"] for one in junk["data"]] == [str(bad)]
    assert junk["data"][0]["junk"] is True
    assert junk["data"][0]["flags"] == ["$Junk"]
    rest = await _get(client, "/v1/messages?junk=false")
    assert [one["arrival_id"] for one in rest["data"]] == [str(good)]
    assert len((await _get(client, "/v1/messages"))["data"]) == 2
    told = await _get(client, f"/v1/messages/{junk['data'][0]['id']}")
    assert [(one["scanner"], one["verdict"]) for one in told["findings"]] == [("spamd", "spam"), ("clamd", "clean")]
    assert {one["scan"] for one in told["attachments"]} == {"clean"}
    assert_error(await client.get("/v1/messages?junk=maybe"), 422, "invalid_parameter")


async def test_c6_what_waits_for_a_scanner_is_seen_waiting(there: Client) -> None:
    client, scanned, org = there
    scanned.clamd.away = True
    waits, other = await scanned.deliver(org, b"hello"), None
    told = await _get(client, f"/v1/arrivals/{waits}")
    assert told["state"] == "pending"
    assert told["pending"]["scanners"] == ["clamd"]
    assert told["queue"]["due_at"] > told["pending"]["since"]
    assert told["decisions"][-1]["decision"] == "pending"
    assert [one["verdict"] for one in told["findings"]] == ["clean", "unavailable"]
    scanned.clamd.away = False
    other = await scanned.deliver(org, b"another")
    assert [one["id"] for one in (await _get(client, "/v1/arrivals?pending=true"))["data"]] == [str(waits)]
    assert [one["id"] for one in (await _get(client, "/v1/arrivals?pending=false"))["data"]] == [str(other)]
    assert len((await _get(client, "/v1/messages"))["data"]) == 1


async def test_d23_infected_attachments_are_not_handed_out(there: Client) -> None:
    client, scanned, org = there
    bad = await scanned.deliver(org, b"worm")
    held = await _get(client, "/v1/quarantine?by=clamd")
    assert [one["id"] for one in held["data"]] == [str(bad)]
    assert "Worm" in held["data"][0]["reason"]
    assert (await client.post(f"/v1/quarantine/{bad}/release")).status_code == 200
    await scanned.route()
    (one,) = (await _get(client, "/v1/messages"))["data"]
    message = await _get(client, f"/v1/messages/{one['id']}")
    assert [(file["scan"], file["download_url"]) for file in message["attachments"]] == [("infected", None)] * 2
    assert "data:" not in message["html"]
    resends = await _get(client, f"/emails/receiving/{bad}?html_format=data_uri")
    assert resends["html_format"] == "cid" and "data:" not in resends["html"]
    # Resend's form of the link is there, and leads to nothing
    files = (await _get(client, f"/emails/receiving/{bad}/attachments"))["data"]
    assert len(files) == 2
    for file in files:
        assert_error(await client.get(file["download_url"]), 403, "infected_attachment")
    assert (await client.get(message["raw"]["download_url"])).status_code == 200
    assert (await _get(client, f"/v1/arrivals/{bad}"))["findings"][1]["tags"] == ["Worm"]


async def test_b45_a_domain_says_what_is_done_with_spam_and_malware(there: Client, domain: UUID) -> None:
    client, scanned, org = there
    path = f"/v1/domains/{domain}/receiving"
    before = await _get(client, path)
    named = ("spam_action", "spam_score", "unsure_score", "malware_action")
    assert [before[name] for name in named] == ["junk", 12, 5, "quarantine"]
    changed = await client.patch(
        path, json={"spam_action": "quarantine", "spam_score": 19.5, "unsure_score": -2, "malware_action": "tag"}
    )
    assert changed.status_code == 200, changed.text
    assert [changed.json()[name] for name in named] == ["quarantine", 19.5, -2, "tag"]
    spam, virus = await scanned.deliver(org, b"buy"), await scanned.deliver(org, b"worm")
    assert (await _get(client, f"/v1/arrivals/{spam}"))["state"] == "quarantined"
    assert (await _get(client, f"/v1/arrivals/{virus}"))["state"] == "routed"
    for wrong in ({"unsure_score": 20}, {"spam_score": "twelve"}, {"spam_score": 1e9}, {"spam_action": "bounce"}):
        assert (await client.patch(path, json=wrong)).status_code == 422, wrong
    again = await _get(client, path)
    assert [again[name] for name in named] == ["quarantine", 19.5, -2, "tag"]


async def test_a_dry_run_of_routes_knows_what_scanners_said(there: Client) -> None:
    client, scanned, org = there
    id_ = await scanned.deliver(org, b"buy")
    route = {"name": "bin", "match": {"verdict": ["spam"], "score": {"min": 15}}, "actions": [{"type": "drop"}]}
    assert (await client.post("/v1/routes", json=route)).status_code == 201
    told = (await client.post("/v1/routes/explain", json={"arrival_id": str(id_)})).json()
    (recipient,) = told["recipients"]
    assert [one["type"] for one in recipient["actions"]] == ["drop"]
