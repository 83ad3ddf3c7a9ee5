"""The sweep of orphans finds the row of every blob, however long its blobs took to be written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from mailcore.blob.base import INLINE_BYTES
from mailcore.blob.memory import MemoryBlobs
from mailcore.flow.receive import Arrival, Receives
from mailcore.flow.submit import NewAttachment, NewEmail, Submits
from mailcore.flow.upkeep import upkeep_at
from mailcore.kit.ids import uuid7, uuid7_time
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.smtp.envelope import Envelope
from mailcore.store.session import Store

LARGE = b"x" * (INLINE_BYTES + 1)


async def test_a_blob_has_the_time_of_its_row(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    blobs = MemoryBlobs()
    email = NewEmail(
        "us@postroom.test",
        "postroom.test",
        ["you@example.com"],
        [parse_address("you@example.com")],
        "Hi",
        html=LARGE.decode(),
        attachments=[NewAttachment(LARGE, "text/plain") for _ in range(3)],
    )
    (id_,) = (await Submits(store, ringer, blobs).submit(org, [email], door="test")).ids
    envelope = Envelope("a@b.example", ("you@postroom.test",))
    await Receives(store, ringer, blobs).receive(
        Arrival(b"Subject: x\r\n\r\n" + LARGE, envelope, {}, "192.0.2.1", None, "smtp", {org: ["you@postroom.test"]})
    )
    row = await admin.fetchrow("SELECT body_blob, attachments FROM emails")
    keys = [row["body_blob"], *(part["blob"] for part in row["attachments"])]
    assert {uuid7_time(UUID(key.split("/")[-1])) for key in keys} == {uuid7_time(id_)}
    assert len(set(keys)) == 4
    handed_in = NewEmail(
        *("us@postroom.test", "postroom.test", ["you@example.com"], email.recipients, "Hi"),
        raw=LARGE,
        track_opens=True,
        track_clicks=False,
    )
    (raw_id,) = (await Submits(store, ringer, blobs).submit(org, [handed_in], door="test")).ids
    raw = await admin.fetchrow(
        "SELECT raw, raw_blob, body_bytes, track_opens, track_clicks FROM emails WHERE id = $1", raw_id
    )
    assert (raw["raw"], raw["body_bytes"], raw["track_opens"], raw["track_clicks"]) == (None, len(LARGE), True, False)
    assert uuid7_time(UUID(raw["raw_blob"].split("/")[-1])) == uuid7_time(raw_id)
    keys.append(raw["raw_blob"])
    arrival = await admin.fetchrow("SELECT id, raw_blob FROM arrivals")
    assert uuid7_time(UUID(arrival["raw_blob"].split("/")[-1])) == uuid7_time(arrival["id"])

    orphan = f"{org}/{datetime.now(UTC):%Y-%m}/{uuid7()}"
    await blobs.put(orphan, LARGE)
    tomorrow = datetime.now(UTC) + timedelta(hours=25)
    assert (await upkeep_at(store, blobs, tomorrow, lifetime_seconds=1e9)).orphan_blobs == 1
    for key in (*keys, arrival["raw_blob"]):
        assert await blobs.get(key)
