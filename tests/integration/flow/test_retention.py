"""History is kept for ever, or for as long as the operator says; what waits, what is read and what is new stays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from mailcore.blob.local import LocalBlobs
from mailcore.events import Event, payload
from mailcore.flow.retention import Kept, drop_old
from mailcore.flow.submit import NewAttachment, NewEmail, Submits
from mailcore.kit.errors import NotFound, Unavailable
from mailcore.kit.ids import uuid7
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.store import retention, sent
from mailcore.store.session import Store
from mailcore.store.webhooks import SUBJECT

OLD = datetime(2025, 3, 31, 23, 59, tzinfo=UTC)
PARENTS = ("emails", "deliveries", "attempts", "engagements", "events", "webhook_deliveries", "webhook_attempts")
YEAR = 365


@dataclass
class History:
    """A mail of long ago and one of today, both delivered, with blobs; and the webhook that was told of both."""

    store: Store
    admin: asyncpg.Connection
    blobs: LocalBlobs
    folder: Path
    org: UUID
    old: UUID
    new: UUID
    event: UUID
    """Of the old one."""

    async def tables(self) -> set[str]:
        """Those of the old month."""
        rows = await self.admin.fetch("SELECT relname FROM pg_class WHERE relname ~ '_2025_03$' AND relkind = 'r'")
        return {row["relname"].removesuffix("_2025_03") for row in rows}

    async def keys(self) -> set[str]:
        return {key async for key in self.blobs.keys(older_than=datetime(2100, 1, 1, tzinfo=UTC))}

    async def emails(self) -> set[UUID]:
        return {row["id"] for row in await self.admin.fetch("SELECT id FROM emails")}


@pytest.fixture
async def history(
    store: Store, admin: asyncpg.Connection, ringer: Ringer, org: UUID, domain: UUID, tmp_path: Path
) -> History:
    for parent in PARENTS:
        await admin.execute(
            f"CREATE TABLE {parent}_2025_03 PARTITION OF {parent} FOR VALUES FROM ('{retention.bounds(OLD.date())[0]}') "
            f"TO ('{retention.bounds(OLD.date())[1]}')"
        )
    blobs = LocalBlobs(tmp_path)
    submits = Submits(store, ringer, blobs)
    webhook = uuid7()
    await admin.execute(
        "INSERT INTO webhooks (id, org_id, endpoint, events, secret_sealed) VALUES ($1, $2, 'https://a.test', $3, '')",
        *(webhook, org, ["email.sent"]),
    )
    ids = []
    for name in ("old", "new"):
        email = NewEmail(
            *("Us <us@postroom.test>", "postroom.test", ["a@one.test"], [parse_address("a@one.test")]),
            subject=name,
            html="x" * 100_000,
            text="t",
            attachments=[NewAttachment(bytes(90_000), "application/octet-stream", "a.bin")],
        )
        ids.append((await submits.submit(org, [email], door="test")).ids[0])
    await submits.drain()
    new, old, event = ids[1], uuid7(int(OLD.timestamp() * 1000)), uuid7(int(OLD.timestamp() * 1000))
    await admin.execute("DELETE FROM queue")
    await admin.execute("DELETE FROM webhook_queue")
    await admin.execute("UPDATE emails SET id = $2 WHERE id = $1", ids[0], old)
    await admin.execute("UPDATE deliveries SET email_id = $2, state = 'delivered' WHERE email_id = $1", ids[0], old)
    before = await admin.fetchval("SELECT id FROM events WHERE object_id = $1", ids[0])
    await admin.execute("UPDATE events SET id = $2, object_id = $3 WHERE id = $1", before, event, old)
    await admin.execute("UPDATE webhook_deliveries SET event_id = $2 WHERE event_id = $1", before, event)
    await admin.execute(
        "INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome) VALUES ($1, 0, 1, $2, now(), 'delivered')",
        *(old, org),
    )
    made = History(store, admin, blobs, tmp_path, org, old, new, event)
    assert len(await made.keys()) == 4
    assert await admin.fetchval("SELECT count(*) FROM webhook_deliveries_2025_03") == 1
    return made


async def test_nothing_goes_while_nobody_says_so(history: History) -> None:
    done = await drop_old(history.store, history.blobs, Kept())
    assert (done.months, done.blobs) == (0, 0)
    assert await history.tables() == set(PARENTS)
    done = await drop_old(history.store, history.blobs, Kept(sent=100 * YEAR, events=100 * YEAR, webhooks=100 * YEAR))
    assert (done.months, done.blobs) == (0, 0)
    assert await history.emails() == {history.old, history.new} and len(await history.keys()) == 4


async def test_old_mail_goes_with_its_blobs_and_its_events_stay(history: History) -> None:
    before = await history.keys()
    done = await drop_old(history.store, history.blobs, Kept(sent=YEAR))
    assert (done.months, done.blobs) == (1, 2)
    assert await history.tables() == {"events", "webhook_deliveries", "webhook_attempts"}
    assert await history.emails() == {history.new}
    kept = await history.keys()
    assert len(kept) == 2 and kept < before
    named = await history.admin.fetchrow("SELECT body_blob, attachments FROM emails")
    assert named is not None
    assert {named["body_blob"], named["attachments"][0]["blob"]} == kept
    for key in before - kept:
        with pytest.raises(NotFound):
            await history.blobs.get(key)
    assert await history.admin.fetchval("SELECT count(*) FROM blob_deletes") == 0
    async with history.store.tenant(history.org) as db:
        assert await sent.find(db, history.old) is None
        assert await sent.find(db, history.new) is not None
    again = await drop_old(history.store, history.blobs, Kept(sent=YEAR))
    assert (again.months, again.blobs) == (0, 0)


async def test_events_go_with_what_webhooks_were_told_of_them(history: History) -> None:
    assert (await drop_old(history.store, history.blobs, Kept(webhooks=YEAR))).months == 1
    assert await history.tables() == set(PARENTS) - {"webhook_deliveries", "webhook_attempts"}
    assert (await drop_old(history.store, history.blobs, Kept(events=YEAR))).months == 1
    assert await history.tables() == {"emails", "deliveries", "attempts", "engagements"}
    assert len(await history.keys()) == 4
    assert await history.admin.fetchval("SELECT count(*) FROM events") == 1


@pytest.mark.parametrize("what", ["queue", "report", "webhook"])
async def test_what_has_yet_to_leave_keeps_its_month(history: History, what: str) -> None:
    admin = history.admin
    lane = await admin.fetchval("SELECT id FROM lanes LIMIT 1")
    add = {
        "queue": ("INSERT INTO queue (email_id, n, org_id, lane_id, due_at) VALUES ($1, 0, $2, $3, now())", lane),
        "report": ("INSERT INTO reports_owed (email_id, n, org_id, action) VALUES ($1, 0, $2, $3)", "failed"),
        "webhook": (
            "INSERT INTO webhook_queue (event_id, webhook_id, org_id, due_at) VALUES ($1, $3, $2, now())",
            await admin.fetchval("SELECT id FROM webhooks"),
        ),
    }
    sql, last = add[what]
    await admin.execute(sql, history.event if what == "webhook" else history.old, history.org, last)
    kept = Kept(events=YEAR) if what == "webhook" else Kept(sent=YEAR)
    done = await drop_old(history.store, history.blobs, kept)
    assert (done.months, done.blobs) == (0, 0)
    assert await history.tables() == set(PARENTS) and len(await history.keys()) == 4
    await admin.execute(f"DELETE FROM {({'report': 'reports_owed', 'webhook': 'webhook_queue'}).get(what, what)}")
    assert (await drop_old(history.store, history.blobs, kept)).months == 1


async def test_a_month_that_is_read_stays_and_holds_nobody_up(
    history: History, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailcore.flow.retention.TRY_SECONDS", 0.01)
    async with history.admin.transaction():
        await history.admin.fetch("SELECT FROM emails")  # as a backup does, for hours
        done = await drop_old(history.store, history.blobs, Kept(sent=YEAR))
        assert (done.months, done.blobs) == (0, 0), "no blob goes before its mail"
        async with history.store.worker() as db:
            await db.fetch("SELECT FROM emails")  # nobody waits for the lock that could not be had
    assert len(await history.keys()) == 4
    assert await history.admin.fetchval("SELECT count(*) FROM blob_deletes") == 2
    done = await drop_old(history.store, history.blobs, Kept(sent=YEAR))
    assert (done.months, done.blobs) == (1, 2)


async def test_blobs_that_could_not_be_deleted_are_the_next_times(history: History) -> None:
    class Away(LocalBlobs):
        async def delete(self, key: str) -> None:
            raise Unavailable("The blob store does not answer.")

    with pytest.raises(Unavailable):
        await drop_old(history.store, Away(history.folder), Kept(sent=YEAR))
    assert await history.emails() == {history.new} and len(await history.keys()) == 4
    done = await drop_old(history.store, history.blobs, Kept())  # also when nothing is to be dropped any more
    assert (done.months, done.blobs, len(await history.keys())) == (0, 2, 2)


async def test_this_month_and_the_last_are_never_dropped(history: History, admin: asyncpg.Connection) -> None:
    assert (await drop_old(history.store, history.blobs, Kept(1, 1, 1))).months == 3
    assert history.new in await history.emails()
    last = await admin.fetchval("SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month')::date")
    async with history.store.worker() as db:
        assert last not in await retention.months(db, "sent", datetime(2100, 1, 1, tzinfo=UTC))
    with pytest.raises(asyncpg.RaiseError, match="no month that may be dropped"):
        async with history.store.worker() as db:
            await retention.drop(db, "sent", last)


async def test_an_event_whose_mail_is_gone_is_told_with_what_it_knows(history: History) -> None:
    await drop_old(history.store, history.blobs, Kept(sent=YEAR))
    async with history.store.tenant(history.org) as db:
        row = await db.fetchrow(f"SELECT e.*, {SUBJECT} AS subject FROM events e WHERE id = $1", history.event)
    assert row is not None
    event = Event(row["id"], row["type"], row["created_at"], ["a@one.test"], {"failed": {"reason": "x"}})
    told = payload(event, row["subject"])
    assert told["data"] == {"email_id": str(history.old), "to": ["a@one.test"], "failed": {"reason": "x"}}
