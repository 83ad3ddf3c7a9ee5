"""Suppressed recipients at the door, at the claim, and who puts himself on the list."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from mailcore.blob.local import LocalBlobs
from mailcore.flow import suppress
from mailcore.flow.settle import Attempt, settle
from mailcore.flow.submit import NewEmail, Submits
from mailcore.kit.ids import uuid7
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import deliveries, routes
from mailcore.store.deliveries import Leased
from mailcore.store.session import Store
from mailcore.store.suppressions import folded


@pytest.fixture
def submits(store: Store, ringer: Ringer, tmp_path: Path) -> Submits:
    return Submits(store, ringer, LocalBlobs(tmp_path / "blobs"))


async def send(submits: Submits, org: UUID, *to: str, **fields: object) -> UUID:
    email = NewEmail(
        "a@postroom.test", "postroom.test", list(to), [parse_address(each) for each in to], "Hi", text="Hi", **fields
    )  # type: ignore[arg-type]
    return (await submits.submit(org, [email], door="test")).ids[0]


async def states(admin: asyncpg.Connection, email_id: UUID) -> dict[str, str]:
    rows = await admin.fetch("SELECT recipient, state FROM deliveries WHERE email_id = $1 ORDER BY n", email_id)
    return {row["recipient"]: row["state"] for row in rows}


async def events(admin: asyncpg.Connection, id_: UUID) -> list[tuple[str, list[str] | None]]:
    rows = await admin.fetch("SELECT type, recipients FROM events WHERE object_id = $1 ORDER BY id", id_)
    return [(row["type"], row["recipients"]) for row in rows]


async def claim(store: Store, admin: asyncpg.Connection) -> list[Leased]:
    lanes = [row["id"] for row in await admin.fetch("SELECT id FROM lanes")]
    async with store.worker() as db:
        return await deliveries.claim(db, lanes, 1, limit=100, quantum=100, schedule=[60.0])


async def end(store: Store, row: Leased, result: Result, reply: Reply, rule: str | None = None) -> None:
    await settle(store, [Attempt(row, Outcome(result, reply, rule=rule), "mx:x", 3)])


async def listed(admin: asyncpg.Connection) -> list[tuple[str, str, UUID | None]]:
    return [tuple(row) for row in await admin.fetch("SELECT email, origin, source_id FROM suppressions ORDER BY id")]


async def test_the_others_of_the_same_mail_go_out(
    submits: Submits, store: Store, ringer: Ringer, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    await suppress.add(store, ringer, org, ["gone@example.com"])
    email_id = await send(submits, org, "a@example.com", "Gone@Example.com", "b@example.com")
    assert await states(admin, email_id) == {
        "a@example.com": "queued",
        "Gone@example.com": "suppressed",
        "b@example.com": "queued",
    }
    assert await admin.fetchval("SELECT array_agg(n ORDER BY n) FROM queue") == [0, 2]
    assert await events(admin, email_id) == [
        ("email.sent", ["a@example.com", "b@example.com"]),
        ("email.suppressed", ["Gone@example.com"]),
    ]
    detail = await admin.fetchval("SELECT detail FROM events WHERE type = 'email.suppressed'")
    assert detail["suppressed"]["type"] == "OnAccountSuppressionList"
    assert "reason" not in detail["suppressed"]


async def test_nobody_is_suppressed_on_the_way_of_a_relay(
    submits: Submits, store: Store, ringer: Ringer, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    """Received mail goes on to another server of its organization, whoever is on the list."""
    await suppress.add(store, ringer, org, ["gone@example.com"])
    way = uuid7()
    await routes.ensure_lanes(admin, org, [way])
    route = await admin.fetchval("SELECT lane_route FROM routes_out WHERE ways = ARRAY[$1::uuid]", way)
    passed = await send(submits, org, "gone@example.com", "here@example.com", lane_route=route)
    own = await send(submits, org, "gone@example.com", "here@example.com")
    assert await states(admin, passed) == {"gone@example.com": "queued", "here@example.com": "queued"}
    assert await events(admin, passed) == [("email.sent", None)]
    assert await states(admin, own) == {"gone@example.com": "suppressed", "here@example.com": "queued"}


async def test_nothing_is_sent_of_a_mail_whose_recipients_are_all_suppressed(
    submits: Submits, store: Store, ringer: Ringer, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    await suppress.add(store, ringer, org, ["gone@example.com"])
    await admin.execute("UPDATE suppressions SET origin = 'complaint'")
    email_id = await send(submits, org, "gone@example.com")
    other = await send(submits, org, "here@example.com")
    assert await events(admin, email_id) == [("email.suppressed", ["gone@example.com"])]
    assert await events(admin, other) == [("email.sent", None)]
    detail = await admin.fetchval("SELECT detail FROM events WHERE type = 'email.suppressed'")
    assert detail["suppressed"]["reason"] == "previous_complaint"
    assert await admin.fetchval("SELECT array_agg(email_id) FROM queue") == [other]


async def test_a16_a_subaddress_is_an_address_of_its_own_and_a_list_is_one_organizations(
    submits: Submits,
    store: Store,
    ringer: Ringer,
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    make_org,
    make_domain,
) -> None:
    await suppress.add(store, ringer, org, ["user@example.com", folded("JÖ@example.com")])
    email_id = await send(submits, org, "user+tag@example.com", "user@example.com", "jÖ@example.com")
    assert list((await states(admin, email_id)).values()) == ["queued", "suppressed", "suppressed"]
    # only ASCII has a lower case in an address
    assert list((await states(admin, await send(submits, org, "jö@example.com"))).values()) == ["queued"]
    other = await make_org()
    await make_domain(other, "other.test")
    email = NewEmail(
        "a@other.test", "other.test", ["user@example.com"], [parse_address("user@example.com")], "Hi", text="x"
    )
    (theirs,) = (await submits.submit(other, [email], door="test")).ids
    assert await states(admin, theirs) == {"user@example.com": "queued"}


async def test_scheduled_mail_is_looked_at_again_when_its_time_has_come(
    submits: Submits, store: Store, ringer: Ringer, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    await send(submits, org, "a@example.com", "b@example.com", scheduled_at=at)
    await suppress.add(store, ringer, org, ["b@example.com"])
    await admin.execute("UPDATE queue SET due_at = now()")
    rows = {row.recipient: row for row in await claim(store, admin)}
    assert {name: row.suppressed for name, row in rows.items()} == {"a@example.com": None, "b@example.com": "manual"}


@pytest.mark.parametrize(
    ("reply", "rule", "hard"),
    [
        (Reply(550, "user unknown", "5.1.1"), None, True),
        (Reply(556, "null MX", "5.1.10"), "null-mx", True),
        (Reply(550, "no such domain", "5.1.2"), "no-such-domain", False),
        (Reply(550, "user unknown", "5.1.1"), "test-address", False),
        (Reply(552, "full", "5.2.2"), None, False),
        (Reply(554, "your IP is listed", "5.7.1"), None, False),
    ],
)
async def test_only_a_bounce_that_says_that_nobody_is_there_suppresses(
    submits: Submits,
    store: Store,
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    reply: Reply,
    rule: str,
    hard: bool,
) -> None:
    email_id = await send(submits, org, "Gone@example.com")
    (row,) = await claim(store, admin)
    await end(store, row, Result.BOUNCED, reply, rule)
    assert await listed(admin) == ([("gone@example.com", "bounce", email_id)] if hard else [])
    assert [type_ for type_, _ in await events(admin, email_id)] == ["email.sent", "email.bounced"]
    added = await admin.fetch("SELECT detail FROM events WHERE type = 'suppression.added'")
    assert [row["detail"]["source_id"] for row in added] == ([str(email_id)] if hard else [])
    again = await send(submits, org, "gone@EXAMPLE.com")
    assert list((await states(admin, again)).values()) == ["suppressed" if hard else "queued"]


async def test_a_second_bounce_of_the_same_address_adds_nothing(
    submits: Submits, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    sources = {await send(submits, org, "gone@example.com"), await send(submits, org, "GONE@example.com")}
    rows = await claim(store, admin)
    reply = Outcome(Result.BOUNCED, Reply(550, "user unknown", "5.1.1"))
    await settle(store, [Attempt(row, reply, "mx:x", 3) for row in rows])
    ((email, origin, source),) = await listed(admin)
    assert (email, origin, source in sources) == ("gone@example.com", "bounce", True)
    assert await admin.fetchval("SELECT count(*) FROM events WHERE type = 'suppression.added'") == 1


async def test_a_complaint_suppresses_once(
    submits: Submits, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    email_id = await send(submits, org, "you@example.com")
    (row,) = await claim(store, admin)
    await end(store, row, Result.DELIVERED, Reply(250, "ok"))
    for _ in range(2):
        await suppress.complaint(store, email_id, 0)
    assert await suppress.complaint(store, UUID(int=1), 0) == 0
    assert [type_ for type_, _ in await events(admin, email_id)] == [
        "email.sent",
        "email.delivered",
        "email.complained",
    ]
    assert await listed(admin) == [("you@example.com", "complaint", email_id)]
    assert await admin.fetchval("SELECT last_event FROM deliveries") == "complained"


async def test_scheduled_mail_says_that_it_is_sent_when_it_is(
    submits: Submits, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    email_id = await send(submits, org, "you@example.com", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    for result, reply in ((Result.DEFERRED, Reply(451, "later")), (Result.DELIVERED, Reply(250, "ok"))):
        await admin.execute("UPDATE queue SET due_at = now()")
        (row,) = await claim(store, admin)
        await end(store, row, result, reply)
    assert [type_ for type_, _ in await events(admin, email_id)] == [
        "email.scheduled",
        "email.sent",
        "email.delivery_delayed",
        "email.delivered",
    ]
