"""email.received with the mail's text in the post, where the endpoint asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import httpx

from integration.webhooks.harness import Receiver, Run, Tenant
from mailcore import blob, events
from mailcore.flow.bodies import MAX_CHARACTERS
from mailcore.kit.ids import uuid7

RAW = (
    b"From: a@x.test\r\nTo: support@postroom.test\r\nSubject: Hi\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/alternative; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n<p>%b</p>\r\n--b--\r\n"
)


async def _arrival(tenant: Tenant, raw: bytes | None, raw_blob: str | None = None) -> UUID:
    arrival_id = uuid7()
    await tenant.admin.execute(
        "INSERT INTO arrivals (id, org_id, door, source, mail_from, rcpt_to, size, sha256, raw, raw_blob, created_at, summary) "
        "VALUES ($1, $2, 'smtp', '192.0.2.1', 'a@x.test', '{support@postroom.test}', 1, '', $3, $4, now(), $5)",
        arrival_id,
        tenant.org_id,
        raw,
        raw_blob,
        {"from": "a@x.test", "to": ["support@postroom.test"], "subject": "Hi", "message_id": "<1@m>"},
    )
    return arrival_id


async def test_a_body_only_for_those_who_ask(
    client: httpx.AsyncClient, tenant: Tenant, receiver: Receiver, run: Run, tmp_path: Path
) -> None:
    await tenant.endpoint(receiver.url("/plain"), "email.received")
    asked = {"endpoint": receiver.url("/full"), "events": ["email.received"], "include_body": True}
    webhook_id = UUID((await client.post("/webhooks", json=asked)).json()["id"])
    small = RAW % b"hi"
    large = RAW % (b"x" * (MAX_CHARACTERS + 1))
    key = f"{tenant.org_id}/{uuid7()}"
    await blob.open((tmp_path / "blobs").as_uri()).put(key, large)
    arrivals = [
        await _arrival(tenant, small),
        await _arrival(tenant, None, key),
        await _arrival(tenant, None, "gone/x"),
    ]
    async with run():
        raised = [
            (await tenant.raise_events(1, "email.received", object_id=id_, recipients=None))[0] for id_ in arrivals
        ]
        await tenant.until_empty()
    told = {(data := json.loads(post.body)["data"])["email_id"]: data for post in receiver.at("/full")}
    plain = {(data := json.loads(post.body)["data"])["email_id"]: data for post in receiver.at("/plain")}
    assert all("text" not in data and "html" not in data for data in plain.values())
    first, second, third = (told[str(id_)] for id_ in arrivals)
    assert first == plain[str(arrivals[0])] | {
        "html": "<p>hi</p>",
        "text": "Grüße",
        "headers": first["headers"],
        "body_omitted": False,
    }
    assert first["headers"]["subject"] == "Hi"
    assert (second["html"], second["text"], second["body_omitted"]) == (None, "Grüße", True)
    assert (third["html"], third["text"], third["headers"], third["body_omitted"]) == (None, None, None, True)
    path = f"/webhooks/{webhook_id}/events/{events.message_id(raised[0], webhook_id)}"
    assert (await client.get(path)).json()["payload"]["data"] == first
