"""Events of one email one after another, where the endpoint asks for it."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict

import asyncpg

from integration.webhooks.harness import Post, Receiver, Run, Tenant
from mailcore import events
from mailcore.store import webhooks

TYPES = ("email.sent", "email.delivered", "email.opened", "email.clicked")


def _told(post: Post) -> tuple[str, str]:
    body = json.loads(post.body)
    return body["data"]["email_id"], body["type"]


async def test_the_events_of_an_email_in_their_order(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    """The first post of each email fails twice; other emails wait for none of it."""
    failures: dict[str, int] = defaultdict(int)
    answered: list[tuple[str, str]] = []

    def judge(post: Post) -> int:
        told = _told(post)
        if told[1] == "email.sent" and failures[told[0]] < 2:
            failures[told[0]] += 1
            return 500
        answered.append(told)
        return 200

    receiver.judge = judge
    await tenant.endpoint(receiver.url(), *TYPES, ordered=True)
    emails = [await tenant.email() for _ in range(8)]
    for type_ in TYPES:
        for email_id in emails:
            await tenant.raise_events(1, type_, object_id=email_id)
        await asyncio.sleep(0.002)  # ids sort by the millisecond
    async with run(retry_schedule=[0.2, 0.2, 0.2], sweep_seconds=60):
        await tenant.until_empty()
    by_email: dict[str, list[str]] = defaultdict(list)
    for email_id, type_ in answered:
        by_email[email_id].append(type_)
    assert set(by_email) == {str(id_) for id_ in emails}
    assert {tuple(types) for types in by_email.values()} == {TYPES}
    assert await tenant.states() == {"success": 32}


async def test_without_asking_nobody_waits(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    receiver.judge = lambda post: 500 if _told(post)[1] == "email.sent" else 200
    await tenant.endpoint(receiver.url(), *TYPES)
    email_id = await tenant.email()
    async with run(retry_schedule=[3600.0]):
        await tenant.raise_events(1, "email.sent", object_id=email_id)
        await tenant.raise_events(1, "email.delivered", object_id=email_id)
        await tenant.until_state("success")
    assert await tenant.states() == {"attempting": 1, "success": 1}


async def test_an_event_that_fails_holds_up_the_others_for_four_attempts(
    tenant: Tenant, receiver: Receiver, run: Run, admin: asyncpg.Connection
) -> None:
    receiver.judge = lambda post: 500 if _told(post)[1] == "email.sent" else 200
    webhook_id = await tenant.endpoint(receiver.url(), *TYPES, ordered=True)
    email_id, other = await tenant.email(), await tenant.email()
    [first] = await tenant.raise_events(1, "email.sent", object_id=email_id)
    await asyncio.sleep(0.002)
    [second] = await tenant.raise_events(1, "email.delivered", object_id=email_id)
    [elsewhere] = await tenant.raise_events(1, "email.delivered", object_id=other)
    async with run(retry_schedule=[0.1, 0.1, 0.1, 3600.0], sweep_seconds=60):
        await receiver.until(lambda: events.message_id(second, webhook_id) in [post.id for post in receiver.posts])
        await tenant.until_state("success")
    order = [post.id for post in receiver.posts if post.id != events.message_id(elsewhere, webhook_id)]
    assert order == [events.message_id(first, webhook_id)] * 4 + [events.message_id(second, webhook_id)]
    states = dict(await admin.fetch("SELECT event_id, state FROM webhook_deliveries"))
    assert states == {first: "attempting", second: "success", elsewhere: "success"}


async def test_a_line_that_waits_is_put_off_and_not_looked_at_again_and_again(
    tenant: Tenant, receiver: Receiver, run: Run, admin: asyncpg.Connection
) -> None:
    receiver.answers["/hook"] = [500]
    await tenant.endpoint(receiver.url(), *TYPES, ordered=True)
    email_id = await tenant.email()
    await tenant.raise_events(1, "email.sent", object_id=email_id)
    await asyncio.sleep(0.002)
    await tenant.raise_events(20, "email.opened", object_id=email_id)
    async with run(retry_schedule=[3600.0], sweep_seconds=0.1):
        await tenant.until_state("attempting")
        await tenant.until(lambda: admin.fetchval("SELECT bool_and(due_at > now()) FROM webhook_queue"))
    assert len(receiver.posts) == 1


async def test_two_processes_keep_the_order(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    await tenant.endpoint(receiver.url(), *TYPES, ordered=True)
    emails = [await tenant.email() for _ in range(10)]
    async with run(sweep_seconds=0.1), run(sweep_seconds=0.1):
        for type_ in TYPES:
            for email_id in emails:
                await tenant.raise_events(1, type_, object_id=email_id)
            await asyncio.sleep(0.002)
        await tenant.until_empty()
    by_email: dict[str, list[str]] = defaultdict(list)
    for post in receiver.posts:
        email_id, type_ = _told(post)
        by_email[email_id].append(type_)
    assert {tuple(types) for types in by_email.values()} == {TYPES}
    assert len(receiver.posts) == 40


async def test_a_replay_goes_out_of_line(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    receiver.answers["/hook"] = [200, 500]
    webhook_id = await tenant.endpoint(receiver.url(), *TYPES, ordered=True)
    email_id = await tenant.email()
    async with run(retry_schedule=[3600.0]):
        [first] = await tenant.raise_events(1, "email.sent", object_id=email_id)
        await tenant.until_empty()
        async with tenant.store.tenant(tenant.org_id) as db:
            assert await webhooks.replay(db, tenant.org_id, webhook_id, first) == "queued"
        tenant.ring()
        await tenant.until_state("attempting")
        receiver.answers["/hook"] = [200]
        await tenant.raise_events(1, "email.delivered", object_id=email_id)
        await tenant.until_state("success")
    assert await tenant.states() == {"attempting": 1, "success": 1}
