"""The door of sending, without HTTP: roles, groups, what a bad member costs, what is rung."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from mailcore import blob
from mailcore.flow.submit import NewAttachment, NewEmail, Submits
from mailcore.kit.errors import Refused, Unavailable
from mailcore.queue import bell
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import OUTBOUND, WEBHOOKS, bell_key
from mailcore.smtp.address import parse_address
from mailcore.store import contents as stored
from mailcore.store.session import Store


@pytest.fixture(autouse=True)
def _long_bells(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been rung is still there when a busy machine looks."""
    monkeypatch.setattr(bell, "BELL_MS", 600_000)


@pytest.fixture
def submits(store: Store, ringer: Ringer, tmp_path: Path) -> Submits:
    return Submits(store, ringer, blob.open((tmp_path / "blobs").as_uri()))


def letter(to: str = "you@example.com", *, subject: str = "Hello", **fields: object) -> NewEmail:
    return NewEmail(
        "a@postroom.test",
        "postroom.test",
        [to],
        [parse_address(to)],
        subject,
        text="Hi",
        **fields,  # type: ignore[arg-type]
    )


async def rung(ringer: Ringer) -> None:
    await ringer.drain()


async def test_within_another_door(
    submits: Submits, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID, ringer: Ringer
) -> None:
    ready = await submits.prepare(org, [letter(), letter("b@example.org")])
    with pytest.raises(RuntimeError):
        async with store.worker() as db:
            await submits.submit_in(db, ready)
            raise RuntimeError
    assert await admin.fetchval("SELECT count(*) FROM emails") == 0
    async with store.worker() as db:  # the router's role
        due = await submits.submit_in(db, ready)
    assert await admin.fetchval("SELECT count(*) FROM queue") == 2
    keys = [bell_key(OUTBOUND, str(site)) for site in due.sites]
    assert (len(keys), await ringer.redis.exists(*keys)) == (2, 0)
    submits.ring(due)
    await rung(ringer)
    assert await ringer.redis.exists(*keys) == 2


async def test_the_site_of_today_is_rung(
    submits: Submits, admin: asyncpg.Connection, org: UUID, domain: UUID, ringer: Ringer
) -> None:
    """Lanes are remembered, sites are not: a domain may have moved to another since."""
    await submits.submit(org, [letter()], door="test")
    site = await admin.fetchval("INSERT INTO sites (key) VALUES ('mx:mx.example.com') RETURNING id")
    await admin.execute("UPDATE recipient_domains SET site_id = $1 WHERE domain = 'example.com'", site)
    await submits.submit(org, [letter()], door="test")
    await rung(ringer)
    assert await ringer.redis.exists(bell_key(OUTBOUND, str(site))) == 1


async def test_endpoints_that_want_the_event_get_it(
    submits: Submits, admin: asyncpg.Connection, org: UUID, domain: UUID, ringer: Ringer
) -> None:
    for events in (["email.sent", "email.bounced"], ["email.scheduled"]):
        await admin.execute(
            "INSERT INTO webhooks (id, org_id, endpoint, events, secret_sealed) "
            "VALUES (gen_random_uuid(), $1, 'https://x.example', $2, '')",
            *(org, events),
        )
    done = await submits.submit(org, [letter()], door="test")
    rows = await admin.fetch(
        "SELECT e.type, e.object_id, e.id, q.due_at <= now() AS due FROM webhook_queue q JOIN events e ON e.id = q.event_id "
        "JOIN webhook_deliveries d USING (event_id, webhook_id)"
    )
    assert [tuple(row) for row in rows] == [("email.sent", done.ids[0], done.ids[0], True)]
    await rung(ringer)
    assert await ringer.redis.exists(bell_key(WEBHOOKS, "")) == 1


async def test_a_bad_member_fails_alone(submits: Submits, admin: asyncpg.Connection, org: UUID, domain: UUID) -> None:
    # what no caller of the door lets through: Postgres refuses it, and with it the group's statement
    letters = [letter(subject="bad \0" if n == 17 else f"{n}") for n in range(40)]
    done = await asyncio.gather(*(submits.submit(org, [each], door="test") for each in letters), return_exceptions=True)
    failed = [n for n, each in enumerate(done) if isinstance(each, BaseException)]
    assert failed == [17]
    assert isinstance(done[17], Unavailable)
    subjects = {row["subject"] for row in await admin.fetch("SELECT subject FROM emails")}
    assert subjects == {f"{n}" for n in range(40) if n != 17}


async def test_many_new_domains_at_once(
    submits: Submits, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID, ringer: Ringer, tmp_path: Path
) -> None:
    """Two processes that meet the same new recipient domains make each of them once, and none waits for the other for ever."""
    other = Submits(store, ringer, blob.open((tmp_path / "blobs").as_uri()))
    names = [f"u@d{n}.example" for n in range(30)]
    async with asyncio.timeout(60):
        await asyncio.gather(
            *(each.submit(org, [letter(name)], door="test") for name in names for each in (submits, other)),
            *(other.submit(org, [letter(name) for name in reversed(names)], door="test") for _ in range(3)),
        )
    assert await admin.fetchval("SELECT count(*) FROM lanes") == 30
    assert await admin.fetchval("SELECT count(*) FROM sites") == 30
    assert await admin.fetchval("SELECT count(*) FROM queue") == 150


async def test_a_client_that_hangs_up_loses_nothing_that_was_taken(
    submits: Submits, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    await submits.submit(org, [letter()], door="test")  # lanes and domain are known: next step is the group
    waiting = asyncio.create_task(submits.submit(org, [letter(subject="mine")], door="test"))
    while not submits._group._running:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await submits.drain()
    assert await admin.fetchval("SELECT count(*) FROM emails WHERE subject = 'mine'") == 1


async def test_many_small_attachments_leave_the_row(
    submits: Submits, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    parts = [NewAttachment(b"x" * 60_000, "text/plain", f"{n}.txt") for n in range(10)]
    await submits.submit(org, [letter(attachments=parts)], door="test")
    stored = await admin.fetchval("SELECT attachments FROM emails")
    assert [("content" in each) for each in stored] == [True] * 4 + [False] * 6
    assert all(("blob" in each) != ("content" in each) for each in stored)


async def test_a_message_that_was_handed_in_is_kept_as_it_is(
    submits: Submits, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    raw = b"From: a@postroom.test\r\nSubject: \\x00 {}\r\n\r\n" + bytes(range(1, 128)) * 20
    new = letter(track_opens=False)
    new.text, new.raw = None, raw
    (id_,) = (await submits.submit(org, [new], door="test")).ids
    async with store.worker() as db:
        ((content, size),), heavy = await stored.light_contents(db, [id_], 16_384)
    assert (content.raw, content.raw_blob, content.track_opens, content.track_clicks) == (raw, None, False, False)
    assert (size, heavy) == (len(raw), {})
    async with store.worker() as db:
        light, heavy = await stored.light_contents(db, [id_], 100)
        whole = await stored.contents(db, [id_])
    assert (light, heavy, whole[id_].raw) == ([], {id_: len(raw)}, raw)


async def test_a_key_for_one_domain_sends_from_no_other(submits: Submits, org: UUID, domain: UUID) -> None:
    with pytest.raises(Refused, match="may not send"):
        await submits.submit(org, [letter()], door="test", only={UUID(int=1)})
    with pytest.raises(Refused, match="not verified"):
        await submits.submit(UUID(int=1), [letter()], door="test")
