"""What people say of mail over the API: spam or not, senders they block; mail as it is posted, by its link (F-23, F-24, B-43)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from mailcore import blob
from mailcore.flow.lease import WorkerLease
from mailcore.flow.links import MARKED, RECEIVED, Links
from mailcore.flow.receive import Arrival, Receives
from mailcore.flow.route import Routes
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.smtp.envelope import Envelope
from mailcore.store import arrivals
from mailcore.store.session import Store

from .conftest import MASTER_KEY
from .harness import PATIENT, MakeClient, MakeKey, assert_error

GTUBE = (
    b"From: Ann <ann@sender.example>\r\nSubject: offer\r\nX-Spam-Flag: NO\r\n\r\n"
    b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\r\n"
)
HAM = b"From: Ann <ann@sender.example>\r\nSubject: hello\r\n\r\nhello\r\n"
Deliver = Callable[..., Awaitable[UUID]]


@pytest.fixture
def deliver(org: UUID, store: Store, ringer: Ringer, tmp_path: Path) -> Deliver:
    blobs = blob.open((tmp_path / "blobs").as_uri())
    receives, routes = Receives(store, ringer, blobs), Routes(store, ringer, blobs, patience=PATIENT)

    async def deliver(raw: bytes, to: str = "support@postroom.test") -> UUID:
        lease = WorkerLease(store, "inbound_smtp")
        await lease.enrol()
        envelope = Envelope("ann@sender.example", (to,))
        arrival = Arrival(raw, envelope, {}, "192.0.2.7", None, "smtp", {org: [to]})
        id_ = (await receives.receive(arrival)).ids[org]
        async with store.worker() as db:
            claimed = await arrivals.claim(db, lease.id, 10)
        await routes.route(lease.id, claimed)
        await routes.settled()
        return id_

    return deliver


async def test_a_message_is_reported_and_taken_back(api: httpx.AsyncClient, deliver: Deliver) -> None:
    await deliver(HAM)
    (listed,) = (await api.get("/v1/messages")).json()["data"]
    path = f"/v1/messages/{listed['id']}/report"
    assert_error(await api.get(path), 404, "not_found", "Report")
    told = (await api.post(path, json={"spam": True})).json()
    assert (told["object"], told["message_id"], told["spam"], told["state"]) == (
        "report",
        listed["id"],
        True,
        "waiting",
    )
    assert (await api.get(path)).json() == told
    assert (await api.get(f"/v1/messages/{listed['id']}")).json()["flags"] == ["$Junk"]
    assert (await api.post(path, json={"spam": True})).json() == told
    assert (await api.post(path, json={"spam": False})).json()["spam"] is False
    assert (await api.get(f"/v1/messages/{listed['id']}")).json()["flags"] == ["$NotJunk"]
    assert_error(await api.post(path, json={"spam": "yes"}), 422, "validation_error", "spam")
    assert_error(await api.post(f"/v1/messages/{uuid7()}/report", json={"spam": True}), 404, "not_found", "Message")


async def test_a_mirrored_message_is_marked_and_not_learned(
    api: httpx.AsyncClient, org: UUID, admin: asyncpg.Connection, deliver: Deliver
) -> None:
    await deliver(HAM)
    await admin.execute("UPDATE messages SET arrival_id = NULL")
    (listed,) = (await api.get("/v1/messages")).json()["data"]
    told = (await api.post(f"/v1/messages/{listed['id']}/report", json={"spam": True})).json()
    assert told["state"] == "skipped" and "its own server" in told["reason"]
    assert (await api.get(f"/v1/messages/{listed['id']}")).json()["flags"] == ["$Junk"]


async def test_reports_of_a_day_are_limited(token: str, make_client: MakeClient, deliver: Deliver) -> None:
    api = await make_client(token, scanners={"train_per_day": 2})
    await deliver(HAM)
    (listed,) = (await api.get("/v1/messages")).json()["data"]
    for spam in (True, False):
        assert (await api.post(f"/v1/messages/{listed['id']}/report", json={"spam": spam})).status_code == 200
    refused = await api.post(f"/v1/messages/{listed['id']}/report", json={"spam": True})
    assert_error(refused, 429, "rate_limit_exceeded", "tomorrow")
    assert refused.headers["retry-after"] == "3600"


async def test_blocked_senders(
    api: httpx.AsyncClient,
    deliver: Deliver,
    make_org: Callable[[], Awaitable[UUID]],
    make_key: MakeKey,
    make_client: MakeClient,
) -> None:
    await deliver(HAM)
    (box,) = (await api.get("/v1/mailboxes")).json()["data"]
    made = await api.post("/v1/blocked-senders", json={"sender": " Ann@Sender.example", "mailbox_id": box["id"]})
    assert made.status_code == 201, made.text
    one = made.json()
    assert (one["object"], one["sender"], one["mailbox"]) == ("blocked_sender", "ann@sender.example", box["address"])
    again = await api.post("/v1/blocked-senders", json={"sender": "ann@sender.example", "mailbox_id": box["id"]})
    assert again.json()["id"] == one["id"]
    all_ = (await api.post("/v1/blocked-senders", json={"sender": "@BÜCHER.example"})).json()
    assert (all_["sender"], all_["mailbox_id"]) == ("@xn--bcher-kva.example", None)
    for wrong in ("ann", "@", "", "a@b@c", "@10.0.0.1", "\ufdfa" * 21 + "@x.example"):
        assert_error(await api.post("/v1/blocked-senders", json={"sender": wrong}), 422, "validation_error", "sender")
    unknown = await api.post("/v1/blocked-senders", json={"sender": "@x.example", "mailbox_id": str(uuid7())})
    assert_error(unknown, 404, "not_found", "Mailbox")
    assert [each["id"] for each in (await api.get("/v1/blocked-senders")).json()["data"]] == [all_["id"], one["id"]]
    narrow = await api.get("/v1/blocked-senders", params={"mailbox_id": box["id"]})
    assert [each["id"] for each in narrow.json()["data"]] == [one["id"]]
    assert (await api.get(f"/v1/blocked-senders/{one['id']}")).json() == one
    stranger = await make_client(await make_key(await make_org()))
    assert (await stranger.get("/v1/blocked-senders")).json()["data"] == []
    theirs = await stranger.post("/v1/blocked-senders", json={"sender": "@x.example", "mailbox_id": box["id"]})
    assert_error(theirs, 404, "not_found", "Mailbox")
    for call in (stranger.get, stranger.delete):
        assert_error(await call(f"/v1/blocked-senders/{one['id']}"), 404, "not_found", "Blocked sender")
    gone = await api.delete(f"/v1/blocked-senders/{one['id']}")
    assert gone.json() == {"object": "blocked_sender", "id": one["id"], "deleted": True}
    assert_error(await api.delete(f"/v1/blocked-senders/{one['id']}"), 404, "not_found", "Blocked sender")


async def test_a_list_of_blocked_senders_has_an_end(
    api: httpx.AsyncClient, org: UUID, admin: asyncpg.Connection, domain: UUID
) -> None:
    await admin.execute(
        "INSERT INTO blocked_senders (id, org_id, sender) "
        "SELECT gen_random_uuid(), $1, n || '@x.example' FROM generate_series(1, 1000) n",
        org,
    )
    full = await api.post("/v1/blocked-senders", json={"sender": "@x.example"})
    assert_error(full, 422, "validation_error", "1000")
    assert (await api.post("/v1/blocked-senders", json={"sender": "7@x.example"})).status_code == 201


async def test_how_a_domain_tells_verdicts(api: httpx.AsyncClient, domain: UUID) -> None:
    path = f"/v1/domains/{domain}/receiving"
    before = (await api.get(path)).json()
    assert (before["subject_tag"], before["compatible_headers"]) == (None, False)
    after = await api.patch(path, json={"subject_tag": "[SPAM]", "compatible_headers": True})
    assert (after.json()["subject_tag"], after.json()["compatible_headers"]) == ("[SPAM]", True)
    assert (await api.patch(path, json={"subject_tag": None})).json()["subject_tag"] is None
    tags: tuple[Any, ...] = ("", " x", "[SP\r\nAM]", "=?utf-8?q?x?=", "Späm", "x" * 41, 7)
    for wrong in tags:
        assert_error(await api.patch(path, json={"subject_tag": wrong}), 422, "validation_error", "subject_tag")


async def test_the_link_of_a_post_leads_to_the_mail_with_its_verdict(
    api: httpx.AsyncClient, org: UUID, admin: asyncpg.Connection, deliver: Deliver
) -> None:
    hook = uuid7()
    await admin.execute(
        "INSERT INTO webhooks (id, org_id, endpoint, events, secret_sealed) VALUES ($1, $2, 'https://x', '{}', '')",
        hook,
        org,
    )
    await admin.execute(
        "INSERT INTO routes (id, org_id, position, name, match, actions) VALUES ($1, $2, 1, 'r', '{}', $3)",
        *(uuid7(), org, [{"type": "webhook", "webhook_id": str(hook)}]),
    )
    await admin.execute("UPDATE domains SET subject_tag = '[SPAM]', compatible_headers = true")
    arrival = await deliver(GTUBE)
    event = await admin.fetchval("SELECT id FROM events WHERE type = 'email.routed'")
    links = Links(Keyring([bytes.fromhex(MASTER_KEY)]).derive("link"), "http://api.test")
    marked = await api.get(links.file(RECEIVED, org, arrival, f"{MARKED}{event}").url)
    assert marked.status_code == 200, marked.text
    assert marked.content.startswith(b"X-Postroom-Verdict: spam\r\nX-Postroom-Reason: gtube\r\n")
    assert b"X-Spam-Flag: NO" not in marked.content and b"X-Spam-Flag: YES\r\n" in marked.content
    assert marked.content.endswith(b"\r\nSubject: [SPAM] offer\r\n\r\n" + GTUBE.partition(b"\r\n\r\n")[2])
    as_it_came = await api.get(links.file(RECEIVED, org, arrival, "raw").url)
    assert as_it_came.content == GTUBE
    for what in (f"{MARKED}{uuid7()}", f"{MARKED}x"):
        assert (await api.get(links.file(RECEIVED, org, arrival, what).url)).status_code in (404, 422)
