from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
import resend
import standardwebhooks

import suites
from integration.webhooks.harness import Receiver, Run, Tenant
from mailcore import events
from mailcore.kit.ids import uuid7
from mailcore.store import events as event_rows
from mailcore.store.events import NewEvent


async def test_an_event_arrives_once_signed(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    webhook_id = await tenant.endpoint(receiver.url("/hook?x=1"), "email.delivered", "email.bounced")
    await tenant.endpoint(receiver.url("/other"), "email.sent")
    email_id = await tenant.email()
    async with run():
        [event_id] = await tenant.raise_events(object_id=email_id)
        await tenant.until_empty()
    [post] = receiver.posts
    assert post.path == "/hook?x=1"
    assert post.headers["content-type"] == "application/json"
    assert post.headers["user-agent"].startswith("Postroom")
    assert post.headers["host"] == f"127.0.0.1:{receiver.port}"
    for part in ("id", "timestamp", "signature"):
        assert post.headers[f"svix-{part}"] == post.headers[f"webhook-{part}"]
    assert post.id == events.message_id(event_id, webhook_id)
    secret = events.show_secret(tenant.secrets[webhook_id])
    payload = standardwebhooks.Webhook(secret).verify(post.body, post.headers)
    assert payload == resend.Webhooks.verify(
        {
            "payload": post.body.decode(),
            "headers": {part: post.headers[f"svix-{part}"] for part in ("id", "timestamp", "signature")},
            "webhook_secret": secret,
        }
    )
    assert payload["type"] == "email.delivered"
    assert payload["data"] | {"created_at": ""} == {
        "email_id": str(email_id),
        "created_at": "",
        "message_id": "<1@postroom.test>",
        "from": "Acme <a@postroom.test>",
        "to": ["d@y.test"],
        "subject": "Hello",
        "tags": {"category": "confirm"},
    }
    assert await tenant.states() == {"success": 1}
    [attempt] = await tenant.admin.fetch("SELECT attempt, http_status, response FROM webhook_attempts")
    assert tuple(attempt.values()) == (1, 200, "ok")


async def test_a_received_mail(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    await tenant.endpoint(receiver.url(), "email.received")
    arrival_id = await _arrival(tenant)
    async with run():
        await tenant.raise_events(1, "email.received", object_id=arrival_id, recipients=None)
        await tenant.until_empty()
    data = json.loads(receiver.posts[0].body)["data"]
    assert data["from"] == "sender@example.com"
    assert data["received_for"] == ["support@postroom.test"]
    assert data["subject"] == "Hi"
    assert set(data) == {
        *("email_id", "created_at", "from", "to", "bcc", "cc", "received_for", "message_id", "subject", "attachments")
    }


async def _arrival(tenant: Tenant) -> UUID:
    arrival_id = uuid7()
    await tenant.admin.execute(
        "INSERT INTO arrivals (id, org_id, door, source, mail_from, rcpt_to, size, sha256, created_at, summary) "
        "VALUES ($1, $2, 'smtp', '192.0.2.1', 'bounce@example.com', '{support@postroom.test}', 1, '', now(), $3)",
        arrival_id,
        tenant.org_id,
        {
            "from": "sender@example.com",
            "to": ["support@postroom.test"],
            "cc": [],
            "subject": "Hi",
            "message_id": "<1@m>",
        },
    )
    return arrival_id


@pytest.mark.parametrize("status", [500, 404, 301, 302, 303, 307, 308, 429])
async def test_an_answer_that_is_not_2xx_is_tried_again_with_the_same_id(
    tenant: Tenant, receiver: Receiver, run: Run, status: int
) -> None:
    receiver.answers["/hook"] = [status, status, 204]
    receiver.body = b"no \x00" + b"x" * 10_000 if status == 500 else b""
    await tenant.endpoint(receiver.url())
    async with run(retry_schedule=[0.1, 0.1, 0.1], sweep_seconds=60):
        await tenant.raise_events()
        await tenant.until_empty()
    assert [post.path for post in receiver.posts] == ["/hook"] * 3  # the redirect was not followed
    assert len({post.id for post in receiver.posts}) == 1
    assert len({post.body for post in receiver.posts}) == 1
    assert await tenant.states() == {"success": 1}
    attempts = await tenant.admin.fetch("SELECT attempt, http_status, response FROM webhook_attempts ORDER BY attempt")
    assert [tuple(row.values())[:2] for row in attempts] == [(1, status), (2, status), (3, 204)]
    if status == 500:
        assert len(attempts[0]["response"].encode()) <= 4096 + 8
        assert attempts[0]["response"].startswith("no \ufffdxxx")


async def test_silence_is_a_failure(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    receiver.answers["/hook"] = [0, 200]
    await tenant.endpoint(receiver.url())
    # a machine that stands still is silent, too: then there are more attempts
    async with run(retry_schedule=[0.1] * 20, timeout_seconds=0.3):
        await tenant.raise_events()
        await tenant.until_empty()
    attempts = await tenant.admin.fetch("SELECT http_status, response FROM webhook_attempts ORDER BY attempt")
    *silent, answered = attempts
    assert silent and all(row["http_status"] is None and "0.3 s" in row["response"] for row in silent)
    assert answered["http_status"] == 200


async def test_a_used_up_schedule_ends_it(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    receiver.answers["/hook"] = [503]
    await tenant.endpoint(receiver.url())
    async with run(retry_schedule=[0.02] * 7):
        await tenant.raise_events()
        await tenant.until_empty()
    assert len(receiver.posts) == 8
    assert await tenant.states() == {"failed": 1}
    assert await tenant.admin.fetchval("SELECT count(*) FROM webhook_attempts") == 8


async def test_each_attempt_is_signed_with_its_own_time(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    receiver.answers["/hook"] = [500, 200]
    webhook_id = await tenant.endpoint(receiver.url())
    async with run(retry_schedule=[1.2], sweep_seconds=60):
        await tenant.raise_events()
        await tenant.until_empty()
    first, second = receiver.posts
    assert int(second.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"])
    for post in receiver.posts:
        standardwebhooks.Webhook(events.show_secret(tenant.secrets[webhook_id])).verify(post.body, post.headers)


async def test_an_endpoint_that_hangs_delays_no_other(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    receiver.answers["/hung"] = [0]
    for _ in range(6):
        await tenant.endpoint(receiver.url("/hung"))
    await tenant.endpoint(receiver.url("/good"))
    async with run(concurrency=4, endpoint_concurrency=8, timeout_seconds=60, sweep_seconds=60):
        await tenant.raise_events(50)
        await receiver.until(lambda: len(receiver.at("/good")) == 50)
        assert not receiver.released.is_set()
        assert len(receiver.at("/hung")) <= 6 * 2
        await tenant.admin.execute("DELETE FROM webhooks WHERE endpoint LIKE '%/hung'")
        receiver.released.set()
    assert len(receiver.at("/good")) == 50


async def test_no_more_posts_to_one_endpoint_than_its_share(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    receiver.answers["/hook"] = [200] * 20 + [0]
    await tenant.endpoint(receiver.url())
    async with run(endpoint_concurrency=3, timeout_seconds=60):
        await tenant.raise_events(40)
        await receiver.until(lambda: len(receiver.posts) == 23)
        assert await tenant.admin.fetchval("SELECT count(*) FROM webhook_queue WHERE worker IS NOT NULL") <= 3
        receiver.released.set()
        await tenant.until_empty()
    assert len(receiver.posts) == 40


async def test_two_processes_post_nothing_twice(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    for n in range(5):
        await tenant.endpoint(receiver.url(f"/{n}"))
    await tenant.raise_events(100)
    async with run(sweep_seconds=0.1), run(sweep_seconds=0.1):
        for _ in range(5):
            await tenant.raise_events(20)
        await tenant.until_empty()
    assert len(receiver.posts) == 1000
    assert len({post.id for post in receiver.posts}) == 1000
    assert await tenant.states() == {"success": 1000}


async def test_without_redis_the_sweep_finds_it(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    await tenant.endpoint(receiver.url())
    async with run(redis="redis://127.0.0.1:1/0", sweep_seconds=0.2):
        await tenant.until_empty()
        await tenant.raise_events()
        await tenant.until_empty()
    assert len(receiver.posts) == 1


async def test_nothing_goes_to_an_endpoint_that_is_off_or_gone(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    off = await tenant.endpoint(receiver.url("/off"))
    gone = await tenant.endpoint(receiver.url("/gone"))
    await tenant.endpoint(receiver.url("/on"))
    await tenant.raise_events(5)
    await tenant.admin.execute("UPDATE webhooks SET status = 'disabled' WHERE id = $1", off)
    await tenant.admin.execute("DELETE FROM webhooks WHERE id = $1", gone)
    async with run():
        await tenant.until_empty()
        await tenant.raise_events(5)
        await tenant.until_empty()
    assert {post.path for post in receiver.posts} == {"/on"}
    assert await tenant.states() == {"success": 10, "failed": 10}


async def test_a_drain_finishes_what_is_in_hand(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    receiver.answers["/hook"] = [0]
    await tenant.endpoint(receiver.url())
    async with run(timeout_seconds=60) as drain:
        await tenant.raise_events(3)
        await receiver.until(lambda: len(receiver.posts) >= 2)
        draining = asyncio.create_task(drain())
        receiver.released.set()
        await draining
        assert await tenant.admin.fetchval("SELECT count(*) FROM webhook_queue WHERE worker IS NOT NULL") == 0
    assert (await tenant.states())["success"] == len(receiver.posts)


async def test_no_endpoint_of_the_suite_is_connected_to(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    """Written past the API's check, as if the endpoint's meaning had changed since."""
    vectors = suites.vectors("ssrf-vectors")
    hosts = {f"[{v['ip']}]" if ":" in v["ip"] else v["ip"] for v in vectors["ip"] if not v["allow"]}
    hosts |= set(vectors["host_spellings_must_block"]) - {"127.0.0.1.nip.io"}  # asks the DNS: in test_guarded_client
    urls = [f"http://{host}:{receiver.port}/hook" for host in hosts] + vectors["urls_must_block"]
    for url in urls:
        await tenant.endpoint(url)
    async with run(allow=(), retry_schedule=[0.05], sweep_seconds=0.2):
        await tenant.raise_events()
        await tenant.until_empty()
    assert receiver.connections == 0
    assert await tenant.states() == {"failed": len(urls)}
    responses = await tenant.admin.fetch("SELECT http_status, response FROM webhook_attempts")
    assert len(responses) == 2 * len(urls)
    assert all(row["http_status"] is None and row["response"] for row in responses)


async def test_what_a_claim_lost_is_taken_back(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    """The commit of a claim whose answer never came: leased to a living worker that knows nothing of it."""
    await tenant.endpoint(receiver.url())
    async with run(sweep_seconds=0.2):
        while (worker := await tenant.admin.fetchval("SELECT id FROM workers")) is None:
            await asyncio.sleep(0.01)
        async with tenant.admin.transaction():
            [event_id] = await _raise_in(tenant)
            await tenant.admin.execute(
                "UPDATE webhook_queue SET worker = $1, attempt = 1, leased_at = now(), due_at = now() WHERE event_id = $2",
                worker,
                event_id,
            )
        await tenant.until_empty()
    assert len(receiver.posts) == 1
    assert await tenant.admin.fetchval("SELECT attempt FROM webhook_attempts") == 1


async def _raise_in(tenant: Tenant) -> list[UUID]:
    event = NewEvent(uuid7(), tenant.org_id, "email.delivered", await tenant.email(), datetime.now(UTC))
    await event_rows.insert(tenant.admin, [event])
    return [event.id]
