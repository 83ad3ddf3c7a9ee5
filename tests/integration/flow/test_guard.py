"""The guard on real counts: a domain that bounces is paused and comes back, a stolen key is noticed, and everybody can see why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from mailcore.blob.local import LocalBlobs
from mailcore.flow import gate, reputation
from mailcore.flow.count import count
from mailcore.flow.key_counts import KeyCounts
from mailcore.flow.reputation import guard
from mailcore.flow.submit import NewEmail, Submits
from mailcore.kit.errors import NotFound, Refused
from mailcore.kit.ids import uuid7
from mailcore.kit.settings import Reputation
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.store import domains, events
from mailcore.store import reputation as store_
from mailcore.store.events import NewEvent
from mailcore.store.session import Store

LIMITS = Reputation(min_bounces=5, min_complaints=3)
MakeDomain = Callable[[UUID, str], Awaitable[UUID]]


@pytest.fixture
def submits(store: Store, ringer: Ringer, tmp_path: Path) -> Submits:
    return Submits(store, ringer, LocalBlobs(tmp_path / "blobs"))


def letter(to: str, domain: str = "postroom.test", **more: object) -> NewEmail:
    return NewEmail(f"us@{domain}", domain, [to], [parse_address(to)], "s", text="t", **more)  # type: ignore[arg-type]


async def happened(store: Store, submits: Submits, org: UUID, **kinds: int) -> None:
    """One email of the domain, and as many events of each kind."""
    email = (await submits.submit(org, [letter("a@example.com")], door="test")).ids[0]
    now = datetime.now(UTC)
    detail = {"bounce": {"type": "Permanent"}}
    raised = [
        NewEvent(uuid7(), org, f"email.{kind}", email, now, ["a@example.com"], detail if kind == "bounced" else None)
        for kind, n in kinds.items()
        for _ in range(n)
    ]
    async with store.worker() as db:
        await events.insert(db, raised)
    await count(store)


async def alarms(admin: asyncpg.Connection) -> list[tuple[str, str, str | None]]:
    rows = await admin.fetch("SELECT kind, action, ended_by FROM alarms ORDER BY id")
    return [tuple(row) for row in rows]


async def test_a_domain_that_bounces_is_paused_and_its_mail_is_refused_with_the_reason(
    store: Store, submits: Submits, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await happened(store, submits, org, delivered=90, bounced=10)
    done = await guard(store, LIMITS)
    assert done is not None and (done.raised, done.ended) == (1, 0)
    assert await alarms(admin) == [("bounces", "paused", None)]
    submits = Submits(store, submits._ringer, submits._blobs)  # one that remembers nothing
    with pytest.raises(Refused, match=r"`postroom\.test` domain is paused.*10 of 100 mails bounced") as refused:
        await submits.submit(org, [letter("b@example.com")], door="test")
    assert "Clean the list" in refused.value.public
    again = await guard(store, LIMITS)
    assert again is not None and (again.raised, again.ended) == (0, 0), "one pause, however often it is looked at"


async def test_a_process_that_remembers_the_domain_refuses_within_seconds(
    store: Store, ringer: Ringer, submits: Submits, org: UUID, domain: UUID
) -> None:
    await submits.submit(org, [letter("b@example.com")], door="test")
    await reputation.pause(store, ringer, domain, "for the test")
    submits._domains._seconds = 0  # as if they were over
    with pytest.raises(Refused, match="for the test"):
        await submits.submit(org, [letter("b@example.com")], door="test")


async def test_one_of_three_pauses_nobody_and_complaints_pause_sooner(
    store: Store, submits: Submits, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await happened(store, submits, org, delivered=2, bounced=1)
    await guard(store, LIMITS)
    assert await alarms(admin) == []
    await happened(store, submits, org, delivered=500, complained=3)
    await guard(store, LIMITS)
    assert await alarms(admin) == [("complaints", "paused", None)]


async def test_mail_to_test_addresses_says_nothing_about_a_domain(
    store: Store, submits: Submits, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    email = (await submits.submit(org, [letter("bounced@resend.dev")], door="test")).ids[0]
    bounce = {"bounce": {"type": "Permanent"}, "test": True}
    async with store.worker() as db:
        for type_, detail in (("bounced", bounce), ("delivered", {"test": True}), ("complained", {"test": True})):
            await events.insert(
                db,
                [
                    NewEvent(uuid7(), org, f"email.{type_}", email, datetime.now(UTC), ["bounced@resend.dev"], detail)
                    for _ in range(30)
                ],
            )
    await count(store)
    await guard(store, LIMITS)
    assert await alarms(admin) == []
    async with store.tenant(org) as db:
        rates = await store_.rates(db, domain, 24)
        (day,) = await store_.days(db, domain, 30)
    assert rates is not None and (rates.delivered, rates.bounced, rates.complained) == (0, 0, 0)
    assert (day["sent"], day["bounced"], day["delivered"]) == (1, 0, 0)


async def test_a_warning_becomes_a_pause(
    store: Store, submits: Submits, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await happened(store, submits, org, delivered=195, bounced=6)
    await guard(store, LIMITS)
    assert await alarms(admin) == [("bounces", "warned", None)]
    async with store.tenant(org) as db:
        assert await domains.sending_id(db, "postroom.test") == domain, "a warning stops nothing"
    await happened(store, submits, org, bounced=10)
    await guard(store, LIMITS)
    assert await alarms(admin) == [("bounces", "warned", "pause"), ("bounces", "paused", None)]


async def test_who_ends_a_warning_about_bulk_says_nothing_of_complaints(
    store: Store, ringer: Ringer, submits: Submits, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    """The counts of a domain begin anew where a person takes back what they led to, and nowhere else."""
    await happened(store, submits, org, delivered=5, bounced=10)
    await guard(store, LIMITS)
    bulk = await admin.fetchval(
        "INSERT INTO alarms (id, org_id, domain_id, domain, kind, action, text) "
        "VALUES ($1, $2, $3, 'postroom.test', 'bulk', 'warned', 'it lacks DMARC') RETURNING id",
        *(uuid7(), org, domain),
    )
    await reputation.end(store, ringer, bulk)
    assert (await guard(store, LIMITS)).ended == 0  # type: ignore[union-attr]
    assert ("bounces", "paused", None) in await alarms(admin)


async def test_the_operator_takes_a_pause_back_and_it_does_not_return_for_what_was(
    store: Store, ringer: Ringer, submits: Submits, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await happened(store, submits, org, delivered=5, bounced=10)
    await guard(store, LIMITS)
    (id_,) = [row["id"] for row in await admin.fetch("SELECT id FROM alarms")]
    shown = reputation.shown(await reputation.end(store, ringer, id_))
    assert shown["ended_by"] == "person" and shown["ended_at"]
    async with store.tenant(org) as db:
        assert await domains.sending_id(db, "postroom.test") == domain
    assert (await guard(store, LIMITS)).raised == 0  # type: ignore[union-attr]
    assert reputation.shown(await reputation.end(store, ringer, id_)) == shown, "twice is once"
    with pytest.raises(NotFound):
        await reputation.end(store, ringer, uuid7())


async def test_a_pause_ends_when_what_caused_it_is_a_day_old(
    store: Store, submits: Submits, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await happened(store, submits, org, delivered=5, bounced=10)
    await guard(store, LIMITS)
    await admin.execute("UPDATE event_counts SET at = at - interval '25 hours'")
    done = await guard(store, LIMITS)
    assert done is not None and done.ended == 1
    assert await alarms(admin) == [("bounces", "paused", "rate")]
    async with store.tenant(org) as db:
        assert await domains.sending_id(db, "postroom.test") == domain


async def test_what_the_operator_has_paused_only_he_takes_back(
    store: Store, ringer: Ringer, submits: Submits, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    alarm = await reputation.pause(store, ringer, domain, "spam, says their customer")
    assert (await reputation.pause(store, ringer, domain, "again"))["id"] == alarm["id"]
    assert (await guard(store, LIMITS)).ended == 0  # type: ignore[union-attr]
    with pytest.raises(Refused, match="spam, says"):
        async with store.tenant(org) as db:
            await domains.sending_id(db, "postroom.test")
    with pytest.raises(NotFound):
        await reputation.pause(store, ringer, uuid7(), "nobody's")


async def test_who_deletes_a_paused_domain_and_adds_it_again_is_paused_still(
    store: Store, submits: Submits, org: UUID, domain: UUID, make_domain: MakeDomain, admin: asyncpg.Connection
) -> None:
    await happened(store, submits, org, bounced=10)
    await guard(store, LIMITS)
    await admin.execute("DELETE FROM domains")
    await make_domain(org, "postroom.test")
    with pytest.raises(Refused, match="paused"):
        async with store.tenant(org) as db:
            await domains.sending_id(db, "postroom.test")
    done = await guard(store, LIMITS)
    assert done is not None and (done.raised, done.ended) == (0, 0)
    await admin.execute("UPDATE event_counts SET at = at - interval '25 hours'")
    assert (await guard(store, LIMITS)).ended == 1  # type: ignore[union-attr]
    async with store.tenant(org) as db:
        assert await domains.sending_id(db, "postroom.test")


async def test_alarms_are_events_for_who_asks_for_every_type(
    store: Store, ringer: Ringer, submits: Submits, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await happened(store, submits, org, bounced=10)
    await guard(store, LIMITS)
    (id_,) = [row["id"] for row in await admin.fetch("SELECT id FROM alarms")]
    await reputation.end(store, ringer, id_)
    rows = await admin.fetch("SELECT type, org_id, detail FROM events WHERE object_id = $1 ORDER BY id", id_)
    assert [(row["type"], row["org_id"]) for row in rows] == [("alarm.raised", org), ("alarm.ended", org)]
    assert rows[0]["detail"]["facts"]["bounced"] == 10 and rows[1]["detail"]["ended_by"] == "person"


async def test_another_organization_sees_no_alarm_and_its_domain_of_that_name_still_sends(
    store: Store, ringer: Ringer, submits: Submits, org: UUID, domain: UUID, make_org, make_domain: MakeDomain
) -> None:
    other = await make_org()
    theirs = await make_domain(other, "theirs.test")
    await reputation.pause(store, ringer, domain, "for the test")
    async with store.tenant(other) as db:
        assert await store_.of_domain(db, domain) == []
        assert await domains.sending_id(db, "theirs.test") == theirs


async def test_only_one_process_guards_at_a_time(store: Store, org: UUID) -> None:
    async with store.worker() as db:
        assert await store_.alone(db)
        assert await guard(store, LIMITS) is None
    assert await guard(store, LIMITS) is not None


# ---- keys ------------------------------------------------------------------------------------------------------------


async def make_key(admin: asyncpg.Connection, org: UUID) -> UUID:
    id_ = uuid7()
    await admin.execute(
        "INSERT INTO api_keys (id, org_id, name, token_hash) VALUES ($1, $2, 'shop', $3)", id_, org, id_.bytes
    )
    return id_


async def test_a_key_that_sends_far_more_than_ever_raises_an_alarm_and_is_suspended_where_the_operator_wants_that(
    store: Store, ringer: Ringer, org: UUID, admin: asyncpg.Connection
) -> None:
    key = await make_key(admin, org)
    counts = KeyCounts(store)
    counts.add(org, key, 400, [uuid7()])
    counts.add(org, None, 99_999, [uuid7()])  # a person's
    await counts.write()
    limits = Reputation(key_min_recipients=10, key_factor=10)
    await admin.execute(
        "INSERT INTO key_counts (org_id, key_id, at, sent) VALUES ($1, $2, now() - interval '5 days', 60)", org, key
    )
    assert (await guard(store, limits)).raised == 0, "ten times 60 is not passed"  # type: ignore[union-attr]
    counts.add(org, key, 201, [uuid7()])
    await counts.write()
    assert (await guard(store, limits)).raised == 1  # type: ignore[union-attr]
    assert await alarms(admin) == [("volume", "warned", None)]
    assert await admin.fetchval("SELECT status FROM api_keys WHERE id = $1", key) == "active"

    await guard(store, Reputation(key_min_recipients=10, key_factor=10, suspend_keys=True))
    assert await alarms(admin) == [("volume", "warned", "pause"), ("volume", "suspended", None)]
    assert await admin.fetchval("SELECT status FROM api_keys WHERE id = $1", key) == "suspended"
    await admin.execute("DELETE FROM key_counts")
    assert (await guard(store, limits)).ended == 0, "only a person takes that back"  # type: ignore[union-attr]
    await reputation.end(store, ringer, await admin.fetchval("SELECT id FROM alarms WHERE ended_at IS NULL"))
    assert await admin.fetchval("SELECT status FROM api_keys WHERE id = $1", key) == "active"


async def test_a_key_whose_mail_bounces_raises_an_alarm(
    store: Store, submits: Submits, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    key = await make_key(admin, org)
    done = await submits.submit(org, [letter(f"u{n}@example.com") for n in range(20)], door="test")
    await admin.execute("UPDATE deliveries SET state = 'delivered'")
    await admin.execute("UPDATE deliveries SET state = 'bounced' WHERE email_id = ANY ($1::uuid[])", done.ids[:6])
    counts = KeyCounts(store)
    counts.add(org, key, 20, done.ids)
    await counts.write()
    await guard(store, LIMITS)
    assert await alarms(admin) == [("bounces", "warned", None)]
    facts = await admin.fetchval("SELECT facts FROM alarms")
    assert (facts["sampled"], facts["bounced"]) == (20, 6)


async def test_counts_of_keys_are_forgotten_after_30_days(store: Store, org: UUID, admin: asyncpg.Connection) -> None:
    key = await make_key(admin, org)
    await admin.execute(
        "INSERT INTO key_counts (org_id, key_id, at, sent, sample) VALUES ($1, $2, now() - interval '31 days', 1, $3), "
        "($1, $2, now() - interval '2 days', 1, $3), ($1, $2, now(), 1, $3)",
        *(org, key, [uuid7()]),
    )
    async with store.worker() as db:
        assert await store_.forget_keys(db) == 1
    assert await admin.fetch("SELECT cardinality(sample) FROM key_counts ORDER BY at") == [(0,), (1,)]


# ---- the gate --------------------------------------------------------------------------------------------------------


async def test_a_broadcast_needs_what_large_providers_ask_for(
    store: Store, org: UUID, domain: UUID, admin: asyncpg.Connection, ringer: Ringer
) -> None:
    with pytest.raises(Refused) as refused:
        await gate.check_broadcast(store, org, domain, LIMITS, link_url="http://127.0.0.1")
    for name in ("SPF", "DKIM", "DMARC", "Unsubscribe"):
        assert f"{name}:" in refused.value.public or name == "DMARC"
    await admin.execute(
        "UPDATE domains SET seen = $1, record_status = $2",
        {"dmarc": "v=DMARC1; p=none"},
        {"spf_txt": "verified", "spf_mx": "verified", "dkim:rsa": "verified", "dkim:ed25519": "verified"},
    )
    await gate.check_broadcast(store, org, domain, LIMITS, link_url="https://mail.test")
    await reputation.pause(store, ringer, domain, "for the test")
    for limits in (LIMITS, Reputation(gate=False)):
        with pytest.raises(Refused, match="paused"):
            await gate.check_broadcast(store, org, domain, limits, link_url="https://mail.test")


async def test_without_the_gate_a_broadcast_goes_out_all_the_same(store: Store, org: UUID, domain: UUID) -> None:
    await gate.check_broadcast(store, org, domain, Reputation(gate=False), link_url="http://127.0.0.1")
