"""Mail that waits for a source ends, too: told of, then expired, with what it waited for as the reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, until
from integration.outbound.sources_lab import NEW, NOON, Add, Desk, add, clock, desk, pool
from integration.outbound.test_owed import _hand_in
from mailcore.blob.local import LocalBlobs
from mailcore.dsn.parse import parse
from mailcore.dsn.report import Action
from mailcore.flow import delays, reputation, settle, waiting, warmup
from mailcore.flow import sources as flow
from mailcore.flow.owed import Reports
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import UPKEEP
from mailcore.smtp.dsn import DsnRequest, Notify
from mailcore.store import explain, holds
from mailcore.store import waiting as store_waiting
from mailcore.store.session import Store
from mailcore.transport import Hop

__all__ = ["add", "clock", "desk", "pool"]
DAY = 24.0
LIFE, BROADCAST_LIFE, WAITING = 98.0, 2 * DAY, 7 * DAY
"""Hours, as the settings have them."""


async def _expire(store: Store, hours: float) -> int:
    """What upkeep finds so many hours from now."""
    then = datetime.now(UTC) + timedelta(hours=hours)
    befores = [then - timedelta(hours=life) for life in (LIFE, BROADCAST_LIFE, WAITING)]
    return (await settle.expire(store, *befores))[0]


async def _pause_for_good(store: Store, admin: asyncpg.Connection, source: UUID) -> None:
    """The fourth time that peers say they do not want its mail."""
    await admin.execute("UPDATE warmups SET pauses = 3 WHERE source_id = $1", source)
    await admin.execute("UPDATE warmup_days SET attempts = 10, blocked = 10")
    [decided] = await warmup.turn(
        store, await admin.fetchval("SELECT (day + time '12:00') AT TIME ZONE 'UTC' FROM warmup_days")
    )
    assert (decided.state, decided.paused_until) == ("paused", None)


async def test_mail_of_a_pool_that_is_paused_for_good_is_told_of_and_expires(
    desk: Desk, tenant: Tenant, add: Add, store: Store, admin: asyncpg.Connection
) -> None:
    """Password resets waited there for ever, and nobody heard of it."""
    await _pause_for_good(store, admin, await add(NEW, cap=50, now=NOON))
    await flow.add_domain(store, tenant.domain, schedule=[100], now=NOON)
    id_ = await tenant.send("you@example.com")
    assert await desk.send() == {"waits": 1}
    await desk.sources.tick()
    assert await desk.send() == {}, "the room that its domain has is of no use to it: nobody calls it"
    assert (await delays.tell(store, -60, thorough=True))[0] == 1
    assert (await delays.tell(store, -60, thorough=True))[0] == 0
    assert await _expire(store, LIFE - 1) == 0
    row = await tenant.queued(id_)
    assert row is not None and row["attempt"] == 0
    assert await _expire(store, LIFE + 1) == 1
    delivery = await tenant.delivery(id_)
    assert (delivery["state"], delivery["last_event"]) == ("expired", "bounced")
    events = await tenant.events(id_)
    assert [event["type"] for event in events] == ["email.sent", "email.delivery_delayed", "email.bounced"]
    words = "every address of the pool `all` (127.0.0.2) is paused"
    assert events[1]["detail"] == {"delayed": {"reason": words}}
    assert events[2]["detail"]["bounce"]["type"] == "Transient" and words in events[2]["detail"]["bounce"]["message"]
    async with store.tenant(tenant.org_id) as db:
        [shown] = await explain.deliveries(db, id_)
    [attempt] = shown["attempts"]
    assert (attempt["attempt"], attempt["outcome"], attempt["rule"], attempt["reply"]) == (
        1,
        "expired",
        "no-source",
        words,
    )


async def test_mail_for_hosts_that_no_address_of_the_pool_reaches_expires(
    desk: Desk, tenant: Tenant, add: Add, store: Store, admin: asyncpg.Connection
) -> None:
    """IPv4 addresses only, and an MX with IPv6 only; without a pool such mail expires as well."""
    await add(NEW)
    await flow.add_domain(store, tenant.domain, schedule=[100], now=NOON)
    desk.way = replace(desk.way, hops=(Hop("six.test", ("::1",)),))
    ids = [await tenant.send("you@example.com"), await tenant.send("you@example.com", broadcast=True)]
    assert await desk.send() == {"waits": 2}
    await desk.sources.tick()
    assert await desk.send() == {}
    async with store.worker() as db:
        waits = await store_waiting.of_email(db, tenant.org_id, ids[0])
    async with store.tenant(tenant.org_id) as db:
        [shown] = await explain.deliveries(db, ids[0], waits=waits)
    assert "no address of the pool `all` (127.0.0.2) reaches its mail hosts" in shown["next_attempt"]["why"]
    assert (await delays.tell(store, -60, thorough=True))[0] == 2
    assert await _expire(store, BROADCAST_LIFE + 1) == 1
    assert [(await tenant.delivery(id_))["state"] for id_ in ids] == ["queued", "expired"]
    assert await _expire(store, LIFE + 1) == 1
    for id_ in ids:
        assert "no address of the pool `all`" in (await tenant.events(id_))[-1]["detail"]["bounce"]["message"]


async def test_broadcasts_wait_for_room_longer_than_they_are_tried_and_not_for_ever(
    desk: Desk, tenant: Tenant, add: Add, store: Store
) -> None:
    await add(NEW, cap=1, now=NOON)
    [reset, *late] = await tenant.send_each([[f"u{n}@example.com"] for n in range(3)])
    news = await tenant.send_each([[f"v{n}@example.com"] for n in range(2)], broadcast=True)
    rows = await desk.claim()
    kinds = dict.fromkeys((reset, *late), False) | dict.fromkeys(news, True)
    waiting = 0
    for broadcast in (False, True):
        placed = await desk.place([row for row in rows if kinds[row.email_id] is broadcast], broadcast=broadcast)
        waiting += len(placed.waiting)
    assert waiting == 4
    assert (await delays.tell(store, -60, thorough=True))[0] == 2, (
        "of broadcasts that are spread over days nobody is told"
    )
    assert await _expire(store, BROADCAST_LIFE + 1) == 0
    assert await _expire(store, LIFE + 1) == 2
    assert {(await tenant.delivery(id_))["state"] for id_ in news} == {"queued"}
    assert await _expire(store, WAITING + 1) == 2
    for id_ in (*late, *news):
        event = (await tenant.events(id_))[-1]
        words = "what the addresses of the pool `all` (127.0.0.2) may send today is used up"
        assert event["type"] == "email.bounced" and words in event["detail"]["bounce"]["message"]


async def test_nothing_expires_that_is_held_nor_within_a_day_of_it(
    desk: Desk, tenant: Tenant, add: Add, store: Store, admin: asyncpg.Connection
) -> None:
    """For room or for its site, it makes no difference: nobody has tried it since."""
    await _pause_for_good(store, admin, await add(NEW, cap=50, now=NOON))
    await tenant.send("you@example.com")
    assert await desk.send() == {"waits": 1}
    await tenant.send("you@down.example")
    await admin.execute(
        "UPDATE sites s SET failures = 3 FROM recipient_domains r WHERE r.site_id = s.id AND r.domain = 'down.example'"
    )
    async with store.worker() as db:
        await holds.place(db, None, tenant.org_id, origin="operator", reason="a question of payment")
    assert await _expire(store, 30 * DAY) == 0
    async with store.worker() as db:
        assert len(await holds.lift(db, None, tenant.org_id)) == 1
        assert await holds.lift(db, None, tenant.org_id) == await holds.in_force(db) == []
        await holds.forget(db)
    assert await _expire(store, 30 * DAY) == 0
    await admin.execute("UPDATE holds SET until = until - interval '1 day'")
    assert await _expire(store, 30 * DAY) == 2
    async with store.worker() as db:
        await holds.forget(db)
    assert await admin.fetchval("SELECT count(*) FROM holds") == 0


async def test_a_hold_that_ended_by_itself_is_no_other(tenant: Tenant, store: Store, admin: asyncpg.Connection) -> None:
    await tenant.send("you@down.example")
    site = await admin.fetchval("UPDATE sites SET failures = 3 RETURNING id")
    async with store.worker() as db:
        await holds.place(db, site, None, origin="rule", reason="450 later", seconds=3600)
    await admin.execute("UPDATE holds SET until = now() - interval '23 hours'")
    assert await _expire(store, 30 * DAY) == 0
    await admin.execute("UPDATE holds SET until = now() - interval '25 hours'")
    assert await _expire(store, 30 * DAY) == 1


async def test_a_rule_that_holds_again_and_again_keeps_nothing_for_ever(
    tenant: Tenant, store: Store, admin: asyncpg.Connection
) -> None:
    """A peer that refuses us at its greeting, and means it: one mail tries it each time, and the rest would never end."""
    await tenant.send("you@down.example")
    site = await admin.fetchval("UPDATE sites SET failures = 3 RETURNING id")
    async with store.worker() as db:
        await holds.place(db, site, None, origin="operator", reason="looked at first", seconds=3600)
    hours_pass = "UPDATE holds SET until = now() - interval '1 second', created_at = created_at - interval '5 hours'"
    for _ in range(5):
        await admin.execute(hours_pass)
        assert await _expire(store, 30 * DAY) == 0
        async with store.worker() as db:
            assert await holds.place(db, site, None, origin="rule", reason="554 bad reputation", seconds=6 * 3600)
    await admin.execute(hours_pass)
    assert await _expire(store, 30 * DAY) == 1


async def test_a_broadcast_that_a_pause_kept_for_longer_than_it_may_wait_has_a_day_for_room(
    desk: Desk, tenant: Tenant, add: Add, store: Store, ringer: Ringer, domain: UUID, admin: asyncpg.Connection
) -> None:
    """Its domain is resumed, what its pool may send today is used up, and the hourly look comes."""
    await add(NEW, cap=1, now=NOON)
    await tenant.send_each([[f"v{n}@example.com"] for n in range(2)], broadcast=True)
    alarm = await reputation.pause(store, ringer, domain, "for the test")
    await waiting.until_resumed(store, [(row, domain) for row in await desk.claim()])
    assert await _expire(store, WAITING + DAY) == 0
    await reputation.end(store, ringer, alarm["id"])
    assert await waiting.release(store) == 2
    placed = await desk.place(await desk.claim(), broadcast=True)
    assert len(placed.waiting) == 1
    assert await _expire(store, WAITING + DAY) == 0
    await admin.execute("UPDATE alarms SET ended_at = ended_at - interval '1 day'")
    assert await _expire(store, WAITING + DAY) == 1


async def test_what_is_due_waited_for_us_and_does_not_expire(
    desk: Desk, tenant: Tenant, add: Add, store: Store, admin: asyncpg.Connection
) -> None:
    """Outbound was down for a week: there may be room by now."""
    await _pause_for_good(store, admin, await add(NEW, cap=50, now=NOON))
    await tenant.send("you@example.com")
    assert await desk.send() == {"waits": 1}
    await admin.execute("UPDATE queue SET due_at = now() - interval '6 days'")
    assert await _expire(store, WAITING) == 0
    assert await desk.send() == {"waits": 1}
    assert await _expire(store, WAITING) == 1


async def test_who_handed_it_in_is_reported_to(
    desk: Desk, tenant: Tenant, add: Add, store: Store, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    await _pause_for_good(store, admin, await add(NEW, cap=50, now=NOON))
    request = DsnRequest(notify=frozenset((Notify.FAILURE, Notify.DELAY)))
    await _hand_in(tenant, "you@example.com", recipients=(request,))
    assert await desk.send() == {"waits": 1}
    reports = Reports(store, tenant.submits, LocalBlobs(tmp_path / "blobs"), reporter="x", lifetime_seconds=1)
    told = []
    for ends in (False, True):
        if ends:
            assert (await settle.expire(store, datetime.now(UTC) + timedelta(hours=1)))[0] == 1
        else:
            assert (await delays.tell(store, -60, thorough=True))[0] == 1
        assert await reports.tell_due() == 1
        report = parse(await admin.fetchval("SELECT raw FROM emails ORDER BY id DESC LIMIT 1"))
        assert report is not None
        told += report.recipients
        await admin.execute("DELETE FROM queue WHERE waits_for IS NULL")  # the report's own
    assert [(one.action, one.reply and one.reply.enhanced) for one in told] == [
        (Action.DELAYED, "4.4.7"),
        (Action.FAILED, "5.4.7"),
    ]
    assert all(one.reply and "every address of the pool `all`" in one.reply.text for one in told)


async def test_upkeep_ends_what_waits_by_the_settings(
    tenant: Tenant, sink: SmtpServer, outbound: Any, add: Add, store: Store, ringer: Ringer, admin: asyncpg.Connection
) -> None:
    await _pause_for_good(store, admin, await add(NEW, cap=50))
    async with outbound(sink, retry_schedule=[0.1], broadcast_lifetime_seconds=0.1, broadcast_waiting_seconds=3600):
        reset = await tenant.send("you@example.com")
        news = await tenant.send("you@example.com", broadcast=True)
        await until(lambda: admin.fetchval("SELECT count(*) = 2 FROM queue WHERE waits_for IS NOT NULL"), "both wait")

        async def ended() -> bool:
            await ringer.enqueue(UPKEEP, "")  # again, if it was not old enough then
            return bool((await tenant.delivery(reset))["state"] == "expired")

        await until(ended, "upkeep has ended it")
        assert (await tenant.delivery(news))["state"] == "queued"
