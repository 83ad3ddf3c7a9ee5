"""email.routed: a mail as JSON to the one endpoint that a route names, in Postmark's form and more."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import httpx

from integration.webhooks.harness import Receiver, Run, Tenant
from mailcore import blob, events
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Arrival, Receives
from mailcore.flow.route import Routes
from mailcore.kit.ids import uuid7
from mailcore.smtp.envelope import Envelope
from mailcore.store import arrivals

RAW = (
    b"Received: from a by b; Sat, 21 Nov 2026 08:00:00 +0000\r\nReceived: from c by a; Sat, 21 Nov 2026 07:59:00 +0000\r\n"
    b"From: =?utf-8?q?J=C3=BCrgen?= <j@sender.example>\r\nTo: Support <support+42@postroom.test>, other@elsewhere.example\r\n"
    b"Cc: c@postroom.test\r\nReply-To: answers@sender.example\r\nSubject: =?utf-8?b?SGVsbMO2?=\r\n"
    b"Message-ID: <1@sender.example>\r\n"
    b"Date: Sat, 21 Nov 2026 09:00:00 +0100\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    b"That is fine.\r\n\r\nOn 1 Nov 2026, Support wrote:\r\n> Is that fine?\r\n"
    b"--b\r\nContent-Type: text/csv; name=a.csv\r\nContent-Disposition: attachment; filename=a.csv\r\n\r\na;b\r\n--b--\r\n"
)
POSTMARK = (
    *(
        "FromName",
        "MessageStream",
        "From",
        "FromFull",
        "To",
        "ToFull",
        "Cc",
        "CcFull",
        "Bcc",
        "BccFull",
        "OriginalRecipient",
    ),
    *(
        "Subject",
        "MessageID",
        "ReplyTo",
        "MailboxHash",
        "Date",
        "TextBody",
        "HtmlBody",
        "StrippedTextReply",
        "Tag",
        "Headers",
    ),
    "Attachments",
)
"""The fields of Postmark's inbound JSON, without RawEmail, which one asks for there."""


async def routed(tenant: Tenant, folder: Path, webhook_id: UUID, **action: object) -> UUID:
    """A mail comes in, and its organization's one route posts it."""
    await tenant.admin.execute("DELETE FROM routes")
    await tenant.admin.execute(
        "INSERT INTO routes (id, org_id, position, name, match, actions) VALUES ($1, $2, 1, 'to the app', '{}', $3)",
        *(uuid7(), tenant.org_id, [{"type": "webhook", "webhook_id": str(webhook_id)} | action]),
    )
    blobs = blob.open((folder / "blobs").as_uri())
    to = ["support+42@postroom.test"]
    arrival = Arrival(
        RAW, Envelope("j@sender.example", tuple(to)), {}, "192.0.2.7", uuid7().hex, "smtp", {tenant.org_id: to}
    )
    done = await Receives(tenant.store, tenant.ringer, blobs).receive(arrival)
    lease = WorkerLease(tenant.store, "inbound_smtp")
    await lease.enrol()
    async with tenant.store.worker() as db:
        claimed = await arrivals.claim(db, lease.id, 10)
    assert await Routes(tenant.store, tenant.ringer, blobs, patience=60.0).route(lease.id, claimed) == 1
    return done.ids[tenant.org_id]


async def test_a_mail_is_posted_as_postmark_would_and_more(
    client: httpx.AsyncClient,
    tenant: Tenant,
    receiver: Receiver,
    run: Run,
    tmp_path: Path,
) -> None:
    webhook_id = await tenant.endpoint(receiver.url("/app"), "email.sent")
    await tenant.endpoint(receiver.url("/all"), "*")
    receiver.answers["/app"] = [500, 200]  # it is tried again, as every event is
    id_ = await routed(tenant, tmp_path, webhook_id)
    async with run(retry_schedule=[0.05]):
        await tenant.until_empty()
    first, again = receiver.at("/app")
    assert (first.id, [json.loads(post.body)["type"] for post in receiver.at("/all")]) == (again.id, ["email.received"])
    secret = tenant.secrets[webhook_id]
    assert events.verify(secret, again.headers, again.body, now=float(again.headers["webhook-timestamp"])) == again.id
    told = json.loads(again.body)
    assert set(POSTMARK) <= set(told)
    jane = {"Email": "j@sender.example", "Name": "Jürgen", "MailboxHash": ""}
    assert (told["From"], told["FromName"], told["FromFull"]) == ("j@sender.example", "Jürgen", jane)
    assert told["To"] == '"Support" <support+42@postroom.test>, other@elsewhere.example'
    assert told["ToFull"][0] == {"Email": "support+42@postroom.test", "Name": "Support", "MailboxHash": "42"}
    assert (told["Cc"], told["BccFull"], told["ReplyTo"]) == ("c@postroom.test", [], "answers@sender.example")
    assert (told["OriginalRecipient"], told["MailboxHash"]) == ("support+42@postroom.test", "42")
    assert (told["MessageID"], told["Subject"], told["Date"]) == (str(id_), "Hellö", "Sat, 21 Nov 2026 09:00:00 +0100")
    assert told["StrippedTextReply"] == "That is fine."
    assert told["TextBody"].startswith("That is fine.") and "> Is that fine?" in told["TextBody"]
    names = [each["Name"] for each in told["Headers"]]
    assert names[:3] == ["Received", "Received", "From"] and "Message-ID" in names and "MIME-Version" in names
    # beyond Postmark's
    assert told["Envelope"] == {"From": "j@sender.example", "To": ["support+42@postroom.test"]}
    assert told["Route"]["name"] == "to the app"
    assert (told["type"], told["data"]["email_id"], told["Omitted"]) == ("email.routed", str(id_), [])
    (file,) = told["Attachments"]
    assert (file["Name"], file["ContentType"], file["ContentLength"], "Content" in file) == (
        "a.csv",
        "text/csv",
        3,
        False,
    )
    for url, content in ((file["DownloadUrl"], b"a;b"), (told["RawDownloadUrl"], RAW)):
        parts = urlsplit(url)
        answer = await client.get(f"{parts.path}?{parts.query}", headers={"authorization": ""})
        assert (answer.status_code, answer.content) == (200, content)


async def test_attachments_go_along_where_the_route_asks_for_it(
    client: httpx.AsyncClient,
    tenant: Tenant,
    receiver: Receiver,
    run: Run,
    tmp_path: Path,
) -> None:
    webhook_id = await tenant.endpoint(receiver.url("/app"), "email.sent")
    id_ = await routed(tenant, tmp_path, webhook_id, inline_attachments=True)
    async with run():
        await tenant.until_empty()
    (post,) = receiver.at("/app")
    (file,) = json.loads(post.body)["Attachments"]
    assert base64.b64decode(file["Content"]) == b"a;b"
    # the history of the endpoint shows the same, with links of now
    history = (await client.get(f"/webhooks/{webhook_id}/events")).json()["data"]
    shown = (await client.get(f"/webhooks/{webhook_id}/events/{history[0]['id']}")).json()["payload"]
    assert (shown["MessageID"], shown["Attachments"][0]["Content"]) == (str(id_), file["Content"])
