"""Quotas at the door: what counts, where it stops, with several processes at once, and that nobody waits for a shared row."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from mailcore.blob.local import LocalBlobs
from mailcore.flow import quota
from mailcore.flow.quota import Quotas
from mailcore.flow.submit import NewEmail, Once, Submits
from mailcore.kit.errors import Exceeded
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.store.session import Store


def letter(*to: str) -> NewEmail:
    to = to or ("you@example.com",)
    return NewEmail("a@postroom.test", "postroom.test", list(to), [parse_address(each) for each in to], "Hi", text="Hi")


@pytest.fixture
def make_submits(store: Store, ringer: Ringer, tmp_path: Path):
    def make(**quotas: int) -> Submits:
        return Submits(store, ringer, LocalBlobs(tmp_path / "blobs"), quotas=Quotas(store, **quotas))

    return make


async def used(admin: asyncpg.Connection) -> int:
    total: int = await admin.fetchval(
        "SELECT coalesce(sum(sent), 0)::bigint FROM (SELECT sent FROM usage UNION ALL SELECT sent FROM usage_deltas) t"
    )
    return total


async def test_the_last_that_is_allowed_passes_and_the_next_does_not(
    make_submits, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    submits = make_submits(daily=3)
    await submits.submit(org, [letter("a@example.com", "b@example.com", "A@example.com")], door="test")
    with pytest.raises(Exceeded, match="daily") as refused:
        await submits.submit(org, [letter("c@example.com", "d@example.com")], door="test")
    assert refused.value.name == "daily_quota_exceeded"
    assert (refused.value.temporary, 0 < refused.value.retry_after <= 86_400) == (True, True)
    await submits.submit(org, [letter()], door="test")
    with pytest.raises(Exceeded):
        await submits.submit(org, [letter()], door="test")
    assert await used(admin) == 3
    assert await admin.fetchval("SELECT count(*) FROM emails") == 2


async def test_two_processes_share_a_limit_exactly(
    make_submits, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    both = [make_submits(monthly=50), make_submits(monthly=50)]
    for each in both:  # both have seen an unused quota
        await each.quotas.check(org, 1)
    done = await asyncio.gather(
        *(both[n % 2].submit(org, [letter(f"u{n}@example.com")], door="test") for n in range(120)),
        return_exceptions=True,
    )
    refused = [each for each in done if isinstance(each, BaseException)]
    assert (len(done) - len(refused), {type(each) for each in refused}) == (50, {Exceeded})
    assert await used(admin) == await admin.fetchval("SELECT count(*) FROM deliveries") == 50


async def test_a_limit_of_its_own_wins_over_the_settings(
    make_submits, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    await admin.execute("UPDATE organizations SET daily_quota = 0, monthly_quota = 2 WHERE id = $1", org)
    submits = make_submits(daily=1, monthly=1)
    for _ in range(2):
        await submits.submit(org, [letter()], door="test")
    with pytest.raises(Exceeded) as refused:
        await submits.submit(org, [letter()], door="test")
    assert refused.value.name == "monthly_quota_exceeded"


async def test_yesterday_counts_for_the_month_only(
    make_submits, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    today = await admin.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    first = today.replace(day=1)
    await admin.execute("INSERT INTO usage VALUES ($1, $2::date - 1, 500)", org, first)
    await admin.execute("INSERT INTO usage VALUES ($1, $2, 7)", org, first)
    standing = await make_submits().quotas.exact(org)
    assert (standing.daily, standing.monthly) == (7 if first == today else 0, 7)


async def test_far_from_the_limit_nobody_waits_for_anybody(
    make_submits, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    submits = make_submits(daily=1_000_000)
    await submits.submit(org, [letter()], door="test")
    async with store.door() as db:
        from mailcore.store import usage

        await usage.lock(db, [org])
        async with asyncio.timeout(60):
            await submits.submit(org, [letter()], door="test")
        near = asyncio.ensure_future(make_submits(daily=10).submit(org, [letter()], door="test"))
        await asyncio.sleep(0.2)
        assert not near.done()
    await near
    assert await used(admin) == 3


async def test_as_many_may_be_under_way_in_the_other_groups(store: Store, org: UUID) -> None:
    """Three groups of 20,000 at a time, each far from 60,000 by itself, would exceed it together with the next one."""
    quotas = Quotas(store, daily=60_000)
    await quotas.check(org, 1)
    assert quotas.near([(org, 10_000)]) == []
    assert quotas.near([(org, 20_000)]) == [org]
    assert quotas.near([(org, 10_000)] * 2) == [org]


async def test_sums_are_made_and_nothing_is_counted_twice(
    make_submits, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    submits = make_submits()
    for round_ in range(1, 3):
        for n in range(5):
            await submits.submit(org, [letter(f"a{n}@example.com", f"b{n}@example.com")], door="test")
        await asyncio.gather(*(quota.roll_up(store) for _ in range(3)))
        assert await admin.fetchval("SELECT count(*) FROM usage_deltas") == 0
        assert [row["sent"] for row in await admin.fetch("SELECT sent FROM usage")] == [10 * round_]
    assert (await submits.quotas.exact(org)).daily == 20


async def test_a_refusal_burns_no_idempotency_key_and_a_replay_needs_no_quota(
    make_submits, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    def once(key: str) -> Once:
        return Once("POST /emails", key, b"same", lambda ids: str(ids[0]).encode())

    submits = make_submits(daily=1)
    first = await submits.submit(org, [letter()], door="test", once=once("one"))
    for _ in range(2):
        with pytest.raises(Exceeded):
            await submits.submit(org, [letter()], door="test", once=once("two"))
    again = await submits.submit(org, [letter()], door="test", once=once("one"))
    assert (again.response, again.replayed) == (first.response, True)
    assert await admin.fetchval("SELECT array_agg(key) FROM idempotency_keys") == ["one"]
    await admin.execute("UPDATE organizations SET daily_quota = 2 WHERE id = $1", org)
    await make_submits(daily=1).submit(org, [letter()], door="test", once=once("two"))
    assert await admin.fetchval("SELECT count(*) FROM emails") == 2


async def test_one_tenant_over_quota_keeps_no_other_of_the_group_waiting_for_its_answer(
    make_submits, admin: asyncpg.Connection, org: UUID, domain: UUID, make_org, make_domain
) -> None:
    other = await make_org()
    await make_domain(other, "other.test")
    await admin.execute("UPDATE organizations SET daily_quota = 1 WHERE id = $1", org)
    submits = make_submits()
    await submits.quotas.check(org, 1)
    theirs = NewEmail(
        "a@other.test", "other.test", ["x@example.com"], [parse_address("x@example.com")], "Hi", text="Hi"
    )
    done = await asyncio.gather(
        *(submits.submit(org, [letter()], door="test") for _ in range(10)),
        *(submits.submit(other, [theirs], door="test") for _ in range(10)),
        return_exceptions=True,
    )
    assert [isinstance(each, Exceeded) for each in done].count(True) == 9
    assert not any(isinstance(each, BaseException) for each in done[10:])


async def test_what_is_stored_while_the_sum_is_asked_for_is_told_once(
    store: Store, ringer: Ringer, tmp_path: Path, org: UUID, domain: UUID
) -> None:
    """A sender saw 9, 11, 11 in `x-resend-monthly-quota`: the sum held the mail that was also counted as under way."""
    open_ = asyncio.Event()
    open_.set()

    class Slow:
        async def lookup(self, *asked: Any) -> Any:
            await open_.wait()
            return await store.lookup(*asked)

    quotas = Quotas(Slow())  # type: ignore[arg-type]
    submits = Submits(store, ringer, LocalBlobs(tmp_path / "blobs"), quotas=quotas)
    await submits.submit(org, [letter()], door="test")
    for told in (2, 3):
        open_.clear()
        asking = asyncio.create_task(quotas._ask(org))
        await asyncio.sleep(0)
        await submits.submit(org, [letter()], door="test")
        open_.set()
        await asking
        known = quotas.known(org)
        assert known is not None
        assert (known.daily, known.monthly) == (told, told)
