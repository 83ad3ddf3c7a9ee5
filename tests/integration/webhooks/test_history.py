"""What an endpoint got, over the API: events, attempts, replays, and secrets in rotation."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import httpx
import standardwebhooks
import svix

from integration.webhooks.harness import Receiver, Run, Tenant, refused
from mailcore import events
from mailcore.kit.ids import uuid7


async def _webhook(client: httpx.AsyncClient, url: str, *types: str, **more: object) -> tuple[UUID, str]:
    answer = await client.post("/webhooks", json={"endpoint": url, "events": types or ["*"], **more})
    assert answer.status_code == 201, answer.text
    return UUID(answer.json()["id"]), answer.json()["signing_secret"]


async def test_events_attempts_and_a_replay(
    client: httpx.AsyncClient, tenant: Tenant, receiver: Receiver, run: Run
) -> None:
    receiver.answers["/hook"] = [500, 200, 200]
    webhook_id, _ = await _webhook(client, receiver.url())
    email_id = await tenant.email()
    path = f"/webhooks/{webhook_id}/events"
    async with run(retry_schedule=[0.1]):
        [event_id] = await tenant.raise_events(object_id=email_id)
        await tenant.until_empty()
        listed = (await client.get(path)).json()
        message = events.message_id(event_id, webhook_id)
        assert (listed["object"], listed["has_more"]) == ("list", False)
        [row] = listed["data"]
        assert set(row) == {"id", "type", "created_at", "status"}
        assert (row["id"], row["type"], row["status"]) == (message, "email.delivered", "success")
        assert receiver.posts[0].id == message

        got = (await client.get(f"{path}/{message}")).json()
        assert got == row | {
            "object": "webhook_event",
            "next_attempt_at": None,
            "payload": json.loads(receiver.posts[0].body),
        }
        assert got["payload"]["data"]["email_id"] == str(email_id)

        replayed = await client.post(f"{path}/{message}/replay")
        assert (replayed.status_code, replayed.json()) == (200, {"object": "webhook_event", "id": message})
        await tenant.until_empty()
    assert [post.id for post in receiver.posts] == [message] * 3
    assert len({post.body for post in receiver.posts}) == 1
    attempts = (await client.get(f"{path}/{message}/attempts")).json()
    assert [one["http_status_code"] for one in attempts["data"]] == [200, 200, 500]
    assert set(attempts["data"][0]) == {"id", "http_status_code", "response", "sent_at"}
    assert attempts["data"][0]["response"] == "ok"
    first = (await client.get(f"{path}/{message}/attempts?limit=1")).json()
    assert (first["data"], first["has_more"]) == (attempts["data"][:1], True)
    rest = (await client.get(f"{path}/{message}/attempts?after={first['data'][0]['id']}")).json()
    assert (rest["data"], rest["has_more"]) == (attempts["data"][1:], False)


async def test_a_failed_event_is_replayed_by_the_whole_schedule(
    client: httpx.AsyncClient, tenant: Tenant, receiver: Receiver, run: Run
) -> None:
    receiver.answers["/hook"] = [503]
    webhook_id, _ = await _webhook(client, receiver.url())
    async with run(retry_schedule=[0.05, 0.05]):
        [event_id] = await tenant.raise_events()
        await tenant.until_empty()
        assert len(receiver.posts) == 3
        path = f"/webhooks/{webhook_id}/events/{events.message_id(event_id, webhook_id)}"
        assert (await client.get(path)).json()["status"] == "failed"
        receiver.answers["/hook"] = [503, 503, 200]
        assert (await client.post(f"{path}/replay")).status_code == 200
        await tenant.until_empty()
    assert (await client.get(path)).json()["status"] == "success"
    assert len(receiver.posts) == 6
    statuses = [one["http_status_code"] for one in (await client.get(f"{path}/attempts")).json()["data"]]
    assert statuses == [200, 503, 503, 503, 503, 503]


async def test_what_waits_says_when_and_a_replay_hurries_it(
    client: httpx.AsyncClient, tenant: Tenant, receiver: Receiver, run: Run
) -> None:
    receiver.answers["/hook"] = [500, 200]
    webhook_id, _ = await _webhook(client, receiver.url())
    async with run(retry_schedule=[3600]):
        [event_id] = await tenant.raise_events()
        path = f"/webhooks/{webhook_id}/events/{events.message_id(event_id, webhook_id)}"
        await tenant.until_state("attempting")
        waiting = (await client.get(path)).json()
        assert waiting["status"] == "attempting"
        assert waiting["next_attempt_at"] > waiting["created_at"]
        assert (await client.post(f"{path}/replay")).status_code == 200
        await tenant.until_empty()
    assert [post.path for post in receiver.posts] == ["/hook", "/hook"]


async def test_pages_of_events(client: httpx.AsyncClient, tenant: Tenant) -> None:
    webhook_id, _ = await _webhook(client, "https://a.example/hook")
    await _webhook(client, "https://b.example/hook")
    ids = [events.message_id(id_, webhook_id) for id_ in sorted(await tenant.raise_events(5), reverse=True)]
    path = f"/webhooks/{webhook_id}/events"
    assert [one["id"] for one in (await client.get(path)).json()["data"]] == ids
    page = (await client.get(f"{path}?limit=2&after={ids[0]}")).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == (ids[1:3], True)
    assert {one["status"] for one in page["data"]} == {"pending"}
    for query in ("limit=0", "limit=x", "after=x", f"after={uuid7()}", f"after={events.message_id(uuid7(), uuid7())}"):
        assert refused(await client.get(f"{path}?{query}"))["name"] == "validation_error"


async def test_events_that_are_not_its_own(
    client: httpx.AsyncClient, tenant: Tenant, admin: asyncpg.Connection
) -> None:
    ours, _ = await _webhook(client, "https://a.example/hook")
    other, _ = await _webhook(client, "https://b.example/hook")
    [event_id] = await tenant.raise_events()
    strangers = [events.message_id(event_id, other), events.message_id(uuid7(), ours), "msg_" + "z" * 27]
    for message in strangers:
        for method, path in (("GET", ""), ("POST", "/replay"), ("GET", "/attempts")):
            answer = await client.request(method, f"/webhooks/{ours}/events/{message}{path}")
            assert refused(answer, 404)["message"] == "Webhook event not found"
            gone = await client.request(method, f"/webhooks/{uuid7()}/events/{message}{path}")
            assert refused(gone, 404)["message"] == "Webhook not found"
    for nonsense in ("x", str(uuid7()), "msg_", "msg_" + "é" * 27, "atmpt_" + "0" * 25):
        answer = await client.get(f"/webhooks/{ours}/events/{nonsense}")
        assert refused(answer)["name"] == "invalid_parameter"
    await client.patch(f"/webhooks/{ours}", json={"status": "disabled"})
    message = events.message_id(event_id, ours)
    assert "Enable it" in refused(await client.post(f"/webhooks/{ours}/events/{message}/replay"))["message"]


async def test_a_rotated_secret_signs_for_a_day_beside_the_new_one(
    client: httpx.AsyncClient, tenant: Tenant, receiver: Receiver, run: Run, admin: asyncpg.Connection
) -> None:
    webhook_id, old = await _webhook(client, receiver.url())
    answer = await client.post(f"/webhooks/{webhook_id}/signing-secret/rotate")
    assert answer.status_code == 200
    assert set(answer.json()) == {"object", "id", "signing_secret"}
    new = answer.json()["signing_secret"]
    assert new != old
    assert (await client.get(f"/webhooks/{webhook_id}")).json()["signing_secret"] == new
    left = await admin.fetchval("SELECT extract(epoch FROM old_secrets_until[1] - now())::int FROM webhooks")
    assert 86_300 < left <= 86_400
    async with run():
        await tenant.raise_events()
        await tenant.until_empty()
        await admin.execute("UPDATE webhooks SET old_secrets_until = ARRAY[now()]")
        await tenant.raise_events()
        await tenant.until_empty()
    both, alone = receiver.posts
    assert [part.partition(",")[0] for part in both.headers["svix-signature"].split(" ")] == ["v1", "v1"]
    for secret in (old, new):
        svix.Webhook(secret).verify(both.body, both.headers)
        standardwebhooks.Webhook(secret).verify(both.body, both.headers)
    first = svix.Webhook(new).sign(
        both.id, datetime.fromtimestamp(int(both.headers["svix-timestamp"]), UTC), both.body.decode()
    )
    assert both.headers["svix-signature"].startswith(first)
    assert " " not in alone.headers["svix-signature"]
    svix.Webhook(new).verify(alone.body, alone.headers)
    assert (
        refused(await client.post(f"/webhooks/{uuid7()}/signing-secret/rotate"), 404)["message"] == "Webhook not found"
    )


async def test_many_rotations_keep_the_newest_secrets(client: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    webhook_id, _ = await _webhook(client, "https://a.example/hook")
    for _ in range(6):
        assert (await client.post(f"/webhooks/{webhook_id}/signing-secret/rotate")).status_code == 200
    row = await admin.fetchrow("SELECT old_secrets_sealed, old_secrets_until FROM webhooks")
    assert len(row["old_secrets_sealed"]) == len(row["old_secrets_until"]) == 4
    assert row["old_secrets_until"] == sorted(row["old_secrets_until"], reverse=True)


async def test_mailits_form(client: httpx.AsyncClient, tenant: Tenant, receiver: Receiver, run: Run) -> None:
    made = (await client.post("/webhooks", json={"url": receiver.url(), "events": ["email.sent", "*"]})).json()
    assert {name: made[name] for name in ("url", "events", "active")} == {
        "url": receiver.url(),
        "events": ["*"],
        "active": True,
    }
    off = (await client.patch(f"/webhooks/{made['id']}", json={"active": False})).json()
    assert (off["active"], (await client.get(f"/webhooks/{made['id']}")).json()["status"]) == (False, "disabled")
    await client.patch(f"/webhooks/{made['id']}", json={"active": True})
    async with run():
        await tenant.raise_events(1, "domain.created", detail={"id": "x"})
        await tenant.until_empty()
    [post] = receiver.posts
    assert post.headers["x-webhook-id"] == made["id"]
    at = post.headers["x-webhook-timestamp"]
    assert at == post.headers["svix-timestamp"]
    wanted = hmac.new(made["signing_secret"].encode(), at.encode() + b"." + post.body, hashlib.sha256).hexdigest()
    assert post.headers["x-webhook-signature"] == wanted
