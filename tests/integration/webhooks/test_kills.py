"""The service as a process, killed between a post and its commit (reliability f18)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from integration.webhooks.harness import KEY, Receiver, Tenant
from mailcore import events

pytestmark = pytest.mark.timeout(600)  # each starts some processes, one after the other
Environment = dict[str, str]


def _environment(database_url: str, redis_url: str, **changes: str) -> Environment:
    return {
        "PATH": os.environ["PATH"],
        "POSTROOM_ENCRYPTION_KEY": KEY,
        "POSTROOM_DATABASE__URL": database_url,
        "POSTROOM_REDIS__URL": redis_url,
        "POSTROOM_OPS__PORT": "0",
        "POSTROOM_NETWORK__ALLOW__WEBHOOKS": "127.0.0.0/8",
        "POSTROOM_QUEUE__SWEEP_SECONDS": "0.3",
        "POSTROOM_QUEUE__LEASE_SECONDS": "1",
    } | changes


async def _start(environment: Environment, folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "webhooks", env=environment, cwd=folder, stdout=asyncio.subprocess.DEVNULL
    )


async def test_killed_between_post_and_commit_it_posts_again_with_the_same_id(
    tenant: Tenant, receiver: Receiver, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    webhook_id = await tenant.endpoint(receiver.url())
    [event_id] = await tenant.raise_events()
    process = await _start(_environment(database_url, redis_url, POSTROOM_FAILPOINT="f18"), tmp_path)
    assert await asyncio.wait_for(process.wait(), 100) == 137
    assert len(receiver.posts) == 1
    assert await tenant.states() == {"pending": 1}
    process = await _start(_environment(database_url, redis_url), tmp_path)
    try:
        await tenant.until_empty()
        assert [post.id for post in receiver.posts] == [events.message_id(event_id, webhook_id)] * 2
        assert receiver.posts[0].body == receiver.posts[1].body
        assert await tenant.states() == {"success": 1}
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 100) == 0


async def test_an_event_that_kills_each_worker_is_given_up_with_the_reason(
    tenant: Tenant, receiver: Receiver, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    webhook_id = await tenant.endpoint(receiver.url())
    [event_id] = await tenant.raise_events()
    deadly = _environment(database_url, redis_url, POSTROOM_FAILPOINT="f18")
    deaths = 0
    while True:
        process = await _start(deadly, tmp_path)
        dying, given_up = asyncio.create_task(process.wait()), asyncio.create_task(tenant.until_empty())
        await asyncio.wait([dying, given_up], return_when=asyncio.FIRST_COMPLETED, timeout=100)
        if given_up.done():
            process.terminate()
            assert await asyncio.wait_for(dying, 100) == 0
            break
        given_up.cancel()
        assert dying.result() == 137
        deaths += 1
        assert deaths <= 4
    assert deaths == len(receiver.posts) == 4  # once in company, as it could have been, and three times alone
    assert await tenant.states() == {"failed": 1}
    [attempt] = await tenant.admin.fetch("SELECT event_id, webhook_id, attempt, response FROM webhook_attempts")
    assert (attempt["event_id"], attempt["webhook_id"], attempt["attempt"]) == (event_id, webhook_id, 1)
    assert "died each time, 4 times" in attempt["response"]


async def test_many_kills_lose_nothing(
    tenant: Tenant, receiver: Receiver, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    for n in range(4):
        await tenant.endpoint(receiver.url(f"/{n}"))
    await tenant.raise_events(100)
    kills = 5
    for _ in range(kills):
        process = await _start(_environment(database_url, redis_url, POSTROOM_FAILPOINT="f18:40"), tmp_path)
        assert await asyncio.wait_for(process.wait(), 100) == 137
    process = await _start(_environment(database_url, redis_url), tmp_path)
    try:
        await tenant.until_empty()
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 100) == 0
    seen = Counter(post.id for post in receiver.posts)
    repeats = sum(seen.values()) - len(seen)
    print(f"400 posts, {kills} kills: {len(seen)} arrived, {repeats} repeats")
    assert len(seen) == 400
    assert max(seen.values()) <= 1 + kills
    assert repeats <= kills * 4 * 8  # what was in flight at each kill
    assert await tenant.states() == {"success": 400}
