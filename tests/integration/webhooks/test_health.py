"""Endpoints that fail: disabled after five days with notice, or when they ask for it; well again starts afresh."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from integration.webhooks.harness import Receiver, Run, Tenant
from mailcore import events
from mailcore.kit.ids import uuid7
from mailcore.store import webhook_leases
from webhooks import runner
from webhooks.endpoints import SLOW_SECONDS


async def _since(admin: asyncpg.Connection, webhook_id: UUID) -> Any:
    return await admin.fetchval("SELECT failing_since FROM webhooks WHERE id = $1", webhook_id)


async def _owner(admin: asyncpg.Connection, org: UUID, email: str) -> None:
    user_id = uuid7()
    await admin.execute("INSERT INTO users (id, email) VALUES ($1, $2)", user_id, email)
    await admin.execute("INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, 'owner')", org, user_id)


async def test_one_success_ends_a_row_of_failures(
    tenant: Tenant, receiver: Receiver, run: Run, admin: asyncpg.Connection
) -> None:
    receiver.answers["/hook"] = [500, 500, 200]
    webhook_id = await tenant.endpoint(receiver.url())
    async with run(retry_schedule=[3600.0]):
        await tenant.raise_events()
        await tenant.until_state("attempting")
        first = await _since(admin, webhook_id)
        assert first is not None
        await tenant.raise_events()
        failed = "SELECT count(*) = 2 FROM webhook_deliveries WHERE state = 'attempting'"
        await tenant.until(lambda: admin.fetchval(failed))
        assert await _since(admin, webhook_id) == first
        await tenant.raise_events()
        await tenant.until_state("success")
    assert await _since(admin, webhook_id) is None


async def test_an_endpoint_that_only_fails_for_five_days_is_disabled_and_its_owners_are_told(
    client: httpx.AsyncClient,
    tenant: Tenant,
    receiver: Receiver,
    run: Run,
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
) -> None:
    receiver.answers["/hook"] = [500]
    await _owner(admin, org, "owner@example.com")
    webhook_id = await tenant.endpoint(receiver.url())
    await admin.execute("UPDATE webhooks SET failing_since = now() - interval '4 days 23 hours'")
    async with run(retry_schedule=[3600.0]):
        await tenant.raise_events()
        await tenant.until_state("attempting")
        assert (await client.get(f"/webhooks/{webhook_id}")).json()["status"] == "enabled"
        await admin.execute("UPDATE webhooks SET failing_since = now() - interval '5 days'")
        await tenant.raise_events()
        await tenant.until_empty()  # what waited is taken away
        webhook = (await client.get(f"/webhooks/{webhook_id}")).json()
        assert webhook["status"] == "disabled"
        assert webhook["disabled_at"]
        assert webhook["disabled_reason"].startswith("No post to it has succeeded since 20")
        assert await tenant.states() == {"failed": 2}
        await tenant.until(lambda: admin.fetchval("SELECT NOT notice_due FROM webhooks"))
        [mail] = await admin.fetch("SELECT * FROM emails WHERE subject LIKE 'Webhook disabled%'")
        assert (mail["from_"], mail["to_"]) == ("Postroom <webhooks@postroom.test>", ["owner@example.com"])
        assert receiver.url() in mail["text_"]
        assert webhook["disabled_reason"] in mail["text_"]

        # enabled again it starts afresh: one failure is one failure
        await client.patch(f"/webhooks/{webhook_id}", json={"status": "enabled"})
        await tenant.raise_events()
        await receiver.until(lambda: len(receiver.posts) == 3)
        await tenant.until(lambda: admin.fetchval("SELECT failing_since IS NOT NULL FROM webhooks"))
        webhook = (await client.get(f"/webhooks/{webhook_id}")).json()
        assert (webhook["status"], webhook["disabled_at"], webhook["disabled_reason"]) == ("enabled", None, None)
        assert webhook["failing_since"]


async def test_without_a_domain_to_write_from_the_reason_stays_visible(
    client: httpx.AsyncClient, tenant: Tenant, receiver: Receiver, run: Run, admin: asyncpg.Connection, org: UUID
) -> None:
    receiver.answers["/hook"] = [500]
    await _owner(admin, org, "owner@example.com")
    webhook_id = await tenant.endpoint(receiver.url())
    async with run(retry_schedule=[], disable_after_seconds=0.001):
        await tenant.raise_events()
        await tenant.until_empty()
        await tenant.raise_events()
        await tenant.until(lambda: admin.fetchval("SELECT status = 'disabled' AND NOT notice_due FROM webhooks"))
    assert (await client.get(f"/webhooks/{webhook_id}")).json()["disabled_reason"]
    assert await admin.fetchval("SELECT count(*) FROM emails WHERE subject LIKE 'Webhook disabled%'") == 0


async def test_an_owner_who_cannot_be_written_to_holds_up_nothing(
    tenant: Tenant, receiver: Receiver, run: Run, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    await _owner(admin, org, "no address")
    await tenant.endpoint(receiver.url("/off"))
    await admin.execute("UPDATE webhooks SET status = 'disabled', notice_due = true")
    await tenant.endpoint(receiver.url("/on"))
    async with run():
        await tenant.raise_events()
        await tenant.until_empty()
        await tenant.until(lambda: admin.fetchval("SELECT NOT bool_or(notice_due) FROM webhooks"))
    assert len(receiver.at("/on")) == 1


@pytest.mark.parametrize(("status", "state"), [(500, "failed"), (200, "success")])
async def test_an_endpoint_that_asks_for_it_is_disabled(
    client: httpx.AsyncClient, tenant: Tenant, receiver: Receiver, run: Run, status: int, state: str
) -> None:
    receiver.answers["/hook"] = [status]
    receiver.said["/hook"] = {"Webhook-Delivery": "disable"}
    webhook_id = await tenant.endpoint(receiver.url())
    async with run(retry_schedule=[0.01] * 5):
        await tenant.raise_events()
        await tenant.until_empty()
    assert len(receiver.posts) == 1
    assert await tenant.states() == {state: 1}
    webhook = (await client.get(f"/webhooks/{webhook_id}")).json()
    assert (webhook["status"], webhook["disabled_reason"]) == (
        "disabled",
        "It answered with webhook-delivery: disable.",
    )


async def test_an_event_that_the_endpoint_never_wants_again(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    receiver.answers["/hook"] = [400]
    receiver.said["/hook"] = {"webhook-delivery": " Abort-Message"}
    await tenant.endpoint(receiver.url())
    async with run(retry_schedule=[0.01] * 5):
        await tenant.raise_events()
        await tenant.until_empty()
    assert len(receiver.posts) == 1
    assert await tenant.states() == {"failed": 1}


async def test_an_endpoint_that_closes_without_a_word(tenant: Tenant, receiver: Receiver, run: Run) -> None:
    receiver.answers["/hook"] = [-1, 200]
    await tenant.endpoint(receiver.url())
    async with run(retry_schedule=[0.05]):
        await tenant.raise_events()
        await tenant.until_empty()
    attempts = await tenant.admin.fetch("SELECT http_status, response FROM webhook_attempts ORDER BY attempt")
    assert [row["http_status"] for row in attempts] == [None, 200]
    assert "did not answer properly" in attempts[0]["response"]


# ---- posts that kill their worker --------------------------------------------------------------------------------------


async def _die_with(admin: asyncpg.Connection, event_id: UUID, *, leased_at: str = "now()") -> None:
    """As a worker leaves it that was killed and whose row in `workers` is gone."""
    await admin.execute(
        "UPDATE webhook_queue SET worker = 999, attempt = attempt + 1, due_at = now() + interval '1 hour', "
        f"leased_at = {leased_at} WHERE event_id = $1",
        event_id,
    )


async def test_an_event_whose_worker_dies_each_time_is_failed_with_the_reason(
    client: httpx.AsyncClient, tenant: Tenant, receiver: Receiver, run: Run, admin: asyncpg.Connection
) -> None:
    webhook_id = await tenant.endpoint(receiver.url("/off"))
    bad, good = await tenant.raise_events(2)
    await admin.execute("UPDATE webhook_queue SET crashes = 3 WHERE event_id = $1", bad)
    await _die_with(admin, bad)
    await _die_with(admin, good, leased_at="now() - interval '1 second'")
    async with run():
        await tenant.until_empty()
    assert [post.id for post in receiver.posts] == [events.message_id(good, webhook_id)]
    assert await tenant.states() == {"failed": 1, "success": 1}
    path = f"/webhooks/{webhook_id}/events/{events.message_id(bad, webhook_id)}"
    [attempt] = (await client.get(f"{path}/attempts")).json()["data"]
    assert attempt["http_status_code"] == 0
    assert "died each time, 4 times" in attempt["response"]
    assert (await client.post(f"{path}/replay")).status_code == 200
    async with run():
        await tenant.until_empty()
    assert await tenant.states() == {"success": 2}


async def test_the_one_it_took_last_is_blamed(tenant: Tenant, receiver: Receiver, admin: asyncpg.Connection) -> None:
    await tenant.endpoint(receiver.url())
    waiting, last, plain, alive = ids = await tenant.raise_events(4)
    await admin.execute("UPDATE webhook_queue SET crashes = 1 WHERE event_id = ANY ($1)", [waiting, last])
    await _die_with(admin, waiting, leased_at="now() - interval '2 seconds'")
    await _die_with(admin, last, leased_at="now() - interval '1 second'")
    await _die_with(admin, plain)
    async with tenant.store.worker() as db:
        assert await webhook_leases.take_back(db) == (3, [])
    rows = await admin.fetch("SELECT event_id, crashes, attempt, worker FROM webhook_queue")
    assert {row["event_id"]: row["crashes"] for row in rows} == {waiting: 1, last: 2, plain: 1, alive: 0}
    assert {(row["attempt"], row["worker"]) for row in rows} == {(0, None)}
    assert len(ids) == 4


@pytest.mark.parametrize("slow_seconds", [3600.0, SLOW_SECONDS])
async def test_suspects_go_one_by_one_beside_the_others(
    tenant: Tenant,
    receiver: Receiver,
    run: Run,
    admin: asyncpg.Connection,
    slow_seconds: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "SLOW_SECONDS", slow_seconds)
    receiver.answers["/hung"] = [0]
    suspect = await tenant.endpoint(receiver.url("/hung"))
    await tenant.endpoint(receiver.url("/good"))
    await tenant.raise_events(3)
    await admin.execute("UPDATE webhook_queue SET crashes = 1 WHERE webhook_id = $1", suspect)
    in_hand = "SELECT count(*) FROM webhook_queue WHERE worker IS NOT NULL AND crashes > 0"
    async with run(timeout_seconds=60):
        await receiver.until(lambda: len(receiver.at("/hung")) >= 1 and len(receiver.at("/good")) == 3)
        if slow_seconds > SLOW_SECONDS:
            assert await admin.fetchval(in_hand) == len(receiver.at("/hung")) == 1
        else:  # a suspect that waits for its endpoint kills nobody: after a second the next one goes
            await receiver.until(lambda: len(receiver.at("/hung")) >= 2)
            assert await admin.fetchval(in_hand) >= 2
        receiver.released.set()
        await tenant.until_empty()
    assert len(receiver.at("/hung")) == 3
    assert await tenant.states() == {"success": 6}
