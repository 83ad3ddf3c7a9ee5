"""DKIM keys through their lives: rotated, brought along, retired; by what the DNS shows and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mailcore.dns.required import Published
from mailcore.dns.resolver import StaticResolver
from mailcore.flow import dkim
from mailcore.flow.advice import advice
from mailcore.flow.dkim import MOST, OVERLAP, PROPAGATION, Dkim
from mailcore.flow.domains import Domains, records_shown
from mailcore.flow.verify import verify
from mailcore.kit.errors import Conflict, Invalid, NotFound, Refused
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.mailauth.dkim.keys import SigningKey, generate_rsa
from mailcore.queue.bell import Ringer
from mailcore.store import domains
from mailcore.store.session import Store
from outbound.signer import Signer

PUBLISHED = Published("mail.us.test", "include:spf.us.test")
NOW = datetime.now(UTC)
RSA, ED25519 = "rsa-sha256", "ed25519-sha256"
Zones = dict[str, dict[str, list[str]]]


@pytest.fixture
def door(store: Store, ringer: Ringer, keyring: Keyring) -> Dkim:
    return Dkim(store, ringer, keyring, Domains(store, ringer, keyring, PUBLISHED, most=10))


@pytest.fixture
async def zones(admin: asyncpg.Connection, domain: UUID) -> Zones:
    keys = await admin.fetch("SELECT selector, public_txt FROM dkim_keys")
    return {
        "send.postroom.test": {"MX": ["10 mail.us.test."], "TXT": ["v=spf1 include:spf.us.test ~all"]},
        "postroom.test": {"MX": ["10 mail.us.test."]},
        **{f"{key['selector']}._domainkey.postroom.test": {"TXT": [key["public_txt"]]} for key in keys},
    }


Advance = Callable[..., Awaitable[None]]


@pytest.fixture
def advance(store: Store, keyring: Keyring, domain: UUID, zones: Zones) -> Advance:
    async def advance(now: datetime = NOW, failing: frozenset[str] = frozenset()) -> None:
        resolver = StaticResolver(zones, failing=failing)
        await dkim.advance(store, resolver, keyring, domain, PUBLISHED, now=now)

    return advance


async def _states(admin: asyncpg.Connection) -> dict[str, list[str]]:
    rows = await admin.fetch("SELECT algorithm, state FROM dkim_keys ORDER BY id")
    return {each: [row["state"] for row in rows if row["algorithm"] == each] for each in (RSA, ED25519)}


async def _publish(admin: asyncpg.Connection, zones: Zones) -> None:
    for key in await admin.fetch("SELECT selector, public_txt FROM dkim_keys WHERE state = 'pending'"):
        zones[f"{key['selector']}._domainkey.postroom.test"] = {"TXT": [key["public_txt"]]}


async def _events(admin: asyncpg.Connection) -> list[Any]:
    return [
        row["detail"]
        for row in await admin.fetch("SELECT * FROM events WHERE type = 'domain.updated' ORDER BY created_at")
    ]


async def _signing(store: Store, keyring: Keyring, domain: UUID) -> list[SigningKey]:
    return list((await Signer(store, keyring).identities([domain]))[domain].keys)


async def _shown(store: Store, org: UUID, domain: UUID) -> tuple[list[Any], list[Any]]:
    async with store.tenant(org) as db:
        row = await domains.find(db, domain)
    assert row is not None
    records = [each for each in records_shown(row, PUBLISHED) if each["record"] == "DKIM"]
    return records, [each for each in advice(row, PUBLISHED) if each["topic"] == "DKIM"]


async def test_a_rotation_from_end_to_end(
    door: Dkim,
    store: Store,
    keyring: Keyring,
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    zones: Zones,
    advance: Advance,
) -> None:
    """Made, not used before it is seen, then used; the old one is kept published, and then forgotten."""
    old = {key.selector for key in await _signing(store, keyring, domain)}
    assert len(await door.rotate(org, domain)) == 2
    await advance()
    assert await _states(admin) == {RSA: ["active", "pending"], ED25519: ["active", "pending"]}
    assert {key.selector for key in await _signing(store, keyring, domain)} == old, "nobody could verify the new ones"
    records, said = await _shown(store, org, domain)
    assert [each["status"] for each in records] == ["verified", "verified", "pending", "pending"]
    assert [(each["status"], each["type"]) for each in said] == [("missing", "TXT")] * 2
    assert {each["value"] for each in said} == {each["value"] for each in records[2:]}

    await _publish(admin, zones)
    await advance()
    assert await _states(admin) == {RSA: ["active", "published"], ED25519: ["active", "published"]}
    await advance(NOW + PROPAGATION - timedelta(seconds=1))
    assert {key.selector for key in await _signing(store, keyring, domain)} == old, "not before all servers have it"
    used = NOW + PROPAGATION
    await advance(used)
    assert await _states(admin) == {RSA: ["retiring", "active"], ED25519: ["retiring", "active"]}
    new = await _signing(store, keyring, domain)
    assert [key.algorithm for key in new] == [RSA, ED25519], "two signatures, as before"
    assert not old & {key.selector for key in new}
    assert [zones[key.record_name]["TXT"] for key in new] == [[key.public_txt] for key in new]
    records, said = await _shown(store, org, domain)
    assert len(records) == 4 and {each["status"] for each in records} == {"verified"}
    assert all("published until" in each["message"] for each in said)

    await advance(used + OVERLAP - timedelta(seconds=1))
    assert (await _states(admin))[RSA] == ["retiring", "active"]
    await advance(used + OVERLAP)
    assert await _states(admin) == {RSA: ["retired", "active"], ED25519: ["retired", "active"]}
    assert await admin.fetchval("SELECT count(*) FROM dkim_keys WHERE private_sealed IS NULL") == 2, "forgotten"
    records, said = await _shown(store, org, domain)
    assert len(records) == 2 and all("may be removed" in each["message"] for each in said)
    for selector in old:
        del zones[f"{selector}._domainkey.postroom.test"]
    await advance(used + OVERLAP + timedelta(days=1))
    assert (await _shown(store, org, domain))[1] == [], "done: nothing to say"
    states = [sorted({key["state"] for key in event["dkim_keys"]}) for event in await _events(admin)]
    assert states == [
        ["active", "pending"],
        ["active", "published"],
        ["active", "retiring"],
        ["active", "retired"],
        ["active"],
    ]


async def test_the_domain_stays_verified_through_a_rotation(
    door: Dkim, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID, zones: Zones, advance: Advance
) -> None:
    async def look(now: datetime) -> None:
        await verify(store, StaticResolver(zones), domain, PUBLISHED, now=now)
        assert await admin.fetchval("SELECT status FROM domains") == "verified"
        assert set((await admin.fetchval("SELECT record_status FROM domains")).values()) == {"verified"}

    await look(NOW)
    await door.rotate(org, domain)
    await look(NOW)
    await _publish(admin, zones)
    await advance()
    await look(NOW)
    await advance(NOW + PROPAGATION)
    active = {f"dkim:{row['selector']}" for row in await admin.fetch("SELECT selector FROM dkim_keys WHERE active")}
    status = await admin.fetchval("SELECT record_status FROM domains")
    assert {name: value for name, value in status.items() if name.startswith("dkim:")} == dict.fromkeys(
        active, "verified"
    )
    await look(NOW + PROPAGATION)


async def test_a_look_at_the_domain_that_began_before_is_not_written(
    door: Dkim, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID, zones: Zones, advance: Advance
) -> None:
    class Meanwhile(StaticResolver):
        """Keys change while this look is under way, and the old records are gone when it asks for them."""

        async def mx(self, name: str) -> Any:
            if not self.zones["done"]:
                self.zones["done"] = {"TXT": [""]}  # type: ignore[index]
                await advance(NOW + PROPAGATION)
            return await super().mx(name)

    await verify(store, StaticResolver(zones), domain, PUBLISHED, now=NOW)
    await door.rotate(org, domain)
    await _publish(admin, zones)
    await advance()
    before = await admin.fetchval("SELECT checked_at FROM domains")
    await verify(store, Meanwhile({**zones, "done": {}}), domain, PUBLISHED, now=NOW + timedelta(hours=1))
    assert await admin.fetchval("SELECT checked_at FROM domains") == before
    assert await admin.fetchval("SELECT status FROM domains") == "verified"


async def test_a_record_that_goes_again_before_it_is_used(
    door: Dkim, admin: asyncpg.Connection, org: UUID, domain: UUID, zones: Zones, advance: Advance
) -> None:
    await door.rotate(org, domain)
    await _publish(admin, zones)
    await advance()
    there = {name: zones.pop(name) for name in list(zones) if "postroom-" in name}
    await advance(NOW + timedelta(hours=1), failing=frozenset(there))
    assert (await _states(admin))[RSA] == ["active", "published"], "no answer says nothing, and begins nothing"
    await advance(NOW + timedelta(hours=1))
    assert await _states(admin) == {RSA: ["active", "pending"], ED25519: ["active", "pending"]}
    zones |= there
    await advance(NOW + timedelta(hours=2))
    await advance(NOW + timedelta(hours=2, minutes=5))
    assert (await _states(admin))[RSA] == ["active", "published"], "its ten minutes begin anew"


async def test_somebody_elses_key_under_the_name_is_not_ours(
    door: Dkim, admin: asyncpg.Connection, org: UUID, domain: UUID, zones: Zones, advance: Advance
) -> None:
    await door.rotate(org, domain)
    for key in await admin.fetch("SELECT selector FROM dkim_keys WHERE state = 'pending'"):
        zones[f"{key['selector']}._domainkey.postroom.test"] = {"TXT": [generate_rsa(1024)[1]]}
    await advance()
    assert (await _states(admin))[RSA] == ["active", "pending"]


async def test_asking_twice_makes_no_more_keys(door: Dkim, admin: asyncpg.Connection, org: UUID, domain: UUID) -> None:
    first = await door.rotate(org, domain)
    assert await door.rotate(org, domain) == first
    answers = await asyncio.gather(
        *(door.create(org, domain, RSA) for _ in range(2)), door.rotate(org, domain), return_exceptions=True
    )
    assert [type(each) for each in answers] == [Conflict, Conflict, list]
    assert await _states(admin) == {RSA: ["active", "pending"], ED25519: ["active", "pending"]}
    events = await _events(admin)
    assert len(events) == 1


async def test_rotations_at_the_same_time_make_one(
    door: Dkim, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    answers = await asyncio.gather(*(door.rotate(org, domain) for _ in range(3)), return_exceptions=True)
    assert any(isinstance(each, list) for each in answers)
    assert all(isinstance(each, list | Conflict) for each in answers), answers
    assert await _states(admin) == {RSA: ["active", "pending"], ED25519: ["active", "pending"]}


async def test_one_algorithm_alone(
    door: Dkim, admin: asyncpg.Connection, org: UUID, domain: UUID, zones: Zones, advance: Advance
) -> None:
    await door.rotate(org, domain, [ED25519])
    await _publish(admin, zones)
    await advance()
    await advance(NOW + PROPAGATION)
    assert await _states(admin) == {RSA: ["active"], ED25519: ["retiring", "active"]}


# ---- keys of one's own -----------------------------------------------------------------------------------------------


def _pem(bits: int = 1024, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    key = generate_private_key(65537, bits)
    return key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()


async def test_a_key_of_ones_own_signs_once_it_is_published(
    door: Dkim,
    store: Store,
    keyring: Keyring,
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    zones: Zones,
    advance: Advance,
) -> None:
    pem = _pem(2048, PrivateFormat.TraditionalOpenSSL)
    key_id = await door.bring(org, domain, "mine", pem)
    row = await admin.fetchrow("SELECT * FROM dkim_keys WHERE id = $1", key_id)
    assert row is not None
    assert (row["state"], row["origin"], row["algorithm"]) == ("pending", "imported", RSA)
    body = "".join(pem.split("\n")[1:-2]).encode()
    assert body[:40] not in row["private_sealed"], "sealed"
    await _publish(admin, zones)
    await advance()
    await advance(NOW + PROPAGATION)
    rsa = (await _signing(store, keyring, domain))[0]
    assert rsa.selector == "mine"
    assert zones["mine._domainkey.postroom.test"]["TXT"] == [rsa.public_txt]


async def test_a_weak_key_of_ones_own_is_taken_with_a_warning(
    door: Dkim, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID, zones: Zones, advance: Advance
) -> None:
    await door.bring(org, domain, "weak", _pem(1024))
    await _publish(admin, zones)
    await advance()
    await advance(NOW + PROPAGATION)
    said = (await _shown(store, org, domain))[1]
    assert any(each["status"] == "warning" and "1024 bits" in each["message"] for each in said), said


async def test_a_selector_is_used_once(door: Dkim, org: UUID, domain: UUID) -> None:
    with pytest.raises(Conflict):
        await door.bring(org, domain, "rsa", _pem())
    with pytest.raises(Conflict):
        await door.create(org, domain, RSA, "ed25519")
    with pytest.raises(Invalid, match="selector"):
        await door.create(org, domain, RSA, ".".join(["a" * 63] * 4))
    await door.bring(org, domain, "mine", _pem())
    with pytest.raises(Conflict, match="waits"):
        await door.bring(org, domain, "other", _pem())


async def test_a_domain_that_has_never_sent_takes_a_new_key_at_once(
    door: Dkim, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    await admin.execute(
        "UPDATE domains SET status = 'pending', verified_at = NULL, record_status = '{\"dkim:rsa\": \"pending\"}'"
    )
    await door.bring(org, domain, "mine", _pem())
    assert await _states(admin) == {RSA: ["retired", "active"], ED25519: ["active"]}
    assert await admin.fetchval("SELECT record_status FROM domains") == {}
    (event,) = await _events(admin)
    names = [each["name"] for each in event["records"] if each["record"] == "DKIM"]
    assert names == ["mine._domainkey", "ed25519._domainkey"]


async def test_there_is_a_limit(
    door: Dkim, admin: asyncpg.Connection, org: UUID, domain: UUID, advance: Advance
) -> None:
    await admin.execute(
        "INSERT INTO dkim_keys (id, org_id, domain_id, selector, algorithm, public_txt, state, active_since, retired_at) "
        "SELECT gen_random_uuid(), $1, $2, 'old' || n, 'rsa-sha256', 'p=', 'retired', $3, $3 FROM generate_series(3, $4) n",
        *(org, domain, NOW, MOST),
    )
    for ask in (door.rotate(org, domain), door.create(org, domain, RSA), door.bring(org, domain, "x", _pem())):
        with pytest.raises(Refused, match="50 DKIM keys"):
            await ask
    await advance(NOW + timedelta(days=91))
    await door.rotate(org, domain)


# ---- retiring --------------------------------------------------------------------------------------------------------


async def _key(admin: asyncpg.Connection, algorithm: str, state: str) -> UUID:
    found: UUID = await admin.fetchval("SELECT id FROM dkim_keys WHERE algorithm = $1 AND state = $2", algorithm, state)
    return found


async def test_the_key_that_all_receivers_know_is_never_taken_away(
    door: Dkim, store: Store, keyring: Keyring, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    for at_once in (False, True):
        with pytest.raises(Invalid, match="Rotate first"):
            await door.retire(org, domain, await _key(admin, RSA, "active"), at_once=at_once)
    await door.retire(org, domain, await _key(admin, ED25519, "active"))
    assert await _states(admin) == {RSA: ["active"], ED25519: ["retiring"]}
    assert [key.algorithm for key in await _signing(store, keyring, domain)] == [RSA]
    await door.create(org, domain, ED25519)
    assert (await _states(admin))[ED25519] == ["retiring", "pending"]


async def test_a_key_that_others_may_have_is_retired_at_once(
    door: Dkim, admin: asyncpg.Connection, org: UUID, domain: UUID, zones: Zones, advance: Advance
) -> None:
    await door.rotate(org, domain)
    await _publish(admin, zones)
    await advance()
    await advance(NOW + PROPAGATION)
    key_id = await _key(admin, RSA, "retiring")
    await door.retire(org, domain, key_id)
    assert await _key(admin, RSA, "retiring") == key_id, "it retires already"
    await door.retire(org, domain, key_id, at_once=True)
    row = await admin.fetchrow("SELECT * FROM dkim_keys WHERE id = $1", key_id)
    assert row is not None
    assert (row["state"], row["private_sealed"]) == ("retired", None)


async def test_a_key_that_waits_is_dropped(
    door: Dkim, admin: asyncpg.Connection, org: UUID, domain: UUID, advance: Advance
) -> None:
    for key_id in await door.rotate(org, domain):
        await door.retire(org, domain, key_id)
        await door.retire(org, domain, key_id)
    assert await _states(admin) == {RSA: ["active", "retired"], ED25519: ["active", "retired"]}
    with pytest.raises(NotFound):
        await door.retire(org, domain, uuid7())
    await advance(NOW + timedelta(hours=25))
    assert await _states(admin) == {RSA: ["active"], ED25519: ["active"]}, "nobody has ever met them"


async def test_a_record_that_goes_too_early_is_missed(
    door: Dkim, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID, zones: Zones, advance: Advance
) -> None:
    await door.rotate(org, domain)
    await _publish(admin, zones)
    await advance()
    await advance(NOW + PROPAGATION)
    await advance(NOW + timedelta(days=1))
    before = len(await _events(admin))
    del zones["rsa._domainkey.postroom.test"]
    await advance(NOW + timedelta(days=2))
    said = (await _shown(store, org, domain))[1]
    assert [each["status"] for each in said if "publish it again" in each["message"]] == ["warning"]
    assert len(await _events(admin)) == before + 1


# ---- when ------------------------------------------------------------------------------------------------------------


async def _due(admin: asyncpg.Connection) -> float | None:
    return await admin.fetchval("SELECT extract(epoch FROM dkim_due_at - now()) FROM domains")  # type: ignore[no-any-return]


async def test_looks_come_when_something_is_due(
    door: Dkim, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID, zones: Zones, advance: Advance
) -> None:
    assert await _due(admin) is None
    assert await dkim.claim_due(store) == []
    await door.rotate(org, domain)
    assert 20 < (await _due(admin) or 0) < 70
    await advance(datetime.now(UTC) + timedelta(hours=2))  # NOW may be long ago: the key was made just now
    assert 600 < (await _due(admin) or 0) < 800, "less often with time"
    await advance(NOW + timedelta(days=30))
    assert 3500 < (await _due(admin) or 0) < 4000
    async with store.tenant(org) as db:
        await domains.begin_verification(db, domain)
    assert (await _due(admin) or 0) <= 0, "whoever asks for a look at the domain asks for one at its keys"
    assert await dkim.claim_due(store) == [domain]
    assert await dkim.claim_due(store) == []
    assert not await dkim.claim_one(store, domain)
    for key in await admin.fetch("SELECT id FROM dkim_keys WHERE state = 'pending'"):
        await door.retire(org, domain, key["id"])
    await admin.execute("DELETE FROM dkim_keys WHERE NOT active")
    await advance()
    assert await _due(admin) is None


async def test_keys_change_on_a_schedule(
    door: Dkim, store: Store, admin: asyncpg.Connection, org: UUID, domain: UUID, zones: Zones, advance: Advance
) -> None:
    await door.schedule(org, domain, 180)
    assert await dkim.claim_due(store) == [domain]
    await advance(NOW + timedelta(days=179))
    assert await _states(admin) == {RSA: ["active"], ED25519: ["active"]}
    due = NOW + timedelta(days=180, hours=1)
    await advance(due)
    assert await _states(admin) == {RSA: ["active", "pending"], ED25519: ["active", "pending"]}
    await advance(due + timedelta(days=200))
    assert (await _states(admin))[RSA] == ["active", "pending"], (
        "never published: the old ones go on, and no more are made"
    )
    await _publish(admin, zones)
    await advance(due)
    await advance(due + PROPAGATION)
    await advance(due + PROPAGATION + timedelta(days=179))
    assert (await _states(admin))[RSA] == ["retired", "active"]
    await advance(due + PROPAGATION + timedelta(days=180))
    assert (await _states(admin))[RSA] == ["retired", "active", "pending"], "and again"
    await door.schedule(org, domain, None)
    assert await admin.fetchval("SELECT dkim_rotate_days FROM domains") is None


async def test_another_organization_sees_and_does_nothing(
    door: Dkim,
    store: Store,
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    make_org: Callable[[], Awaitable[UUID]],
) -> None:
    stranger = await make_org()
    key_id = await _key(admin, ED25519, "active")
    for ask in (
        door.rotate(stranger, domain),
        door.create(stranger, domain, RSA),
        door.bring(stranger, domain, "x", _pem()),
        door.retire(stranger, domain, key_id),
        door.schedule(stranger, domain, 90),
    ):
        with pytest.raises(NotFound):
            await ask
    assert await _states(admin) == {RSA: ["active"], ED25519: ["active"]}


async def test_a_domain_that_goes_meanwhile(
    store: Store, keyring: Keyring, domain: UUID, admin: asyncpg.Connection
) -> None:
    await admin.execute("DELETE FROM domains")
    assert await dkim.advance(store, StaticResolver({}), keyring, domain, PUBLISHED, now=NOW) == 0
