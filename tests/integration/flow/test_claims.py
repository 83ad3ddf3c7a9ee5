"""A domain that another organization has verified, claimed by who controls its DNS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from mailcore.blob.memory import MemoryBlobs
from mailcore.dns.required import Published
from mailcore.dns.resolver import StaticResolver
from mailcore.flow.claims import Claims, claim_due, record, settle
from mailcore.flow.domains import Domains
from mailcore.flow.submit import NewEmail, Submits
from mailcore.kit.errors import Invalid, NotFound, Refused
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.store.domains import NewDomain
from mailcore.store.session import Store

PUBLISHED = Published("mail.us.test", "include:spf.us.test")
MakeDomain = Callable[[UUID, str], Awaitable[UUID]]


@pytest.fixture
def door(store: Store, ringer: Ringer, keyring: Keyring) -> Domains:
    return Domains(store, ringer, keyring, PUBLISHED, most=3)


@pytest.fixture
def claims(store: Store, ringer: Ringer, door: Domains) -> Claims:
    return Claims(store, ringer, door)


@pytest.fixture
async def other(make_org: Callable[[], Awaitable[UUID]]) -> UUID:
    """Who claims; `org` has postroom.test."""
    return await make_org()


def wanted(org_id: UUID, name: str = "postroom.test", **changed: Any) -> NewDomain:
    given: dict[str, Any] = {
        "id": uuid7(),
        "org_id": org_id,
        "name": name,
        "region": "eu-west-1",
        "sending": True,
        "receiving": False,
        "custom_return_path": "send",
        "open_tracking": False,
        "click_tracking": False,
        "tracking_subdomain": None,
        "tls": "opportunistic",
        "created_at": datetime.now(UTC),
    }
    return NewDomain(**{**given, **changed})


@pytest.fixture
async def aged(admin: asyncpg.Connection, domain: UUID) -> None:
    await admin.execute("UPDATE domains SET owned_since = now() - interval '25 hours'")


async def _settle(store: Store, claim: Any, *texts: str, now: datetime | None = None, failing: bool = False) -> None:
    zones = {"postroom.test": {"TXT": list(texts)}}
    resolver = StaticResolver(zones, failing=frozenset(zones) if failing else frozenset())
    await settle(store, resolver, claim["id"], PUBLISHED, now=now or datetime.now(UTC))


async def _state(admin: asyncpg.Connection, claim: Any) -> tuple[str, str | None]:
    row = await admin.fetchrow("SELECT status, blocked_reason FROM domain_claims WHERE id = $1", claim["id"])
    assert row is not None
    return row["status"], row["blocked_reason"]


async def test_a_proven_claim_moves_the_domain(
    claims: Claims, store: Store, admin: asyncpg.Connection, org: UUID, other: UUID, domain: UUID, aged: None
) -> None:
    claim, made = await claims.start(wanted(other))
    assert (made, claim["status"], claim["name"]) == (True, "pending", "postroom.test")
    assert claim["expires_at"] - claim["created_at"] == timedelta(days=7)
    keys = await admin.fetch("SELECT selector FROM dkim_keys WHERE domain_id = $1", claim["domain_id"])
    assert {key["selector"] for key in keys}.isdisjoint({"rsa", "ed25519", "postroom", "postroom-ed25519"}), (
        "published beside its owner's, not in their place"
    )
    await claims.ask(other, claim["domain_id"])
    assert await claim_due(store) == [claim["id"]]
    for texts in ((), ("resend-domain-verification=",), (record(claim) + "0",), ("v=spf1 -all",)):
        await _settle(store, claim, *texts)
        assert await _state(admin, claim) == ("pending", None)
    assert await admin.fetchval("SELECT status FROM domains WHERE id = $1", domain) == "verified"
    await _settle(store, claim, "v=spf1 -all", record(claim))
    assert await _state(admin, claim) == ("completed", None)
    row = await admin.fetchrow("SELECT * FROM domains WHERE name = 'postroom.test'")
    assert row is not None, "one is left"
    assert (row["id"], row["org_id"], row["status"]) == (claim["domain_id"], other, "pending")
    assert row["check_due_at"] <= datetime.now(UTC), "and it is looked at"
    events = await admin.fetch("SELECT org_id, type, detail FROM events ORDER BY created_at")
    assert [(event["org_id"], event["type"]) for event in events] == [
        (other, "domain.created"),
        (org, "domain.deleted"),
        (other, "domain.updated"),
    ]
    for event in events:
        foreign = org if event["org_id"] == other else other
        assert str(foreign) not in str(event["detail"])
        assert {each["record"] for each in event["detail"]["records"]} >= {"SPF", "DKIM"}
    await _settle(store, claim, record(claim))  # a chore that comes twice
    assert len(await admin.fetch("SELECT FROM events")) == 3


async def test_an_identical_claim_is_given_again(claims: Claims, other: UUID, domain: UUID) -> None:
    first, _ = await claims.start(wanted(other))
    again, made = await claims.start(wanted(other))
    assert (again["id"], made) == (first["id"], False)
    changed, made = await claims.start(wanted(other, open_tracking=True))
    assert (made, changed["domain_id"]) == (True, first["domain_id"])
    assert changed["id"] != first["id"] and changed["token"] != first["token"]
    assert (await claims.latest(other, first["domain_id"]))["id"] == changed["id"]


async def test_the_older_claim_is_superseded(
    claims: Claims, store: Store, admin: asyncpg.Connection, other: UUID, domain: UUID, aged: None
) -> None:
    first, _ = await claims.start(wanted(other))
    await claims.start(wanted(other, region="us-east-1"))
    assert await _state(admin, first) == ("superseded", None)
    await admin.execute("UPDATE domain_claims SET asked_at = now()")
    await _settle(store, first, record(first))
    assert await _state(admin, first) == ("superseded", None), "its record is worth nothing any more"


async def test_of_two_claimants_the_second_one_has_to_begin_again(
    claims: Claims, store: Store, admin: asyncpg.Connection, other: UUID, domain: UUID, aged: None, make_org: Any
) -> None:
    third = await make_org()
    mine, _ = await claims.start(wanted(other))
    theirs, _ = await claims.start(wanted(third))
    await claims.ask(other, mine["domain_id"])
    await _settle(store, mine, record(mine))
    assert (await _state(admin, mine), await _state(admin, theirs)) == (("completed", None), ("superseded", None))


async def test_silence_and_expiry(
    claims: Claims, store: Store, admin: asyncpg.Connection, other: UUID, domain: UUID, aged: None
) -> None:
    claim, _ = await claims.start(wanted(other))
    await _settle(store, claim, record(claim))
    assert await _state(admin, claim) == ("pending", None), "nobody has asked for a look"
    await claims.ask(other, claim["domain_id"])
    await _settle(store, claim, failing=True)
    assert await _state(admin, claim) == ("pending", None)
    await admin.execute("UPDATE domain_claims SET check_due_at = now()")
    assert await claim_due(store) == [claim["id"]]
    await _settle(store, claim, record(claim), now=claim["expires_at"])
    assert await _state(admin, claim) == ("expired", None)
    assert await admin.fetchval("SELECT status FROM domains WHERE id = $1", domain) == "verified"
    assert await admin.fetchval("SELECT check_due_at FROM domain_claims") is None


async def test_what_blocks_a_claim(
    claims: Claims,
    store: Store,
    ringer: Ringer,
    admin: asyncpg.Connection,
    org: UUID,
    other: UUID,
    domain: UUID,
) -> None:
    claim, _ = await claims.start(wanted(other))
    await claims.ask(other, claim["domain_id"])
    await admin.execute("UPDATE domains SET owned_since = now() - interval '1 hour' WHERE id = $1", domain)
    await _settle(store, claim, record(claim))
    assert await _state(admin, claim) == ("blocked", "grace_period")
    await admin.execute("UPDATE domains SET owned_since = now() - interval '25 hours' WHERE id = $1", domain)
    submits = Submits(store, ringer, MemoryBlobs())
    later = datetime.now(UTC) + timedelta(days=1)
    to = parse_address("you@example.com")
    await submits.submit(
        org,
        [NewEmail("a@postroom.test", "postroom.test", [str(to)], [to], "s", text="t", scheduled_at=later)],
        door="test",
    )
    await _settle(store, claim, record(claim))
    assert await _state(admin, claim) == ("blocked", "pending_scheduled_emails")
    await admin.execute("DELETE FROM queue")
    await _settle(store, claim, record(claim))
    assert await _state(admin, claim) == ("blocked", "recent_owner_activity")
    await _settle(store, claim, failing=True)
    assert await _state(admin, claim) == ("blocked", "recent_owner_activity")
    await _settle(store, claim)
    assert await _state(admin, claim) == ("pending", None), "the record is gone"
    await _settle(store, claim, record(claim), now=datetime.now(UTC) + timedelta(hours=25))
    assert await _state(admin, claim) == ("completed", None)


async def test_a_domain_that_is_nobodys_any_more_needs_no_transfer(
    claims: Claims, store: Store, admin: asyncpg.Connection, other: UUID, domain: UUID
) -> None:
    claim, _ = await claims.start(wanted(other))
    await claims.ask(other, claim["domain_id"])
    await admin.execute("UPDATE domains SET status = 'failed' WHERE id = $1", domain)
    await _settle(store, claim, record(claim))
    assert await _state(admin, claim) == ("completed", None)
    assert await admin.fetchval("SELECT count(*) FROM domains") == 2, "its row stays its owner's"


async def test_what_cannot_be_claimed(
    claims: Claims, door: Domains, admin: asyncpg.Connection, org: UUID, other: UUID, domain: UUID
) -> None:
    with pytest.raises(Invalid, match="nothing to claim"):
        await claims.start(wanted(other, "free.test"))
    with pytest.raises(Refused, match="registered already"):
        await claims.start(wanted(org))
    for n in range(3):
        await door.create(wanted(other, f"d{n}.test"))
    with pytest.raises(Refused, match="limit of 3"):
        await claims.start(wanted(other))
    with pytest.raises(NotFound):
        await claims.latest(other, domain)
    with pytest.raises(NotFound, match="claim"):
        await claims.ask(org, domain)


async def test_a_domain_that_was_there_before_is_claimed_as_it_is(
    claims: Claims, admin: asyncpg.Connection, other: UUID, domain: UUID
) -> None:
    own = uuid7()
    await admin.execute(
        "INSERT INTO domains (id, org_id, name, status, tracking_subdomain) VALUES ($1, $2, 'postroom.test', 'failed', 'l')",
        *(own, other),
    )
    claim, _ = await claims.start(wanted(other, tracking_subdomain="new", open_tracking=True))
    assert claim["domain_id"] == own
    row = await admin.fetchrow("SELECT * FROM domains WHERE id = $1", own)
    assert row is not None
    assert (row["tracking_subdomain"], row["open_tracking"], row["region"]) == ("l", True, "eu-west-1")


async def test_a_removed_placeholder_cancels_the_claim(
    claims: Claims, door: Domains, store: Store, admin: asyncpg.Connection, other: UUID, domain: UUID
) -> None:
    claim, _ = await claims.start(wanted(other))
    await door.remove(other, claim["domain_id"])
    assert await _state(admin, claim) == ("canceled", None)
    with pytest.raises(NotFound):
        await claims.latest(other, claim["domain_id"])
    await _settle(store, claim, record(claim))
    assert await _state(admin, claim) == ("canceled", None)
