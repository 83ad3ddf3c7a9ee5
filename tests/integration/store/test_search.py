"""Search: by the index and by nothing else, an organization apart, newest first (DESIGN §4)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from mailcore.flow import words
from mailcore.kit.ids import uuid7
from mailcore.mime.parse import Message
from mailcore.store import mailboxes, messages, search
from mailcore.store.messages import Filter, RoutedMessage
from mailcore.store.session import Store

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _patient_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is whole however busy the machine is."""
    monkeypatch.setattr(search, "PATIENCE", timedelta(minutes=1))


@pytest.fixture
def put(store: Store) -> Callable[..., Awaitable[list[UUID]]]:
    async def put(
        org: UUID,
        texts: list[str],
        *,
        ages: list[timedelta] | None = None,
        to: str = "a@postroom.test",
        seen: bool = False,
    ) -> list[UUID]:
        made = []
        async with store.worker() as db:
            boxes = await mailboxes.ensure(db, {(org, to)})
            box = boxes[org, to]
            for n, text in enumerate(texts):
                at = NOW - (ages[n] if ages else timedelta(minutes=n))
                found = Message(b"Subject: s\r\nFrom: Ann <ann@mail.example.com>\r\n\r\n" + text.encode()).summary()
                made.append(
                    RoutedMessage(
                        *(uuid7(), org, box, uuid7(), None, "Ann", [], [], "s", None, 1, at),
                        flags=["\\Seen"] if seen else [],
                        words=words.of_mailbox(
                            words.tsvector(found, org_id=org, received_at=at), words.mark(org, at), box
                        ),
                    )
                )
            await messages.insert(db, made)
        return [one.id for one in made]

    return put


Put = Callable[..., Awaitable[list[UUID]]]


async def _found(store: Store, org: UUID, query: str, narrow: Filter | None = None, **asked: Any) -> search.Found:
    async with store.tenant(org) as db:
        return await search.messages(db, org, query, narrow or Filter(), **({"limit": 20} | asked))


async def test_the_mark_is_the_databases(admin: asyncpg.Connection) -> None:
    org = uuid7()
    for at in (NOW, datetime(1970, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)):
        assert words.mark(org, at) == await admin.fetchval("SELECT search_mark($1, search_period($2))", org, at)


async def test_newest_first_over_years_in_pages(store: Store, org: UUID, put: Put) -> None:
    ages = [timedelta(days=days) for days in (0, 1, 6, 7, 8, 30, 200, 201, 900, 901)]
    ids = await put(org, [f"invoice {n}" for n in range(10)], ages=ages)
    seen: list[UUID] = []
    after = None
    while True:
        page = await _found(store, org, "'~invoice'", limit=3, after=after)
        seen += page.ids
        if page.next is None:
            break
        after = page.next
    assert seen == ids
    since = Filter(since=NOW - timedelta(days=30), before=NOW - timedelta(days=1))
    assert (await _found(store, org, "'~invoice'", since)).ids == ids[2:6]


async def test_terms_fields_and_flags(store: Store, org: UUID, put: Put) -> None:
    both, _, phrase = await put(org, ["red green", "red", "green red apples"])
    old = await put(org, ["red green"], ages=[timedelta(days=100)], to="b@postroom.test", seen=True)
    assert (await _found(store, org, "'~red' & '~green'")).ids == [both, phrase, *old]
    assert (await _found(store, org, "'~green' <-> '~red'")).ids == [phrase]
    assert (await _found(store, org, "'~app':*")).ids == [phrase]
    assert (await _found(store, org, "'~f:mail.example.com' & '~green' & !'~apples'")).ids == [both, *old]
    assert (await _found(store, org, "'~green'", Filter(seen=True))).ids == old
    assert (await _found(store, org, "'~green'", Filter(seen=False))).ids == [both, phrase]
    assert (await _found(store, org, "'~green'", Filter(flagged=True))).ids == []
    async with store.tenant(org) as db:
        box = await db.fetchval("SELECT id FROM mailboxes WHERE address = 'b@postroom.test'")
    assert (await _found(store, org, "'~green'", Filter(mailbox_ids=[box]))).ids == old
    assert (await _found(store, org, f"'~green' & '~{words.in_mailbox(box)}'")).ids == old


async def test_no_patience_is_told_and_goes_on_where_it_stopped(
    store: Store, org: UUID, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await put(org, ["needle", *(["hay"] * 30), "needle"], ages=[timedelta(days=30 * n) for n in range(32)])
    monkeypatch.setattr(search, "PATIENCE", timedelta(0))
    seen: list[UUID] = []
    after, pages = None, 0
    while True:
        page = await _found(store, org, "'~needle'", after=after)
        seen += page.ids
        pages += 1
        if page.next is None:
            break
        after = page.next
    assert seen == [ids[0], ids[-1]]
    assert pages > 5


async def test_one_organization_never_meets_anothers(
    store: Store, org: UUID, put: Put, make_org: Callable[[], Awaitable[UUID]]
) -> None:
    other = await make_org()
    mine, theirs = await put(org, ["shared"]), await put(other, ["shared"])
    assert (await _found(store, org, "'~shared'")).ids == mine
    assert (await _found(store, other, "'~shared'")).ids == theirs
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with store.tenant(org) as db:
            await search.messages(db, other, "'~shared'", Filter(), limit=20)
    for role in (store.worker, store.door, store.people):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with role() as db:
                await search.messages(db, other, "'~shared'", Filter(), limit=20)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with store.tenant(org) as db:
            await db.fetch("SELECT words FROM message_words")


PREPARE_ = "PREPARE period (uuid, tsquery, uuid[], timestamptz, timestamptz, uuid, boolean, boolean, integer) AS "


async def _plan(admin: asyncpg.Connection, role: str, org: UUID, query: str) -> str:
    """Of the function's own statement, with parameters as the function has them."""
    body = await admin.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'search_by_index'")
    async with admin.transaction():
        await admin.execute(f"SET LOCAL ROLE {role}; SET LOCAL plan_cache_mode = force_generic_plan")
        await admin.execute(PREPARE_ + body)
        plan = await admin.fetchval(
            f"EXPLAIN (FORMAT JSON) EXECUTE period ('{org}', '{query}', NULL, '-infinity', 'infinity', '{org}', NULL, NULL, 20)"
        )
        await admin.execute("DEALLOCATE period")
    return json.dumps(plan)


async def test_the_plan_goes_by_the_index_of_words_and_so_does_what_runs(
    org: UUID, put: Put, admin: asyncpg.Connection
) -> None:
    """And would not under a policy: the operators of full text are not leakproof."""
    await put(org, ["needle"])
    await admin.execute(
        "WITH made AS (INSERT INTO messages (id, org_id, mailbox_id, size, received_at) "
        "SELECT gen_random_uuid(), b.org_id, b.id, 1, $1 FROM mailboxes b, generate_series(1, 4000) RETURNING *) "
        "INSERT INTO message_words "
        "SELECT id, org_id, mailbox_id, received_at, to_tsvector('simple', md5(id::text) || ' ' || md5(id::text || 'x')) "
        "FROM made",
        NOW,
    )
    await admin.execute("VACUUM ANALYZE messages, message_words")
    query = words.mark(org, NOW) + "needle"
    plan = await _plan(admin, "postroom_search", org, query)
    assert "message_words_words" in plan
    assert "Seq Scan" not in plan
    await admin.execute("GRANT SELECT ON message_words TO postroom_app")
    assert "message_words_words" not in await _plan(admin, "postroom_app", org, query), "what would be without the role"

    async def scans() -> tuple[int, int]:
        await admin.execute("SELECT pg_stat_force_next_flush()")
        by_index = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'message_words_words'"
        through = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'message_words'"
        return await admin.fetchval(by_index), await admin.fetchval(through)

    index, whole = await scans()
    async with admin.transaction():
        await admin.execute(f"SET LOCAL ROLE postroom_app; SET LOCAL app.org_id = '{org}'")
        assert len((await search.messages(admin, org, "'~needle'", Filter(), limit=20)).ids) == 1
    assert await scans() == (index + 1, whole)
