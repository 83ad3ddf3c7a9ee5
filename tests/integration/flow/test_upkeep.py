"""Upkeep: what time alone does, and nothing more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg

from mailcore.blob.local import LocalBlobs
from mailcore.flow.submit import NewAttachment, NewEmail, Submits
from mailcore.flow.upkeep import upkeep, upkeep_at
from mailcore.kit.ids import uuid7, uuid7_time
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.store.session import Store

WEEK = 7 * 86_400.0


def key_at(org: UUID, at: datetime) -> str:
    id_ = uuid7(int(at.timestamp() * 1000))
    return f"{org}/{uuid7_time(id_):%Y-%m}/{id_}"


async def test_missing_partitions_are_made_once(store: Store, admin: asyncpg.Connection, tmp_path: Path) -> None:
    latest = await admin.fetchval(
        "SELECT max(c.relname) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE i.inhparent = 'emails'::regclass "
        "AND c.relkind = 'r'"
    )
    await admin.execute(f"DROP TABLE {latest}")
    blobs = LocalBlobs(tmp_path)
    done = await upkeep(store, blobs, lifetime_seconds=WEEK)
    assert done.partitions == 1
    assert await admin.fetchval("SELECT to_regclass($1) IS NOT NULL", latest)
    assert (await upkeep(store, blobs, lifetime_seconds=WEEK)).partitions == 0


async def test_keys_go_when_they_have_served_their_time(
    store: Store, admin: asyncpg.Connection, org: UUID, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    for hours in (1, 23, 25):
        await admin.execute(
            "INSERT INTO idempotency_keys VALUES ($1, '/emails', $2, '\\x00', '\\x00', $3)",
            *(org, f"{hours} h", now - timedelta(hours=hours)),
        )
    for hours in (1, 47, 49):
        await admin.execute(
            "INSERT INTO arrival_keys VALUES ($1, $2, $3, $4)",
            bytes([hours]),
            org,
            uuid7(),
            now - timedelta(hours=hours),
        )
    done = await upkeep(store, LocalBlobs(tmp_path), lifetime_seconds=WEEK)
    assert (done.idempotency_keys, done.arrival_keys) == (1, 1)
    assert {row["key"] for row in await admin.fetch("SELECT key FROM idempotency_keys")} == {"1 h", "23 h"}
    assert {row["digest"] for row in await admin.fetch("SELECT digest FROM arrival_keys")} == {b"\x01", b"\x2f"}


async def test_only_blobs_without_a_row_go(
    store: Store, admin: asyncpg.Connection, ringer: Ringer, org: UUID, domain: UUID, tmp_path: Path
) -> None:
    blobs = LocalBlobs(tmp_path)
    submits = Submits(store, ringer, blobs)
    email = NewEmail(
        "us@postroom.test",
        "postroom.test",
        ["you@example.com"],
        [parse_address("you@example.com")],
        "Large",
        html="<p>" + "x" * 200_000,
        attachments=(NewAttachment(b"y" * 200_000, "image/png", "y.png"),),
    )
    await submits.submit(org, [email], door="test")
    raw = key_at(org, datetime.now(UTC))
    await blobs.put(raw, b"raw")
    await admin.execute(
        "INSERT INTO arrivals (id, org_id, door, source, mail_from, rcpt_to, size, sha256, raw_blob, created_at) "
        "VALUES ($1, $2, 'smtp', 'x', '', '{}', 3, '\\x00', $3, now())",
        *(uuid7(), org, raw),
    )
    named = {row["body_blob"] for row in await admin.fetch("SELECT body_blob FROM emails")} | {raw}
    (attachments,) = [row["attachments"] for row in await admin.fetch("SELECT attachments FROM emails")]
    named |= {attachment["blob"] for attachment in attachments}
    assert len(named) == 3
    orphan = key_at(org, datetime.now(UTC))
    await blobs.put(orphan, b"nobody's")
    await blobs.put("caught/something-else", b"no key of ours")
    # too young, then a day old
    assert (await upkeep(store, blobs, lifetime_seconds=WEEK)).orphan_blobs == 0
    later = datetime.now(UTC) + timedelta(hours=25)
    assert (await upkeep_at(store, blobs, later, lifetime_seconds=WEEK)).orphan_blobs == 1
    left = {key async for key in blobs.keys(older_than=later)}
    assert orphan not in left
    assert named <= left
    assert "caught/something-else" in left


async def test_sessions_go_when_they_are_over_and_what_happened_at_the_door_after_ninety_days(
    store: Store, admin: asyncpg.Connection, org: UUID, tmp_path: Path
) -> None:
    now, user = datetime.now(UTC), uuid7()
    await admin.execute("INSERT INTO users (id, email) VALUES ($1, 'ann@example.com')", user)
    await admin.execute("INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, 'owner')", org, user)
    for hours in (-1, 1, 100):
        await admin.execute(
            "INSERT INTO sessions (id, org_id, user_id, kind, secret_hash, expires_at, ends_at) "
            "VALUES ($1, $2, $3, 'browser', $4, $5, $5)",
            *(uuid7(), org, user, hours.to_bytes(4, "big", signed=True), now + timedelta(hours=hours)),
        )
    for days in (0, 89, 91):
        at = uuid7(int((now - timedelta(days=days)).timestamp() * 1000))
        await admin.execute("INSERT INTO auth_events (id, org_id, type) VALUES ($1, $2, $3)", at, org, f"{days} d")
    done = await upkeep(store, LocalBlobs(tmp_path), lifetime_seconds=WEEK)
    assert (done.sessions, done.auth_events) == (1, 1)
    assert await admin.fetchval("SELECT count(*) FROM sessions WHERE expires_at > now()") == 2
    assert {row["type"] for row in await admin.fetch("SELECT type FROM auth_events")} == {"0 d", "89 d"}
